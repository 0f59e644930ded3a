"""Early messages of instances on their engine: client of their entities."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from durabletask.entities import EntityInstanceId

from bridge.core.commands import Command
from bridge.core.errors import EngineRejected, InvalidCommand
from bridge.core.lineage.records import stored_ids
from bridge.core.origin import MessageOrigin
from bridge.core.stored_message import StoredMessage
from bridge.core.system_names import EARLY_MESSAGES, target_id, target_key
from bridge.early_messages.state_machine import (
    STARTED,
    WaitingCommand,
    origin_key,
    waiting_command,
)
from bridge.engines.base import Engine
from bridge.system.clock import ahead_seconds
from bridge.waiting.totals import WaitingTotals
from bridge.waiting.unread import UnreadMessages


@dataclass(frozen=True, slots=True)
class EarlyMessages:
    """Early messages of one instance, as read from its entity.

    waits: some wait.
    delivered: command keys of delivered ones.
    unsettled: operations are queued, or messages that this process has stored do not show yet.
    fails: the oldest one is retried.
    """

    waits: bool
    delivered: frozenset[str]
    unsettled: bool
    fails: bool


class EarlyMessageStore:
    """Early messages on one engine."""

    def __init__(
        self,
        engine: Engine,
        max_bytes: int,
        now: Callable[[], datetime],
        totals: WaitingTotals | None = None,
    ) -> None:
        """Create the store.

        max_bytes: largest early message, as JSON.
        totals: limits of all waiting messages of the engine; None for no limit.
        """
        self._engine = engine
        self._max_bytes = max_bytes
        self._now = now
        self._totals = totals
        self._unread = UnreadMessages()

    def limit(self, max_bytes: int) -> None:
        """Change the size of the largest early message."""
        self._max_bytes = max_bytes

    async def store(self, command: Command, origin: MessageOrigin, message: StoredMessage, ttl: float) -> None:
        """Store a command durably for at most `ttl` seconds.

        Raises: EngineError (WaitingFull), InvalidCommand when it is too large.
        """
        waiting = waiting_command(command)
        assert waiting is not None
        since = self._now().timestamp() - ahead_seconds()
        plain = WaitingCommand(waiting, origin, message, since, since + ttl).to_json()
        what = f"store an early message for {waiting.instance_id!r}"
        try:
            item = self._engine.messages.seal(plain)
            size = len(json.dumps(item, separators=(",", ":")))
        except (TypeError, ValueError, RecursionError) as error:
            raise EngineRejected(f"{what}: the command has no JSON form ({type(error).__name__})") from error
        if size > self._max_bytes:
            raise InvalidCommand(f"{what}: the message takes {size} bytes; at most {self._max_bytes} are stored")
        if self._totals is not None:
            self._totals.admit(size)
        began = time.monotonic()
        await self._signal(waiting.instance_id, "park", item | {"target": waiting.instance_id, "size": size}, what)
        self._unread.add(waiting.instance_id, origin_key(origin), began)
        if self._engine.lineage is not None:
            self._engine.lineage.waits(stored_ids(plain), target_id(waiting.instance_id))

    async def read(self, instance_id: str) -> EarlyMessages | None:
        """Read the early messages of an instance; None when there is nothing. Raises: EngineError."""
        if self._engine.has_no_early_messages(target_id(instance_id)):
            return None
        what = f"read early messages of {instance_id!r}"
        entity = await self._engine.client.find_entity(_entity(instance_id), what=what)
        state = json.loads((None if entity is None else entity.get_state()) or "null") or {}
        items, delivered = state.get("items", ()), frozenset(state.get("delivered", ()))
        shown = delivered.union((each["mark"] for each in items), state.get("refused", ()))
        unread = self._unread.remain(instance_id, shown)
        if entity is None and not unread:
            return None
        unsettled = unread or (entity is not None and bool(entity.backlog_queue_size))
        return EarlyMessages(bool(items), delivered, unsettled, bool(state.get("attempts")))

    async def is_started(self, instance_id: str) -> bool:
        """True when the instance exists. Raises: EngineError."""
        what = f"look for {instance_id!r}"
        return await self._engine.client.find_instance(instance_id, fetch_payloads=False, what=what) is not None

    async def notify_started(self, instance_id: str) -> None:
        """Notify the entity of the start of its instance. Raises: EngineError."""
        await self._signal(instance_id, STARTED, None, f"notify early messages of {instance_id!r}")

    async def _signal(self, instance_id: str, operation: str, value: Any, what: str) -> None:
        await self._engine.client.signal_entity(_entity(instance_id), operation, value, what=what)


def _entity(instance_id: str) -> EntityInstanceId:
    return EntityInstanceId(EARLY_MESSAGES, target_key(instance_id))
