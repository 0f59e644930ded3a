"""Executor of commands for instances that may not exist yet: keeps their order with early messages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

from bridge.core.commands import (
    Command,
    OnExisting,
    OnMissing,
    ScheduleOrchestration,
    SignalEntity,
    StartFirst,
    StartOrRaise,
)
from bridge.core.errors import AlreadyTaken, EarlierMessagesWait, InstanceAlreadyExists, InstanceNotFound
from bridge.core.instance_protocol import InstanceState, origin_of_start
from bridge.core.origin import MessageOrigin
from bridge.early_messages.state_machine import InstanceCommand, origin_key, waiting_command
from bridge.early_messages.store import EarlyMessages, EarlyMessageStore
from bridge.engines.commands.instance_reader import PreviousRun


class Executor(Protocol):
    """Executor of commands for existing instances, such as `bridge.engines.commands.command_runner.CommandRunner`."""

    def execute(self, command: Command, origin: MessageOrigin | None = None) -> Awaitable[None]:
        """Execute a command. Raises: EngineError."""
        ...


class MovingExecutor(Executor, Protocol):
    """Executor whose instances may be on several engines, see `bridge.engines.commands.moving.InstanceEngine`."""

    def read_state(self, command: Command) -> Awaitable[InstanceState]:
        """Read the state of the command's instance on this engine. Raises: EngineError."""
        ...

    def execute_found(self, command: Command, origin: MessageOrigin | None = None) -> Awaitable[None]:
        """Execute a command for an instance that is on this engine, and start nothing. Raises: EngineError."""
        ...

    def restart(self, command: Command, origin: MessageOrigin | None, previous: PreviousRun) -> Awaitable[None]:
        """Start an instance in place of a run that has finished on another engine. Raises: EngineError."""
        ...


_Execute = Callable[[Command, MessageOrigin | None], Awaitable[None]]


