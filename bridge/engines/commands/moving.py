"""Commands for instances that move to another engine: the engine of each command.

A route with `engine: {start: new, find: [new, old]}` executes a command where its instance is, and starts instances on
`new` alone. A command looks at `old` once. It looks at `new` only when the instance has finished on `old`: a later run
with the same id counts before it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from bridge.core.commands import Command
from bridge.core.errors import InstanceNotFound
from bridge.core.instance_protocol import InstanceState
from bridge.core.origin import MessageOrigin

if TYPE_CHECKING:
    from bridge.engines.commands.instance_reader import PreviousRun


class StartsElsewhere(Exception):
    """Raised when a command needs a start, which belongs to another engine.

    previous: finished run that the start replaces; None when the instance is gone.
    """

    def __init__(self, previous: PreviousRun | None) -> None:
        super().__init__("the instance starts on another engine")
        self.previous = previous


class InstanceEngine(Protocol):
    """Engine as commands of moving instances use it. All methods raise EngineError."""

    def read_state(self, command: Command, /) -> Awaitable[InstanceState]:
        """State of the instance of a command. An entity that has a state is running."""
        ...

    def execute(self, command: Command, origin: MessageOrigin, /) -> Awaitable[None]:
        """Execute a command."""
        ...

    def execute_found(self, command: Command, origin: MessageOrigin, /) -> Awaitable[None]:
        """Execute a command for an instance that is here, without a start. Raises: StartsElsewhere."""
        ...

    def restart(self, command: Command, origin: MessageOrigin, previous: PreviousRun, /) -> Awaitable[None]:
        """Start an instance in place of a run that has finished on another engine, and execute the command."""
        ...


Enter = Callable[[str], InstanceEngine]
"""Callback that returns the engine of a name. It is called before each call of that engine."""


async def find(command: Command, start: str, others: Sequence[str], enter: Enter) -> str:
    """Name of the engine that has the instance of a command: it runs there, or was the last run; `start` otherwise.

    others: engines beside `start` that may have it.
    """
    finished = None
    for name in others:
        match await enter(name).read_state(command):
            case InstanceState.RUNNING:
                return name
            case InstanceState.FINISHED:
                finished = finished or name
    if finished is not None and await enter(start).read_state(command) is InstanceState.MISSING:
        return finished
    return start


async def execute(command: Command, origin: MessageOrigin, start: str, place: str, enter: Enter) -> None:
    """Execute a command on the engine that `find` returned. Starts happen on `start` only. Raises: EngineError."""
    previous = None
    if place != start:
        try:
            await enter(place).execute_found(command, origin)
            return
        except StartsElsewhere as elsewhere:
            previous = elsewhere.previous
        except InstanceNotFound:
            pass  # removed since it was found
    if previous is None:
        await enter(start).execute(command, origin)
    else:
        await enter(start).restart(command, origin, previous)
