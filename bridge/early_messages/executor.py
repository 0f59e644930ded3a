"""Early-message stage of an engine: commands for instances that may not exist yet."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
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
from bridge.core.origin import MessageOrigin
from bridge.early_messages.state_machine import InstanceCommand, origin_key, waiting_command
from bridge.early_messages.store import EarlyMessageStore


class Executor(Protocol):
    """Executor of commands for existing instances, such as `bridge.engines.commands.command_runner.CommandRunner`."""

    def execute(self, command: Command, origin: MessageOrigin | None = None) -> Awaitable[None]:
        """Execute a command. Raises: EngineError."""
        ...


class EarlyMessageExecutor:
    """Stage in front of an engine's executor, for rules with `wait` or `start` on a missing instance.

    Before a command reaches an instance for which a rule may store early messages, the instance's entity is read: a
    command must not overtake waiting messages. The entity is notified after a start, unless the engine notifies it.
    """

    def __init__(
        self, store: EarlyMessageStore, executor: Executor, prefixes: tuple[str, ...], *, engine_notifies: bool
    ) -> None:
        """Create the stage.

        prefixes: instance id prefixes for which a rule may store early messages; other commands are not checked.
        engine_notifies: the engine notifies the entities of starts (`Engine.notifies_instance_started`).
        """
        self.store = store
        self._executor = executor
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
        if isinstance(command, SignalEntity):
            await self._executor.execute(command, origin)
        elif isinstance(command, ScheduleOrchestration | StartOrRaise):
            if _may_raise(command) and self._may_wait(command.instance_id):
                await self._check_order(command, origin)
            await self._start(command, origin)
        else:
            if self._may_wait(command.instance_id):
                await self._check_order(command, origin)
            try:
                await self._executor.execute(command, origin)
            except InstanceNotFound:
                if not isinstance(command.on_missing, StartFirst):
                    raise
                await self._start_first(command, command.on_missing, origin)

    async def _start(self, command: ScheduleOrchestration | StartOrRaise, origin: MessageOrigin | None) -> None:
        notifies = not self._engine_notifies and self._may_wait(command.instance_id)
        try:
            await self._executor.execute(command, origin)
        except (InstanceAlreadyExists, AlreadyTaken):
            # An earlier attempt may have started the instance and failed before it notified the entity
            if notifies:
                await self.store.notify_started(command.instance_id)
            raise
        if notifies:
            await self.store.notify_started(command.instance_id)

    async def _start_first(self, command: InstanceCommand, first: StartFirst, origin: MessageOrigin | None) -> None:
        """Start the instance and execute the command.

        The start has a part number of its own in its origin, because the command that follows is another message to an
        inbox.
        """
        started = None if origin is None else replace(origin, part=-1 - origin.part)
        with suppress(InstanceAlreadyExists, AlreadyTaken):  # another message started it first, with the same result
            start = ScheduleOrchestration(first.orchestration, command.instance_id, first.input, tags=first.tags)
            await self._start(start, started)
        await self.execute(replace(command, on_missing=OnMissing.RETRY), origin)

    async def _check_order(
        self, command: InstanceCommand | ScheduleOrchestration | StartOrRaise, origin: MessageOrigin | None
    ) -> None:
        """Check that no earlier message of the instance waits. Raises: EarlierMessagesWait, AlreadyTaken."""
        instance_id = command.instance_id
        early = await self.store.read(instance_id)
        if early is None:
            return
        if origin is not None and origin_key(origin) in early.delivered:
            raise AlreadyTaken(f"{instance_id!r}: the message was delivered as an early one already")
        if not early.waits and not early.unsettled:
            return
        if waiting_command(command) is None:
            # This command cannot be stored. While the instance is missing, the command overtakes no message
            if not await self.store.is_started(instance_id):
                return
            if not (self._engine_notifies or early.unsettled or early.fails):
                # Another program started the instance; the entity would check for it itself, but only at intervals
                await self.store.notify_started(instance_id)
        raise EarlierMessagesWait(f"{instance_id!r}: earlier messages wait for the instance")

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
