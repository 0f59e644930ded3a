"""Quarantine on an engine: the entities, and how a source reads and writes them."""

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

from bridge.engines.base import Engine
from bridge.engines.errors import asked
from bridge.engines.parking.dead_letter_workflow import send
from bridge.engines.parking.look import look
from bridge.engines.parking.totals import WaitingTotals
from bridge.errors import EngineUnavailable
from bridge.parking.early_message_queue import OperationResult
from bridge.parking.key_quarantine import KeyQuarantine, QuarantineLimits
from bridge.parking.names import QUARANTINE, quarantine_key, quarantine_prefix
from bridge.parking.quarantined_key import QuarantinedKey
from bridge.parking.sealed import MessageSealer, key_of

T = TypeVar("T")

_ADDS = frozenset({"hold", "follow"})
"""Operations that bring a message."""

_SETTLE = 0.05
"""Seconds between two looks while an entity has operations before it."""
_LOOKS = 100


class QuarantineEntities:
    """The quarantine entities that this process runs for one engine."""

    def __init__(
        self, now: Callable[[], datetime] = lambda: datetime.now(UTC), totals: WaitingTotals | None = None
    ) -> None:
        self._totals = totals
        self._now = now
        self._lock = threading.Lock()
        self.events: Counter[str] = Counter()
        """What happened to messages, by `held`, `repeated`, `full`, `resumed` and `dropped`."""

    def function(self) -> Callable[[EntityContext, Any], None]:
        """What is registered with a worker, under the name QUARANTINE."""

        def quarantine(ctx: EntityContext, value: Any) -> None:
            self._operate(ctx, value or {})

        quarantine.__name__ = QUARANTINE
        return quarantine

    def _operate(self, ctx: EntityContext, value: dict[str, Any]) -> None:
        # The bounds travel with each message: they are the source's, whose configuration this worker need not have
        bounds = QuarantineLimits(*value["bounds"]) if "bounds" in value else QuarantineLimits()
        quarantine = KeyQuarantine(bounds, ctx.get_state())
        before = (len(quarantine.held), quarantine.size)
        turn = self._turn(quarantine, ctx.operation, value)
        if self._totals is not None:
            # What holds a message has counted it already
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
    """The quarantine of one source: `bridge.pipeline.quarantine.QuarantineStore` over an engine's client."""

    def __init__(self, engine: Engine, source: str, totals: WaitingTotals | None = None) -> None:
        """totals: of the engine, which bound all that waits; None: no bound."""
        self._totals = totals
        self._engine = engine
        self._source = source

    async def load(self) -> Sequence[QuarantinedKey]:
        """Every key that is held, with its messages; those with operations before them are `unsettled`.

        Raises: EngineError.
        """
        prefix = f"@{QUARANTINE}@{quarantine_prefix(self._source)}"
        query = EntityQuery(instance_id_starts_with=prefix, include_state=True, include_transient=True)
        found = await asked(self._engine.client.get_all_entities(query), "look for quarantined keys")
        return [held for each in found if (held := quarantined_key(each, self._engine.messages)) is not None]

    async def settled(self) -> Sequence[QuarantinedKey]:
        """The same, once what was sent to them has been processed; after a few seconds as it is.

        Raises: EngineUnavailable when a key is not even known then, since no worker has processed it.
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
        """Whether this key is held, or may be. Raises: EngineError."""
        entity = EntityInstanceId(QUARANTINE, quarantine_key(self._source, key))
        call = look(self._engine.client, entity, include_state=False)
        return await asked(call, "look for a quarantined key") is not None

    async def signal(self, key: bytes, operation: str, value: dict[str, Any]) -> None:
        """Return when the operation is durably taken. Raises: EngineError; WaitingFull for one message too many."""
        if operation in _ADDS:
            value = self._sealed(key, value)
            if self._totals is not None:
                self._totals.admit(value["item"]["size"])
        entity = EntityInstanceId(QUARANTINE, quarantine_key(self._source, key))
        call = self._engine.client.signal_entity(entity, operation, input=value)
        await asked(call, f"quarantine: {operation}")

    def _sealed(self, key: bytes, value: dict[str, Any]) -> dict[str, Any]:
        """The value of an operation that brings a message. An encrypted one has the size that it takes then."""
        messages = self._engine.messages
        item = messages.seal(value["item"])
        if key_of(item) is None:
            return value
        size = len(json.dumps(item, separators=(",", ":")))
        place = quarantine_key(self._source, key)
        return value | {"item": item | {"size": size}, "key": messages.seal_key(value["key"], place)}


def quarantined_key(entity: EntityMetadata, messages: MessageSealer) -> QuarantinedKey | None:
    """The key that an entity holds. None: it holds nothing, and nothing is before it.

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
