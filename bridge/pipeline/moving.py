"""One command of a route whose instances move to another engine."""

from __future__ import annotations

from collections.abc import Mapping

from bridge.core.commands import RoutedCommand, ScheduleOrchestration, SignalEntity, StartFirst, StartOrRaise, WaitFor
from bridge.core.errors import AlreadyTaken, EarlierMessagesWait, InstanceAlreadyExists
from bridge.core.instance_protocol import InstanceState
from bridge.core.origin import MessageOrigin
from bridge.core.stored_message import StoredMessage
from bridge.engines.commands import moving
from bridge.pipeline.settings import EnginePort, MovingPort


class MovingStep:
    """Execution of one command on the engine that has its instance.

    A message for an unknown instance waits on `RoutedCommand.engine`, but behind earlier messages of the instance that
    wait on another engine. These are delivered wherever the instance appears.

    engine: name of the engine of the last call; an error is its error.
    """

    def __init__(self, step: RoutedCommand, engines: Mapping[str, EnginePort]) -> None:
        self.engine = step.engine
        self._step = step
        self._engines = engines
        self._calls = False

    async def execute(self, origin: MessageOrigin) -> None:
        """Execute the command. Raises: EngineError."""
        step = self._step
        try:
            place = await moving.find(step.command, step.engine, step.others, self._enter)
            await self._check_order(place, origin)
            try:
                await moving.execute(step.command, origin, step.engine, place, self._enter)
            except (InstanceAlreadyExists, AlreadyTaken):
                # An earlier attempt may have started the instance and failed before it notified the others
                await self._notify_others()
                raise
            await self._notify_others()
        finally:
            self._leave()

    async def store_early(self, origin: MessageOrigin, message: StoredMessage, seconds: float) -> None:
        """Keep the command until its instance appears, for at most `seconds`. Raises: EngineError, InvalidCommand."""
        step = self._step
        try:
            for name in (*step.others, step.engine):
                port = self._enter(name)
                if name == step.engine or await port.waits(step.command, origin):
                    store = self._engines[name].store_early
                    assert store is not None
                    await store(step.command, origin, message, seconds)
                    return
        finally:
            self._leave()

    async def _check_order(self, place: str, origin: MessageOrigin) -> None:
        """Check that no earlier message of the instance waits on another engine than `place`, which checks its own.

        Raises: EarlierMessagesWait, AlreadyTaken, EngineError.
        """
        step, command = self._step, self._step.command
        for name in (step.engine, *step.others):
            if name == place or not await self._enter(name).waits(command, origin):
                continue
            assert not isinstance(command, SignalEntity)
            if place != step.engine or await self._enter(place).read_state(command) is not InstanceState.MISSING:
                await self._enter(name).notify(command.instance_id)
            elif isinstance(command, ScheduleOrchestration | StartOrRaise) or not isinstance(
                command.on_missing, WaitFor
            ):
                continue  # while the instance is missing, the command overtakes no message
            self._enter(name)
            raise EarlierMessagesWait(
                f"{command.instance_id!r}: earlier messages wait for the instance on engine {name}"
            )

    async def _notify_others(self) -> None:
        """Notify the messages that wait on other engines, after a command that may have started the instance.

        The engine of the start notifies its own. The others are read after the start: a message is stored before it
        looks for its instance, so one of both finds the other.
        """
        command = self._step.command
        if isinstance(command, SignalEntity):
            return
        if isinstance(command, ScheduleOrchestration | StartOrRaise) or isinstance(command.on_missing, StartFirst):
            done = self.engine
            for name in (self._step.engine, *self._step.others):
                if name != done:
                    await self._enter(name).notify(command.instance_id)

    def _enter(self, name: str) -> MovingPort:
        """Note that the following call is one of this engine, for its breaker."""
        self._leave()
        port = self._engines[name]
        assert port.moving is not None
        self.engine, self._calls = name, True
        port.breaker.begin()
        return port.moving

    def _leave(self) -> None:
        if self._calls:
            self._calls = False
            self._engines[self.engine].breaker.end()
