"""Commands for instances that may not exist yet."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Protocol

from durabletask.entities import EntityInstanceId

from bridge.core.commands import (
    Command,
    OnExisting,
    OnMissing,
    ScheduleOrchestration,
    SignalEntity,
    StartFirst,
    StartOrRaise,
)
from bridge.core.errors import (
    AlreadyTaken,
    EngineRejected,
    InstanceAlreadyExists,
    InstanceNotFound,
    InstanceParked,
    InvalidCommand,
)
from bridge.core.origin import MessageOrigin
from bridge.engines.base import Engine
from bridge.engines.parking.totals import WaitingTotals
from bridge.parking.early_message_queue import origin_key
from bridge.parking.names import PARKING, target_id, target_key
from bridge.parking.stored_message import StoredMessage
from bridge.parking.waiting_command import WaitingCommand, waiting_command
from bridge.system.clock import ahead_seconds

STARTED = "started"
"""Operation of an early-message entity: its instance was started."""


class Executor(Protocol):
    """Executor of commands for existing instances, such as `bridge.engines.command_runner.CommandRunner`."""

    def execute(self, command: Command, origin: MessageOrigin | None = None) -> Awaitable[None]:
        """Execute a command. Raises: EngineError."""
        ...


@dataclass(frozen=True, slots=True)
class ParkingRules:
    """Settings for early messages that result from the rules of an engine.

    prefixes: instance id prefixes for which a rule may store early messages; other commands are not checked.
    max_bytes: largest early message, as JSON.
    """

    prefixes: tuple[str, ...] = ()
    max_bytes: int = 256 * 1024


class ParkingExecutor:
    """Executor in front of an engine's executor, for rules with `park` or `start` on a missing instance.

    Before a command reaches an instance for which a rule may store early messages, the instance's entity is read: a
    command must not overtake waiting messages. The entity is notified after a start, unless the engine notifies it
    (`notifies_instance_started`).
    """

    def __init__(
        self,
        engine: Engine,
        inner: Executor,
        rules: ParkingRules,
        now: Callable[[], datetime],
        totals: WaitingTotals | None = None,
    ) -> None:
        """Set the limits. totals: limits of all waiting messages of the engine; None for no limit."""
        self._totals = totals
        self._engine = engine
        self._inner = inner
        self._rules = rules
        self._now = now

    async def execute(self, command: Command, origin: MessageOrigin | None = None) -> None:
        """Execute a command, in order with the early messages of its instance.

        Raises: EngineError; InstanceParked when earlier messages for the instance wait, AlreadyTaken for a repeat of a
        message that was delivered from there.
        """
        if isinstance(command, SignalEntity):
            await self._inner.execute(command, origin)
        elif isinstance(command, ScheduleOrchestration | StartOrRaise):
            if self._may_raise(command) and self._guarded(command.instance_id):
                await self._in_turn(command, origin)
            await self._start(command, origin)
        else:
            if self._guarded(command.instance_id):
                await self._in_turn(command, origin)
            try:
                await self._inner.execute(command, origin)
            except InstanceNotFound:
                if not isinstance(command.on_missing, StartFirst):
                    raise
                await self._start_first(command, command.on_missing, origin)

    async def park(self, command: Command, origin: MessageOrigin, letter: StoredMessage, ttl: float) -> None:
        """Store a command durably as an early message.

        Raises: EngineError (WaitingFull), InvalidCommand when it is too large.
        """
        kept = waiting_command(command)
        assert kept is not None
        since = self._now().timestamp() - ahead_seconds()
        plain = WaitingCommand(kept, origin, letter, since, since + ttl).to_json()
        what = f"park for {kept.instance_id!r}"
        try:
            item = self._engine.messages.seal(plain)
            size = len(json.dumps(item, separators=(",", ":")))
        except (TypeError, ValueError, RecursionError) as error:
            raise EngineRejected(f"{what}: the command has no JSON form ({type(error).__name__})") from error
        if size > self._rules.max_bytes:
            raise InvalidCommand(f"{what}: the message takes {size} bytes; at most {self._rules.max_bytes} are parked")
        if self._totals is not None:
            self._totals.admit(size)
        await self._signal(kept.instance_id, "park", item | {"target": kept.instance_id, "size": size}, what)

    def _may_raise(self, command: ScheduleOrchestration | StartOrRaise) -> bool:
        return isinstance(command, StartOrRaise) or command.on_existing is OnExisting.RAISE

    async def _start(self, command: ScheduleOrchestration | StartOrRaise, origin: MessageOrigin | None) -> None:
        tell = not self._engine.notifies_instance_started and self._guarded(command.instance_id)
        try:
            await self._inner.execute(command, origin)
        except (InstanceAlreadyExists, AlreadyTaken):
            # An earlier attempt may have started the instance and failed before it notified the entity
            if tell:
                await self._tell(command.instance_id)
            raise
        if tell:
            await self._tell(command.instance_id)

    async def _start_first(self, command: Any, first: StartFirst, origin: MessageOrigin | None) -> None:
        """Start the instance and execute the command.

        The start has a part number of its own in its origin, because the command that follows is another message to an
        inbox.
        """
        started = None if origin is None else replace(origin, part=-1 - origin.part)
        with suppress(InstanceAlreadyExists, AlreadyTaken):  # another message started it first, with the same result
            await self._start(ScheduleOrchestration(first.orchestration, command.instance_id, first.input), started)
        await self.execute(replace(command, on_missing=OnMissing.RETRY), origin)

    async def _in_turn(self, command: Any, origin: MessageOrigin | None) -> None:
        """Check that no earlier message of the instance waits. Raises: InstanceParked, AlreadyTaken."""
        if self._engine.has_no_early_messages(target_id(command.instance_id)):
            return
        what = f"look for what waits for {command.instance_id!r}"
        entity = await self._engine.client.find_entity(_entity(command.instance_id), what=what)
        if entity is None:
            return
        told = json.loads(entity.get_state() or "null") or {}
        if origin is not None and origin_key(origin) in told.get("delivered", ()):
            raise AlreadyTaken(f"{what}: the message was delivered from there already")
        if not told.get("items") and not entity.backlog_queue_size:
            return
        if waiting_command(command) is None:
            # This command cannot be stored. While the instance is missing, the command overtakes no message
            state = await self._engine.client.find_instance(command.instance_id, fetch_payloads=False, what=what)
            if state is None:
                return
            if not (self._engine.notifies_instance_started or entity.backlog_queue_size or told.get("attempts")):
                # Another program started the instance; the entity would check for it itself, but only at intervals
                await self._tell(command.instance_id)
        raise InstanceParked(f"{what}: earlier messages wait for the instance")

    def _guarded(self, instance_id: str) -> bool:
        return bool(self._rules.prefixes) and instance_id.startswith(self._rules.prefixes)

    async def _tell(self, instance_id: str) -> None:
        await self._signal(instance_id, STARTED, None, f"tell what waits for {instance_id!r}")

    async def _signal(self, instance_id: str, operation: str, value: Any, what: str) -> None:
        await self._engine.client.signal_entity(_entity(instance_id), operation, value, what=what)


def prefixes(ids: Sequence[str]) -> tuple[str, ...]:
    """Shortest constant prefixes that cover all given ones; an empty prefix covers every id."""
    kept: list[str] = []
    for each in sorted(set(ids), key=len):
        if not any(each.startswith(shorter) for shorter in kept):
            kept.append(each)
    return tuple(kept)


def _entity(instance_id: str) -> EntityInstanceId:
    return EntityInstanceId(PARKING, target_key(instance_id))