class EarlyMessageExecutor:
    """Executor in front of that of an engine, for rules with `wait` or `start` on a missing instance.

    Before a command reaches an instance for which a rule may store early messages, the instance's entity is read: a
    command must not overtake waiting messages. The entity is notified after a start, unless the engine notifies it.
    """

    def __init__(
        self, store: EarlyMessageStore, executor: MovingExecutor, prefixes: tuple[str, ...], *, engine_notifies: bool
    ) -> None:
        """Create the executor.

        prefixes: instance id prefixes for which a rule may store early messages; other commands are not checked.
        engine_notifies: the engine notifies the entities of starts (`Engine.notifies_instance_started`).
        """
        self.store = store
        self._executor = executor
        self.read_state = executor.read_state
        self._prefixes = prefixes
        self._engine_notifies = engine_notifies

    def cover(self, prefixes: Sequence[str]) -> None:
        """Add instance id prefixes of new rules. Those of earlier rules stay: their messages may still wait."""
        self._prefixes = shortest_prefixes((*self._prefixes, *prefixes))

    async def execute(self, command: Command, origin: MessageOrigin | None = None) -> None:
        """Execute a command, in order with the early messages of its instance.

        Raises: EngineError; EarlierMessagesWait when earlier messages wait, AlreadyTaken for a repeat of a
        delivered early message.
        """
        await self._execute(command, origin, self._executor.execute)

    async def execute_found(self, command: Command, origin: MessageOrigin | None = None) -> None:
        """Execute a command for an instance that is on this engine, as `execute`, and start nothing here.

        Raises: StartsElsewhere, beside the errors of `execute`.
        """
        await self._execute(command, origin, self._executor.execute_found)

    async def restart(self, command: Command, origin: MessageOrigin | None, previous: PreviousRun) -> None:
        """Start an instance in place of a run that has finished on another engine, then execute the command."""
        assert not isinstance(command, SignalEntity)
        await self._notifying(command.instance_id, self._executor.restart(command, origin, previous))

    async def waits(self, command: Command, origin: MessageOrigin | None) -> bool:
        """True when earlier messages of the instance of a command wait here, which the command must not overtake.

        Raises: AlreadyTaken for a repeat of a delivered early message, EngineError.
        """
        if isinstance(command, SignalEntity):
            return False
        if isinstance(command, ScheduleOrchestration | StartOrRaise) and not _may_raise(command):
            return False
        return await self._earlier(command.instance_id, origin) is not None

    async def notify(self, instance_id: str) -> None:
        """Notify the messages that wait here that their instance is on some engine. Raises: EngineError."""
        early = await self._earlier(instance_id, None)
        if early is not None and not early.fails:
            await self.store.notify_started(instance_id)

    async def _execute(self, command: Command, origin: MessageOrigin | None, execute: _Execute) -> None:
        if isinstance(command, SignalEntity):
            await execute(command, origin)
        elif isinstance(command, ScheduleOrchestration | StartOrRaise):
            if _may_raise(command):
                await self._check_order(command, origin)
            await self._notifying(command.instance_id, execute(command, origin))
        else:
            await self._check_order(command, origin)
            try:
                await execute(command, origin)
            except InstanceNotFound:
                if not isinstance(command.on_missing, StartFirst):
                    raise
                await self._start_first(command, command.on_missing, origin, execute)

    async def _notifying(self, instance_id: str, start: Awaitable[None]) -> None:
        """Await a start, and notify the entity of its instance."""
        notifies = not self._engine_notifies and self._may_wait(instance_id)
        try:
            await start
        except (InstanceAlreadyExists, AlreadyTaken):
            # An earlier attempt may have started the instance and failed before it notified the entity
            if notifies:
                await self.store.notify_started(instance_id)
            raise
        if notifies:
            await self.store.notify_started(instance_id)

    async def _start_first(
        self, command: InstanceCommand, first: StartFirst, origin: MessageOrigin | None, execute: _Execute
    ) -> None:
        """Start the instance and execute the command."""
        started = None if origin is None else origin_of_start(origin)
        with suppress(InstanceAlreadyExists, AlreadyTaken):  # another message started it first, with the same result
            start = ScheduleOrchestration(first.orchestration, command.instance_id, first.input, tags=first.tags)
            await self._notifying(command.instance_id, execute(start, started))
        await self._execute(replace(command, on_missing=OnMissing.RETRY), origin, execute)

    async def _check_order(
        self, command: InstanceCommand | ScheduleOrchestration | StartOrRaise, origin: MessageOrigin | None
    ) -> None:
        """Check that no earlier message of the instance waits. Raises: EarlierMessagesWait, AlreadyTaken."""
        instance_id = command.instance_id
        early = await self._earlier(instance_id, origin)
        if early is None:
            return
        if waiting_command(command) is None:
            # This command cannot be stored. While the instance is missing, the command overtakes no message
            if not await self.store.is_started(instance_id):
                return
            if not (self._engine_notifies or early.unsettled or early.fails):
                # Another program started the instance; the entity would check for it itself, but only at intervals
                await self.store.notify_started(instance_id)
        raise EarlierMessagesWait(f"{instance_id!r}: earlier messages wait for the instance")

    async def _earlier(self, instance_id: str, origin: MessageOrigin | None) -> EarlyMessages | None:
        """Early messages of an instance; None when none waits. Raises: AlreadyTaken when the message was one."""
        early = await self.store.read(instance_id) if self._may_wait(instance_id) else None
        if early is None:
            return None
        if origin is not None and origin_key(origin) in early.delivered:
            raise AlreadyTaken(f"{instance_id!r}: the message was delivered as an early one already")
        return early if early.waits or early.unsettled else None

    def _may_wait(self, instance_id: str) -> bool:
        return bool(self._prefixes) and instance_id.startswith(self._prefixes)


def shortest_prefixes(ids: Sequence[str]) -> tuple[str, ...]:
    """Shortest constant prefixes that cover all given ones; an empty prefix covers every id."""
    kept: list[str] = []
    for each in sorted(set(ids), key=len):
        if not any(each.startswith(shorter) for shorter in kept):
            kept.append(each)
    return tuple(kept)


def _may_raise(command: ScheduleOrchestration | StartOrRaise) -> bool:
    return isinstance(command, StartOrRaise) or command.on_existing is OnExisting.RAISE
