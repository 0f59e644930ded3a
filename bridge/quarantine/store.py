"""Quarantined keys of one source on its engine: client of their entities."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

from durabletask.client import EntityQuery
from durabletask.entities import EntityInstanceId
from durabletask.entities.entity_metadata import EntityMetadata

from bridge.core.errors import EngineUnavailable
from bridge.core.lineage.records import ordering_keys, stored_ids
from bridge.core.system_names import QUARANTINE, quarantine_key, source_prefix
from bridge.engines.base import Engine
from bridge.engines.message_sealer import MessageSealer, key_of
from bridge.quarantine.quarantined_key import QuarantinedKey
from bridge.quarantine.state_machine import ADDS
from bridge.waiting.totals import WaitingTotals
from bridge.waiting.unread import UnreadMessages

_SETTLE = 0.05
"""Seconds between two reads while an entity has queued operations."""
_MOST_READS = 100


class QuarantineStore(Protocol):
    """Protocol of the quarantined keys of a source on its engine. Raises: EngineError, in every method."""

    async def load(self) -> Sequence[QuarantinedKey]: ...

    async def settled(self) -> Sequence[QuarantinedKey]: ...

    async def holds(self, key: bytes) -> bool: ...

    async def signal(self, key: bytes, operation: str, value: dict[str, Any]) -> None: ...


class EngineQuarantineStore:
    """`QuarantineStore` over an engine's client."""

    def __init__(self, engine: Engine, source: str, totals: WaitingTotals | None = None) -> None:
        """Create the store. totals: limits of all waiting messages of the engine; None for no limit."""
        self._totals = totals
        self._engine = engine
        self._source = source
        self._unread = UnreadMessages()

    async def load(self) -> Sequence[QuarantinedKey]:
        """Load every quarantined key with its messages.

        Keys with queued operations, or with messages of this process that do not show yet, are `unsettled`. Operations
        of other processes may be in progress: their keys belong to partitions of those.
        Raises: EngineError.
        """
        prefix = f"@{QUARANTINE}@{source_prefix(self._source)}"
        query = EntityQuery(instance_id_starts_with=prefix, include_state=True, include_transient=True)
        found = await self._engine.client.get_all_entities(query, what="look for quarantined keys")
        keys = []
        for each in found:
            held = quarantined_key(each, self._engine.messages)
            if held is not None:
                shown = {*held.refused, *(message.mark for message in held.messages)}
                keys.append(replace(held, unsettled=True) if self._unread.remain(each.id.key, shown) else held)
        return keys

    async def settled(self) -> Sequence[QuarantinedKey]:
        """Load the quarantined keys after their queued operations were processed, or after a few seconds.

        Raises: EngineError; EngineUnavailable when an entity's key is still unknown, because no worker has processed
        it.
        """
        found: Sequence[QuarantinedKey] = ()
        for _ in range(_MOST_READS):
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
        what = "look for a quarantined key"
        if self._unread.remain(entity.key, ()):
            return True
        return await self._engine.client.find_entity(entity, include_state=False, what=what) is not None

    async def signal(self, key: bytes, operation: str, value: dict[str, Any]) -> None:
        """Send an operation durably. Raises: EngineError; WaitingFull when a message exceeds the limits."""
        ids: tuple[str, ...] = ()
        if operation in ADDS:
            ids = (*stored_ids(value["item"]), *ordering_keys(value))
            value = self._sealed(key, value)
            if self._totals is not None:
                self._totals.admit(value["item"]["size"])
        entity, began = EntityInstanceId(QUARANTINE, quarantine_key(self._source, key)), time.monotonic()
        await self._engine.client.signal_entity(entity, operation, value, what=f"quarantine: {operation}")
        if operation in ADDS:
            self._unread.add(entity.key, value["item"]["mark"], began)
        if ids and self._engine.lineage is not None:
            self._engine.lineage.waits(ids, str(entity))

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
    state = json.loads(entity.get_state() or "null")
    if state is None:
        return QuarantinedKey("", b"", (), {}, None, unsettled=True) if entity.backlog_queue_size else None
    state |= {
        "key": messages.open_key(state["key"], entity.id.key),
        "held": [messages.open(item) for item in state["held"]],
    }
    return QuarantinedKey.of(state, unsettled=bool(entity.backlog_queue_size))
