"""Shared parts of the operations on early and quarantined messages of a running engine."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from durabletask.client import EntityQuery
from durabletask.entities import EntityInstanceId
from durabletask.entities.entity_metadata import EntityMetadata

from bridge.core.errors import EngineTimeout, InstanceNotFound
from bridge.engines.base import Engine
from bridge.engines.entity_client import EntityFilter

TIMEOUT = 10.0
"""Seconds within which a worker must process an operation."""

_POLL_SECONDS = 0.05

_EFFECT_SECONDS = 0.3
"""Seconds for the effect of an operation after the engine counts none that waits: a worker may be processing it, or it
has no effect.
"""


_PAGE = 100
"""Most entities of one page."""
_MOST_ENTITIES = 10_000
"""Entities after which a part of a list ends, whatever a filter has left out."""


@dataclass(frozen=True, slots=True)
class WaitingMessage:
    """One early or quarantined message. Times are RFC 3339 in UTC.

    instance_id: instance that an early message waits for.
    source, key: source of the message, and its quarantined key.
    id: argument of `drop --id`.
    route: route of the command that waits or failed.
    reason, detail: cause of the wait; `follows` for later messages of a quarantined key.
    until: time of the dead letter or of the automatic release, or `released`; None: a person releases the key.
    encryption_key: id of the key that the bridge encrypted the message with.
    """

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
class WaitingChange:
    """Result of an operation: number of waiting messages before and after it."""

    what: str
    before: int
    after: int


class WaitingPlace(NamedTuple):
    """Place in a list of waiting messages: behind a message of an entity.

    number: of the prefix of keys. token: of the page of the engine; empty for the first one.
    entity, since, id: of the last message; empty before the first one of the page.
    """

    number: int = 0
    token: str = ""
    entity: str = ""
    since: str = ""
    id: str = ""


class MessageEntities:
    """Entities of one name that keep messages. member: member of their state with the messages.

    Raises: EngineError, in every method.
    """

    def __init__(self, engine: Engine, name: str, member: str) -> None:
        self._client = engine.client
        self._name = name
        self._member = member

    async def all(self, key_prefix: str = "") -> Iterable[EntityMetadata]:
        """Entities whose keys begin so, with their states."""
        query = EntityQuery(f"@{self._name}@{key_prefix}", include_state=True)
        return await self._client.get_all_entities(query, what="list waiting messages")

    async def part(
        self,
        prefixes: Sequence[str],
        of: Callable[[EntityMetadata], Iterable[WaitingMessage]],
        limit: int,
        after: WaitingPlace,
    ) -> tuple[Sequence[WaitingMessage], WaitingPlace | None]:
        """Messages behind a place, by the ids of their entities and by age; and the place of the next part.

        prefixes: of the keys, without overlap. of: the wanted messages of an entity. limit: most messages.
        A part ends after `_MOST_ENTITIES` entities, also with fewer messages. Without more messages the place is None.
        """
        found: list[WaitingMessage] = []
        last, read, size = after, 0, min(limit + 1, _PAGE)
        for number in range(after.number, len(prefixes)):
            wanted = EntityFilter(f"@{self._name}@{prefixes[number]}", has_state=True)
            token: str | None = after.token if number == after.number else ""
            while token is not None:
                page, following = await self._client.entity_page(
                    wanted, token or None, size, what="list waiting messages"
                )
                for entity in page:
                    id_, messages = str(entity.id), sorted(of(entity), key=_age)
                    for each in messages:
                        if (number, id_, *_age(each)) <= (after.number, after.entity, after.since, after.id):
                            continue
                        if len(found) == limit:
                            return found, last
                        found.append(each)
                        last = WaitingPlace(number, token, id_, *_age(each))
                read, token = read + len(page), following
                if token is not None and (len(found) == limit or read >= _MOST_ENTITIES):
                    return found, WaitingPlace(number, token)
        return found, None

    async def unprocessed(self) -> int:
        """Number of entities with operations that no worker has processed: a listing may lack messages."""
        query = EntityQuery(f"@{self._name}@", include_state=False, include_transient=True)
        found = await self._client.get_all_entities(query, what="count entities with queued operations")
        return sum(each.backlog_queue_size > 0 for each in found)

    async def change(
        self,
        key: str,
        what: str,
        operation: str,
        value: dict[str, Any],
        *,
        counted: bool = True,
        refuses: Callable[[Any], bool] = lambda state: False,
    ) -> WaitingChange:
        """Send an operation to an entity, and return when a worker has processed it.

        counted: the operation may remove messages.
        refuses: True of a state in which the operation has no effect.
        Raises: InstanceNotFound when it has no messages.
        """
        entity = EntityInstanceId(self._name, key)
        state = await self._state(entity)
        before = self._count(state)
        if not before:
            found = await self._client.find_entity(entity, include_state=False)
            if found is not None and found.backlog_queue_size:
                raise EngineTimeout(f"{operation} {what}: no worker has processed what waits there; is one running?")
            raise InstanceNotFound(f"nothing waits for {what}")
        await self._client.signal_entity(entity, operation, value, what=f"{operation} {what}")
        end, idle = time.monotonic() + TIMEOUT, math.inf
        while True:
            found = await self._client.get_entity(entity, include_state=False)
            if found is None or not found.backlog_queue_size:
                now, idle = await self._state(entity), min(idle, time.monotonic())
                if now != state or refuses(now) or time.monotonic() - idle > _EFFECT_SECONDS:
                    return WaitingChange(what, before, self._count(now) if counted else before)
            if time.monotonic() > end:
                raise EngineTimeout(f"{operation} {what}: no worker has done it yet; is one running?")
            await asyncio.sleep(_POLL_SECONDS)

    async def state(self, key: str) -> dict[str, Any] | None:
        """State of an entity; None without one."""
        return await self._state(EntityInstanceId(self._name, key))

    async def _state(self, entity: EntityInstanceId) -> dict[str, Any] | None:
        found = await self._client.get_entity(entity)
        state: dict[str, Any] | None = None if found is None else json.loads(found.get_state() or "null")
        return state

    def _count(self, state: Mapping[str, Any] | None) -> int:
        return len((state or {}).get(self._member, ()))


def _age(one: WaitingMessage) -> tuple[str, str]:
    """Place of a message among those of its entity."""
    return one.since, one.id


def drop_value(ids: Sequence[str], forget: bool) -> dict[str, Any]:
    """Input of the operation `drop`.

    ids: of the messages; empty: all.
    forget: write no dead letters.
    """
    return {"marks": list(ids) or None, "forget": forget}
