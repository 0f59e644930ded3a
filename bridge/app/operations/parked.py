"""Operations on early and quarantined messages of a running engine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from durabletask.client import EntityQuery
from durabletask.entities import EntityInstanceId
from durabletask.entities.entity_metadata import EntityMetadata

from bridge.app.connection import stamp
from bridge.core.errors import EngineRejected, EngineTimeout, InstanceNotFound
from bridge.core.message import Message
from bridge.engines.base import Engine
from bridge.engines.parking.quarantine import quarantined_key
from bridge.parking.key import raw, shown
from bridge.parking.key_quarantine import KeyQuarantine, QuarantineLimits
from bridge.parking.names import PARKING, QUARANTINE, key_prefixes, quarantine_key, quarantine_prefix, target_key
from bridge.parking.quarantined_key import QuarantinedKey
from bridge.parking.sealed import MessageSealer, key_of
from bridge.parking.stored_message import StoredMessage

TIMEOUT = 10.0
"""Seconds within which a worker must process an operation."""

RELEASED = "released"
"""Value in place of a time: a person released the key, and its messages have not been resumed yet."""

_LOOK = 0.05


@dataclass(frozen=True, slots=True)
class Waiting:
    """One early or quarantined message. Times are RFC 3339 in UTC.

    kind: `instance` (early message) or `key` (quarantined message).
    instance_id: instance that the message waits for.
    source, key: source of the message, and its quarantined key.
    id: argument of `drop --id`.
    route: route of the command that waits or failed.
    reason, detail: cause of the quarantine; `follows` for later messages of the key.
    until: time of the dead letter or of the automatic release, or RELEASED.
    encryption_key: id of the key that the bridge encrypted the message with.
    """

    kind: Literal["instance", "key"]
    instance_id: str | None
    source: str
    key: str | None
    id: str
    message_id: str | None
    route: str | None
    since: str
    until: str | None
    reason: str
    detail: str
    position: str
    size: int
    encryption_key: str | None = None


@dataclass(frozen=True, slots=True)
class Which:
    """Filter of messages.

    prefix: prefix of instance ids; excludes quarantined messages.
    source: source of early and quarantined messages.
    kinds: `instance`, `key` or both.
    """

    prefix: str | None = None
    source: str | None = None
    kinds: tuple[str, ...] = ("instance", "key")


@dataclass(frozen=True, slots=True)
class Change:
    """Result of an operation: number of waiting messages before and after it."""

    what: str
    before: int
    after: int


class ParkedMessages:
    """Early and quarantined messages on one engine. Raises: EngineError, in every method."""

    def __init__(self, engine: Engine) -> None:
        self._client = engine.client
        self._sealer = engine.messages

    async def messages(self, which: Which) -> list[tuple[Waiting, Message]]:
        """Waiting messages with their bodies, oldest first."""
        found: list[tuple[Waiting, Message]] = []
        if "instance" in which.kinds:
            for begin in key_prefixes(which.prefix or ""):
                for entity in await self._entities(f"@{PARKING}@{begin}"):
                    found += _parked(entity, self._sealer)
        if "key" in which.kinds and which.prefix is None:
            begin = "" if which.source is None else quarantine_prefix(which.source)
            for entity in await self._entities(f"@{QUARANTINE}@{begin}"):
                held = quarantined_key(entity, self._sealer)
                if held is not None:
                    found += _quarantined(held, json.loads(entity.get_state() or "{}").get("held", ()))
        chosen = [
            (one, message)
            for one, message in found
            if (which.source is None or one.source == which.source)
            and (which.prefix is None or (one.instance_id or "").startswith(which.prefix))
        ]
        return sorted(chosen, key=lambda pair: pair[0].since)

    async def list(self, which: Which) -> list[Waiting]:
        """Waiting messages, oldest first."""
        return [waiting for waiting, _ in await self.messages(which)]

    async def unprocessed(self) -> int:
        """Number of instances and keys with operations that no worker has processed: a listing may lack messages."""
        query = "count what no worker has processed"
        found = 0
        for name in (PARKING, QUARANTINE):
            entities = EntityQuery(f"@{name}@", include_state=False, include_transient=True)
            answer = await self._client.get_all_entities(entities, what=query)
            found += sum(each.backlog_queue_size > 0 for each in answer)
        return found

    async def release_instance(self, instance_id: str) -> Change:
        """Look for the instance now, and deliver its early messages if it exists.

        Raises: InstanceNotFound when no message waits for it.
        """
        return await self._change(self._instance(instance_id), instance_id, "items", "release", {})

    async def drop_instance(self, instance_id: str, ids: Sequence[str], *, forget: bool) -> Change:
        """Dead-letter early messages of an instance. ids: only these; empty: all. forget: write no dead letters."""
        return await self._change(self._instance(instance_id), instance_id, "items", "drop", _these(ids, forget))

    async def release_key(self, source: str, key: str) -> Change:
        """Release a quarantined key. Raises: InstanceNotFound when the key is not in quarantine."""
        entity = await self._key_quarantine(source, key)
        return await self._change(entity, f"{source} {key}", None, "release", {})

    async def drop_key(self, source: str, key: str, ids: Sequence[str], *, forget: bool) -> Change:
        """Dead-letter quarantined messages of a key. ids: only these; empty: all. forget: write no dead letters.

        Raises: InstanceNotFound when the key is not in quarantine; EngineRejected while a daemon works on it.
        """
        entity = await self._key_quarantine(source, key)
        change = await self._change(entity, f"{source} {key}", "held", "drop", _these(ids, forget))
        if change.after == change.before and await self._worked_on(entity):
            raise EngineRejected(
                f"{source} {key}: its messages were released, and a daemon works on them; nothing was dropped. "
                "Try again when it has failed once more, or half a minute after the daemon has ended"
            )
        return change

    async def keys(self, source: str) -> Sequence[str]:
        """Quarantined keys of a source, as they are displayed."""
        return [shown(each.key) for each in await self._held(source)]

    def _instance(self, instance_id: str) -> EntityInstanceId:
        return EntityInstanceId(PARKING, target_key(instance_id))

    async def _key_quarantine(self, source: str, key: str) -> EntityInstanceId:
        held = await self._held(source)
        for same in (shown, raw):  # a key of plain text may also be given as it is
            for each in held:
                if same(each.key) == key:
                    return EntityInstanceId(QUARANTINE, quarantine_key(source, each.key))
        raise InstanceNotFound(
            f"the key {key!r} of source {source!r} is not in quarantine; `bridge parked list` has all"
        )

    async def _held(self, source: str) -> Sequence[QuarantinedKey]:
        entities = await self._entities(f"@{QUARANTINE}@{quarantine_prefix(source)}")
        return [held for each in entities if (held := quarantined_key(each, self._sealer)) is not None and held.key]

    async def _change(
        self, entity: EntityInstanceId, what: str, part: str | None, operation: str, value: dict[str, Any]
    ) -> Change:
        before = await self._count(entity, part or "held")
        if not before:
            found = await self._client.find_entity(entity, include_state=False)
            if found is not None and found.backlog_queue_size:
                raise EngineTimeout(f"{operation} {what}: no worker has processed what waits there; is one running?")
            raise InstanceNotFound(f"nothing waits for {what}")
        await self._client.signal_entity(entity, operation, value, what=f"{operation} {what}")
        for _ in range(int(TIMEOUT / _LOOK)):
            if not await self._busy(entity):
                break
            await asyncio.sleep(_LOOK)
        else:
            raise EngineTimeout(f"{operation} {what}: no worker has done it yet; is one running?")
        return Change(what, before, before if part is None else await self._count(entity, part))

    async def _worked_on(self, entity: EntityInstanceId) -> bool:
        found = await self._client.get_entity(entity)
        document = None if found is None else json.loads(found.get_state() or "null")
        return document is not None and KeyQuarantine(QuarantineLimits(), document).is_claimed(
            datetime.now(UTC).timestamp()
        )

    async def _busy(self, entity: EntityInstanceId) -> bool:
        found = await self._client.get_entity(entity, include_state=False)
        return found is not None and found.backlog_queue_size > 0

    async def _count(self, entity: EntityInstanceId, part: str) -> int:
        found = await self._client.get_entity(entity)
        document = json.loads(found.get_state() or "{}") if found is not None else {}
        return len(document.get(part, ()))

    async def _entities(self, prefix: str) -> Iterable[EntityMetadata]:
        query = EntityQuery(instance_id_starts_with=prefix, include_state=True)
        return await self._client.get_all_entities(query, what="list what waits")


def _these(ids: Sequence[str], forget: bool) -> dict[str, Any]:
    return {"marks": list(ids) or None, "forget": forget}


def _parked(entity: EntityMetadata, sealer: MessageSealer) -> Iterable[tuple[Waiting, Message]]:
    document = json.loads(entity.get_state() or "{}")
    for item in document.get("items", ()):
        letter = StoredMessage.from_json(sealer.open(item)["letter"])
        waiting = Waiting(
            "instance", document["target"], letter.source, None, item["mark"], item["id"], item["route"],
            _time(item["since"]), _time(item["until"]), "instance_not_found", "", str(letter.position), item["size"],
            key_of(item),
        )  # fmt: skip
        yield waiting, letter.message


def _quarantined(held: QuarantinedKey, raw: Sequence[dict[str, Any]]) -> Iterable[tuple[Waiting, Message]]:
    until = None if held.until is None else _time(held.until) if held.until else RELEASED
    for number, (message, item) in enumerate(zip(held.messages, raw, strict=True)):
        cause = held.cause if number == 0 else {}
        waiting = Waiting(
            "key", None, held.source, shown(held.key), message.mark, message.letter.message_id, cause.get("route"),
            _time(message.since), until,
            cause.get("reason", "follows"), cause.get("detail", ""), str(message.letter.position), item["size"],
            key_of(item),
        )  # fmt: skip
        yield waiting, message.letter.message


def _time(seconds: float) -> str:
    return stamp(datetime.fromtimestamp(seconds, UTC))
