"""Operations on the early messages of a running engine: list, release and drop."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from durabletask.entities.entity_metadata import EntityMetadata

from bridge.core.message import Message
from bridge.core.stored_message import StoredMessage
from bridge.core.system_names import EARLY_MESSAGES, key_prefixes, target_key
from bridge.engines.base import Engine
from bridge.engines.message_sealer import key_of
from bridge.system.clock import time_of
from bridge.waiting.operations import MessageEntities, WaitingChange, WaitingMessage, WaitingPlace, drop_value


class EarlyMessageOperations:
    """Early messages on one engine. Raises: EngineError, in every method."""

    def __init__(self, engine: Engine) -> None:
        self._entities = MessageEntities(engine, EARLY_MESSAGES, "items")
        self._sealer = engine.messages

    async def messages(
        self, prefix: str | None = None, source: str | None = None
    ) -> list[tuple[WaitingMessage, Message]]:
        """Early messages with their bodies, oldest first.

        prefix: only of instances whose ids begin so.
        source: only of this source.
        """
        found = [
            (one, message)
            for begin in key_prefixes(prefix or "")
            for entity in await self._entities.all(begin)
            for one, message in self.of(entity)
            if (one.instance_id or "").startswith(prefix or "") and source in (None, one.source)
        ]
        return sorted(found, key=lambda pair: pair[0].since)

    async def list(self, prefix: str | None = None, source: str | None = None) -> list[WaitingMessage]:
        """Early messages, oldest first; parameters as of `messages`."""
        return [one for one, _ in await self.messages(prefix, source)]

    async def part(
        self, limit: int, after: WaitingPlace, prefix: str | None = None, source: str | None = None
    ) -> tuple[Sequence[WaitingMessage], WaitingPlace | None]:
        """Part of the early messages, by instance; see `MessageEntities.part`. prefix, source: as of `messages`."""

        def of(entity: EntityMetadata) -> Iterator[WaitingMessage]:
            for one, _ in self.of(entity):
                if (one.instance_id or "").startswith(prefix or "") and source in (None, one.source):
                    yield one

        return await self._entities.part(key_prefixes(prefix or ""), of, limit, after)

    async def unprocessed(self) -> int:
        """Number of instances with operations that no worker has processed: a listing may lack messages."""
        return await self._entities.unprocessed()

    async def release(self, instance_id: str) -> WaitingChange:
        """Look for the instance now, and deliver its messages if it exists.

        Raises: InstanceNotFound when no message waits for it.
        """
        return await self._entities.change(target_key(instance_id), instance_id, "release", {})

    async def drop(self, instance_id: str, ids: Sequence[str], *, forget: bool) -> WaitingChange:
        """Dead-letter messages of an instance.

        ids: only these; empty: all.
        forget: write no dead letters.
        """
        return await self._entities.change(target_key(instance_id), instance_id, "drop", drop_value(ids, forget))

    def of(self, entity: EntityMetadata) -> Iterator[tuple[WaitingMessage, Message]]:
        """Messages of an entity, with their bodies."""
        state = json.loads(entity.get_state() or "{}")
        for item in state.get("items", ()):
            stored = StoredMessage.from_json(self._sealer.open(item)["letter"])
            yield WaitingMessage(
                state["target"], stored.source, None, item["mark"], item["id"], item["route"],
                time_of(item["since"]), time_of(item["until"]), "instance_not_found", "", str(stored.position),
                item["size"], key_of(item),
            ), stored.message  # fmt: skip
