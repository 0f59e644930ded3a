"""Quarantine on an engine: its entities, and the store through which a source reads and writes them."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from durabletask.client import EntityQuery
from durabletask.entities import EntityContext, EntityInstanceId
from durabletask.entities.entity_metadata import EntityMetadata

from bridge.core.errors import EngineUnavailable
from bridge.engines.base import Engine
from bridge.engines.errors import asked
from bridge.engines.parking.dead_letter_workflow import send
from bridge.engines.parking.look import look
from bridge.engines.parking.totals import WaitingTotals
from bridge.parking.early_message_queue import OperationResult
from bridge.parking.key_quarantine import KeyQuarantine, QuarantineLimits
from bridge.parking.names import QUARANTINE, quarantine_key, quarantine_prefix
from bridge.parking.quarantined_key import QuarantinedKey
from bridge.parking.sealed import MessageSealer, key_of

T = TypeVar("T")

_ADDS = frozenset({"hold", "follow"})
"""Operations that add a message."""

_SETTLE = 0.05
"""Seconds between two reads while an entity has queued operations."""
_LOOKS = 100


class QuarantineEntities:
    """Quarantine entities that this process runs for one engine."""

    def __init__(
        self, now: Callable[[], datetime] = lambda: datetime.now(UTC), totals: WaitingTotals | None = None
    ) -> None:
        self._totals = totals
        self._now = now
        self._lock = threading.Lock()
        self.events: Counter[str] = Counter()
        """Number of messages by event: `stored`, `repeated`, `full`, `resumed` and `dropped`."""

    def function(self) -> Callable[[EntityContext, Any], None]:
        """Entity function to register with a worker, under the name QUARANTINE."""

        def quarantine(ctx: EntityContext, value: Any) -> None:
            self._operate(ctx, value or {})

        quarantine.__name__ = QUARANTINE
        return quarantine

    def _operate(self, ctx: EntityContext, value: dict[str, Any]) -> None:
        # The limits travel with each message: they belong to the source, whose configuration this worker may not have
        bounds = QuarantineLimits(*value["bounds"]) if "bounds" in value else QuarantineLimits()
        quarantine = KeyQuarantine(bounds, ctx.get_state())
        before = (len(quarantine.held), quarantine.size)
        turn = self._turn(quarantine, ctx.operation, value)
        if self._totals is not None:
            # The store that added the message has counted it already
            counted = (1, value["item"]["size"]) if ctx.operation in _ADDS else (0, 0)
            self._totals.changed(
                len(quarantine.held) - before[0] - counted[0], quarantine.size - before[1] - counted[1]
            )
        ctx.set_state(quarantine.to_json())
        send(ctx, turn.undelivered)
        with self._lock:
            self.events.update(turn.events)

    def _turn(self, quarantine: KeyQuarantine, operation: str, value: dict[str, Any]) -> OperationResult:
        if operation == "hold":
            return quarantine.hold(value)
        if operation == "follow":
            return quarantine.append(value)
        if operation == "done":
            return quarantine.done(value["mark"])
        if operation == "again":
            return quarantine.requeue(
                value["mark"], value["cause"], value.get("until"), value["attempts"], value.get("executed", ())
            )
        if operation == "release":
            return quarantine.release()
        if operation == "drop":
            return quarantine.drop(value.get("marks"), value.get("forget", False), self._now().timestamp())
        if operation == "claim":
            return quarantine.claim(value["owner"], self._now().timestamp())
        if operation == "unclaim":
            return quarantine.unclaim(value["owner"])
        return OperationResult()


class EngineQuarantineStore:
    """Quarantine of one source: `bridge.pipeline.quarantine.QuarantineStore` over an engine's client."""

    def __init__(self, engine: Engine, source: str, totals: WaitingTotals | None = None) -> None:
        """Create the store. totals: limits of all waiting messages of the engine; None for no limit."""
        self._totals = totals
        self._engine = engine
        self._source = source

    async def load(self) -> Sequence[QuarantinedKey]:
        """Load every quarantined key with its messages. Keys with queued operations are `unsettled`.

        Raises: EngineError.
        """
        prefix = f"@{QUARANTINE}@{quarantine_prefix(self._source)}"
        query = EntityQuery(instance_id_starts_with=prefix, include_state=True, include_transient=True)
        found = await asked(self._engine.client.get_all_entities(query), "look for quarantined keys")
        return [held for each in found if (held := quarantined_key(each, self._engine.messages)) is not None]

    async def settled(self) -> Sequence[QuarantinedKey]:
        """Load the quarantined keys after their queued operations were processed, or after a few seconds.

        Raises: EngineError; EngineUnavailable when an entity's key is still unknown, because no worker has processed
        it.
        """
        found: Sequence[QuarantinedKey] = ()
        for _ in range(_LOOKS):
            found = await self.load()
            if not any(each.unsettled for each in found):
                break
            await asyncio.sleep(_SETTLE)
        if any(not each.key for each in found):
            raise EngineUnavailable("no worker has processed what was quarantined last; is one running?")
        return found

    async def holds(self, key: bytes) -> bool:
        """True when this key is, or may be, in quarantine. Raises: EngineError."""
        entity = EntityInstanceId(QUARANTINE, quarantine_key(self._source, key))
        call = look(self._engine.client, entity, include_state=False)
        return await asked(call, "look for a quarantined key") is not None

    async def signal(self, key: bytes, operation: str, value: dict[str, Any]) -> None:
        """Send an operation durably. Raises: EngineError; WaitingFull when a message exceeds the limits."""
        if operation in _ADDS:
            value = self._sealed(key, value)
            if self._totals is not None:
                self._totals.admit(value["item"]["size"])
        entity = EntityInstanceId(QUARANTINE, quarantine_key(self._source, key))
        call = self._engine.client.signal_entity(entity, operation, input=value)
        await asked(call, f"quarantine: {operation}")

    def _sealed(self, key: bytes, value: dict[str, Any]) -> dict[str, Any]:
        """Encrypt the value of an operation that adds a message.

        The size of an encrypted message is its size as JSON.
        """
        messages = self._engine.messages
        item = messages.seal(value["item"])
        if key_of(item) is None:
            return value
        size = len(json.dumps(item, separators=(",", ":")))
        place = quarantine_key(self._source, key)
        return value | {"item": item | {"size": size}, "key": messages.seal_key(value["key"], place)}


def quarantined_key(entity: EntityMetadata, messages: MessageSealer) -> QuarantinedKey | None:
    """Quarantined key that an entity holds; None when it holds no message and has no queued operations.

    Raises: EngineError when a message cannot be decrypted.
    """
    told = json.loads(entity.get_state() or "null")
    if told is None:
        return QuarantinedKey("", b"", (), {}, None, None, 0.0, unsettled=True) if entity.backlog_queue_size else None
    told |= {
        "key": messages.open_key(told["key"], entity.id.key),
        "held": [messages.open(item) for item in told["held"]],
    }
    return QuarantinedKey.of(told, unsettled=bool(entity.backlog_queue_size))
