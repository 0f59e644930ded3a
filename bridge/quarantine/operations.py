"""Operations on the quarantined messages of a running engine: list, release and drop."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from durabletask.entities.entity_metadata import EntityMetadata

from bridge.config.model.sources import QuarantineConfig
from bridge.core.errors import EngineRejected, InstanceNotFound
from bridge.core.message import Message
from bridge.core.system_names import QUARANTINE, quarantine_key, source_prefix
from bridge.engines.base import Engine
from bridge.engines.message_sealer import key_of
from bridge.quarantine.quarantined_key import QuarantinedKey, raw_key, shown_key
from bridge.quarantine.state_machine import KeyQuarantine
from bridge.quarantine.store import quarantined_key
from bridge.system.clock import time_of
from bridge.waiting.operations import MessageEntities, WaitingChange, WaitingMessage, WaitingPlace, drop_value

RELEASED = "released"
"""Value in place of a time: a person released the key, and its messages have not been resumed yet."""


class QuarantineOperations:
    """Quarantined messages on one engine. Raises: EngineError, in every method."""

    def __init__(self, engine: Engine) -> None:
        self._entities = MessageEntities(engine, QUARANTINE, "held")
        self._sealer = engine.messages

    async def messages(self, source: str | None = None) -> list[tuple[WaitingMessage, Message]]:
        """Quarantined messages with their bodies, oldest first. source: only of this source."""
        prefix = "" if source is None else source_prefix(source)
        found = [pair for entity in await self._entities.all(prefix) for pair in self.of(entity)]
        return sorted(found, key=lambda pair: pair[0].since)

    async def list(self, source: str | None = None) -> list[WaitingMessage]:
        """Quarantined messages, oldest first. source: only of this source."""
        return [one for one, _ in await self.messages(source)]

    async def part(
        self, limit: int, after: WaitingPlace, source: str | None = None
    ) -> tuple[Sequence[WaitingMessage], WaitingPlace | None]:
        """Part of the quarantined messages, by key; see `MessageEntities.part`. source: only of this source."""
        prefix = "" if source is None else source_prefix(source)
        return await self._entities.part([prefix], lambda entity: (one for one, _ in self.of(entity)), limit, after)

    async def unprocessed(self) -> int:
        """Number of keys with operations that no worker has processed: a listing may lack messages."""
        return await self._entities.unprocessed()

    async def keys(self, source: str) -> Sequence[str]:
        """Quarantined keys of a source, as they are displayed."""
        return [shown_key(each.key) for each in await self._keys(source)]

    async def entity_keys(self, source: str) -> Mapping[str, str]:
        """Keys of the entities of a source, by the quarantined key as it is displayed."""
        return {shown_key(each.key): quarantine_key(source, each.key) for each in await self._keys(source)}

    async def release(self, source: str, key: str, entity: str | None = None) -> WaitingChange:
        """Release a quarantined key. entity: key of its entity, if known.

        Raises: InstanceNotFound when the key is not in quarantine.
        """
        entity = entity or await self._entity_key(source, key)
        return await self._entities.change(entity, f"{source} {key}", "release", {}, counted=False)

    async def drop(
        self, source: str, key: str, ids: Sequence[str], *, forget: bool, entity: str | None = None
    ) -> WaitingChange:
        """Dead-letter messages of a key.

        ids: only these; empty: all.
        forget: write no dead letters.
        entity: key of its entity, if known.

        Raises: InstanceNotFound when the key is not in quarantine; EngineRejected while a daemon works on it.
        """
        entity = entity or await self._entity_key(source, key)
        change = await self._entities.change(
            entity, f"{source} {key}", "drop", drop_value(ids, forget), refuses=_is_claimed
        )
        if change.after == change.before and _is_claimed(await self._entities.state(entity)):
            raise EngineRejected(
                f"{source} {key}: its messages were released, and a daemon works on them; nothing was dropped. "
                "Try again when it has failed once more, or half a minute after the daemon has ended"
            )
        return change

    async def _entity_key(self, source: str, key: str) -> str:
        quarantined = await self._keys(source)
        for same in (shown_key, raw_key):  # a key of plain text may also be given as it is
            for each in quarantined:
                if same(each.key) == key:
                    return quarantine_key(source, each.key)
        raise InstanceNotFound(
            f"the key {key!r} of source {source!r} is not in quarantine; `bridge quarantine list` shows all"
        )

    async def _keys(self, source: str) -> Sequence[QuarantinedKey]:
        entities = await self._entities.all(source_prefix(source))
        found = (quarantined_key(each, self._sealer) for each in entities)
        return [each for each in found if each is not None and each.key]

    def of(self, entity: EntityMetadata) -> Iterator[tuple[WaitingMessage, Message]]:
        """Messages of an entity, with their bodies."""
        found = quarantined_key(entity, self._sealer)
        if found is None:
            return
        until = None if found.until is None else time_of(found.until) if found.until else RELEASED
        items = json.loads(entity.get_state() or "{}").get("held", ())
        first = found.messages[0].message if found.messages else None
        for number, (each, item) in enumerate(zip(found.messages, items, strict=True)):
            cause = found.cause
            if number and first is not None:
                cause = {"reason": "follows", "detail": f"it follows {first.message_id or first.position}"}
            stored = each.message
            yield WaitingMessage(
                None, found.source, shown_key(found.key), each.mark, stored.message_id, cause.get("route"),
                time_of(each.since), until, cause.get("reason", "follows"), cause.get("detail", ""),
                str(stored.position), item["size"], key_of(item),
            ), stored.message  # fmt: skip


def _is_claimed(state: Any) -> bool:
    """True of the state of a key that a daemon works on: it drops nothing."""
    return state is not None and KeyQuarantine(QuarantineConfig(), state).is_claimed(datetime.now(UTC).timestamp())
