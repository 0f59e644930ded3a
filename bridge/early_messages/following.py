"""Delivery of early messages to instances that appear on another engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bridge.core.commands import Command, SignalEntity
from bridge.core.origin import MessageOrigin
from bridge.engines.commands import moving
from bridge.engines.commands.command_runner import CommandRunner
from bridge.routing.moves import Engines, MovingRoutes


class FollowingExecutor:
    """Executor of the messages that wait on one engine, wherever their instance is."""

    def __init__(self, engine: str, runners: Mapping[str, CommandRunner], routes: Callable[[], MovingRoutes]) -> None:
        """Create the executor.

        engine: name of the engine where the messages wait.
        runners: of all engines by name.
        routes: returns the routes in use.
        """
        self._engine = engine
        self._runners = runners
        self._routes = routes

    async def execute(self, command: Command, origin: MessageOrigin | None = None) -> None:
        """Execute a command on the engine that has its instance. Raises: EngineError."""
        engines = Engines(self._engine)
        if origin is not None and not isinstance(command, SignalEntity):
            engines = self._routes().of_message(origin.route, command.instance_id, self._engine)
        if origin is None or not engines.others:
            await self._runners[self._engine].execute(command, origin)
            return
        enter = self._runners.__getitem__
        place = await moving.find(command, engines.start, engines.others, enter)
        await moving.execute(command, origin, engines.start, place, enter)
