"""Calls on the entities of an engine, and on its lineage index, which is reached as entities are."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from durabletask.client import CleanEntityStorageResult, EntityQuery
from durabletask.entities import EntityInstanceId
from durabletask.entities.entity_metadata import EntityMetadata
from durabletask.internal import orchestrator_service_pb2 as pb
from durabletask.serialization import JsonDataConverter
from google.protobuf.wrappers_pb2 import StringValue

from bridge.core.errors import EngineRejected
from bridge.core.lineage.records import RECORD_OPERATION
from bridge.core.system_names import LINEAGE
from bridge.engines.client_calls import ClientCalls, has_more
from bridge.engines.remote.remote_limits import one_response
from bridge.engines.remote.requests import to_timestamp
from bridge.engines.sdk_internals import stub_of

_SEARCHES = 500
"""Most searches of the lineage index in one call."""

_ENTITY_PAGE = 100
"""Entities that are read at once; the embedded engine sends fewer when they are large."""


@dataclass(frozen=True, slots=True)
class LineageRecord:
    """Record of the index. at: seconds since the Unix epoch. kind, body: see `bridge.core.lineage.records`."""

    at: float
    kind: int
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class LineageHit:
    """Result of one search of a lineage index, by hashes: the caller checks each part. more: parts were left out."""

    instances: tuple[str, ...] = ()
    entities: tuple[str, ...] = ()
    records: tuple[LineageRecord, ...] = ()
    more: bool = False

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> LineageHit:
        records = (LineageRecord(at / 1e6, kind, json.loads(body)) for at, kind, body in found["records"])
        return cls(tuple(found["instances"]), tuple(found["entities"]), tuple(records), found["more"])


@dataclass(frozen=True, slots=True)
class LineageHits:
    """Results of searches.

    last_key: 0 when every instance has rows.
    begin: time since which no row is missing, in microseconds; 0 when none is known.
    bounded: rows may be missing at any time, beyond the bounds of the index.
    """

    last_key: int
    begin: int
    hits: Sequence[LineageHit]
    bounded: bool = False


@dataclass(frozen=True, slots=True)
class EntityFilter:
    """Entities of a page. prefix: of their ids, like `@counter@`; empty for all.

    modified_from, modified_to: limits of the last change; None for none. has_state: read the states.
    is_transient: include entities without a state whose operations are queued.
    """

    prefix: str = ""
    modified_from: datetime | None = None
    modified_to: datetime | None = None
    has_state: bool = False
    is_transient: bool = False


class EntityClient(ClientCalls):
    """Calls on entities, named as in the SDK's client. Every method raises EngineError."""

    async def signal_entity(
        self,
        entity: EntityInstanceId,
        operation_name: str,
        input: Any = None,  # noqa: A002 -- the SDK's name
        signal_time: datetime | None = None,
        *,
        what: str | None = None,
    ) -> None:
        """Send an operation; return when the engine has accepted it."""
        if not self._has_entities():
            raise EngineRejected(f"{what or f'signal {operation_name!r} to {entity}'}: the engine has no entities")

        async def send() -> None:
            stored = await self._stored(input, str(entity))
            await self._sdk.signal_entity(entity, operation_name, stored, signal_time)

        await self._call("signal_entity", send(), what or f"signal {operation_name!r} to {entity}")

    async def get_entity(
        self, entity: EntityInstanceId, include_state: bool = True, *, what: str | None = None
    ) -> EntityMetadata | None:
        """Read an entity; None while it has no state."""
        if not self._has_entities():
            return None
        return await self._call("get_entity", self._sdk.get_entity(entity, include_state), what or f"look at {entity}")

    async def find_entity(
        self, entity: EntityInstanceId, *, include_state: bool = True, what: str | None = None
    ) -> EntityMetadata | None:
        """Read an entity of the bridge, also while it has no state but queued operations; None when it has neither.

        `get_entity` does not return an entity without a state, but a query for transient entities does. No key of the
        bridge's entities is a prefix of another (`bridge.core.system_names`): the query reads this entity alone.
        """
        query = EntityQuery(str(entity), include_state=include_state, include_transient=True)
        found = await self.get_all_entities(query, what=what or f"look at {entity}")
        return next((each for each in found if each.id == entity), None)

    async def get_all_entities(
        self, query: EntityQuery | None = None, *, what: str = "list entities"
    ) -> list[EntityMetadata]:
        if not self._has_entities():
            return []
        with one_response():
            return await self._call("list_entities", self._sdk.get_all_entities(query), what)

    async def search_lineage(self, searches: Sequence[Collection[str]]) -> LineageHits | None:
        """Search the engine's lineage index; None where the engine has none.

        searches: ids that mean the same, for each search. The answer has one hit each, in order.
        """
        found: list[Any] = []
        begin: tuple[int, int] | None = None
        for start in range(0, len(searches), _SEARCHES):
            part = [sorted(ids) for ids in searches[start : start + _SEARCHES]]
            query = EntityQuery(f"@{LINEAGE}@{json.dumps(part)}", include_state=True)
            answer = await self.get_all_entities(query, what="search the lineage index")
            if not answer:
                return None
            state = json.loads(answer[0].get_state() or "null")
            begin = tuple(state["begin"])
            found += state["found"]
        return LineageHits(*(begin or (0, 0)), [LineageHit.of(each) for each in found])

    async def record_lineage(self, record: Mapping[str, Any]) -> None:
        """Add a record to the engine's lineage index."""
        entity = EntityInstanceId(LINEAGE, "records")
        await self.signal_entity(entity, RECORD_OPERATION, record, what="record lineage")

    async def visit_entities(self, name: str, visit: Callable[[pb.EntityMetadata], None], *, what: str) -> None:
        """Call `visit` with every entity of a name, page by page, because their states may be large together.

        The SDK's own method collects all pages before it returns.
        """
        with one_response(keeps=False):
            async for page in self.entity_pages(f"@{name}@", what=what):
                for entity in page:
                    visit(entity)

    async def entity_pages(self, prefix: str, *, what: str) -> AsyncIterator[Sequence[pb.EntityMetadata]]:
        """Entities whose ids begin with a prefix, with their states, page by page in the order of their ids.

        Entities without a state whose operations are queued are included.
        """
        token: str | None = None
        wanted = EntityFilter(prefix, has_state=True, is_transient=True)
        while True:
            page, token = await self._entity_page(wanted, token, _ENTITY_PAGE, what)
            yield page
            if token is None:
                return

    async def entity_page(
        self, wanted: EntityFilter, token: str | None, size: int, *, what: str
    ) -> tuple[Sequence[EntityMetadata], str | None]:
        """Entities in the order of their ids, and the token of the page after them; None after the last one.

        token: of this page; None for the first one. size: most entities; an engine may return fewer.
        """
        page, following = await self._entity_page(wanted, token, size, what)
        converter = JsonDataConverter()
        return [EntityMetadata.from_entity_metadata(each, wanted.has_state, converter) for each in page], following

    async def _entity_page(
        self, wanted: EntityFilter, token: str | None, size: int, what: str
    ) -> tuple[Sequence[pb.EntityMetadata], str | None]:
        if not self._has_entities():
            return [], None
        former = None if token is None else StringValue(value=token)
        query = pb.EntityQuery(
            instanceIdStartsWith=StringValue(value=wanted.prefix) if wanted.prefix else None,
            lastModifiedFrom=None if wanted.modified_from is None else to_timestamp(wanted.modified_from),
            lastModifiedTo=None if wanted.modified_to is None else to_timestamp(wanted.modified_to),
            includeState=wanted.has_state,
            includeTransient=wanted.is_transient,
            continuationToken=former,
        )
        query.pageSize.value = size
        page = await self._call(
            "list_entities", stub_of(self._sdk).QueryEntities(pb.QueryEntitiesRequest(query=query)), what
        )
        return page.entities, page.continuationToken.value if has_more(page.continuationToken, former) else None

    async def clean_entity_storage(
        self, remove_empty_entities: bool = True, release_orphaned_locks: bool = True
    ) -> CleanEntityStorageResult:
        with one_response(keeps=False):
            return await self._call(
                "clean_entities",
                self._sdk.clean_entity_storage(remove_empty_entities, release_orphaned_locks),
                "clean entities",
            )
