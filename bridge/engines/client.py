"""Client of an engine: the one place that calls the SDK's client, which translates its errors and bounds its responses.

Every call has a deadline, which the channel sets (`bridge.engines.grpc_channel`, or the in-process channel). Responses
in several parts count as one (`bridge.engines.remote_limits`).
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, TypeVar

from durabletask.client import (
    AsyncTaskHubGrpcClient,
    CleanEntityStorageResult,
    EntityQuery,
    OrchestrationQuery,
    OrchestrationState,
    OrchestrationStatus,
    Page,
    PurgeInstancesResult,
)
from durabletask.entities import EntityInstanceId
from durabletask.entities.entity_metadata import EntityMetadata
from durabletask.history import HistoryEvent
from durabletask.internal import orchestrator_service_pb2 as pb
from durabletask.payload import PayloadStore
from durabletask.serialization import JsonDataConverter
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import StringValue

from bridge.core.errors import EngineError, EngineOutage, EngineRejected, InstanceNotFound
from bridge.core.histogram import SECONDS, Histogram
from bridge.core.lineage.records import RECORD_OPERATION
from bridge.core.system_names import LINEAGE
from bridge.engines.capabilities import ALL, Capability, answers, is_unimplemented, is_unknown_method
from bridge.engines.errors import translate
from bridge.engines.large_payloads import ClientPayloads
from bridge.engines.remote_channel import Call
from bridge.engines.remote_limits import one_response
from bridge.engines.requests import event_request, start_request, to_timestamp
from bridge.engines.sdk_internals import stores_payloads, stub_of
from bridge.sqlite_engine.model.reply import EVENT_CONFIRMED
from bridge.system.otel_context import current_ids, records_spans

T = TypeVar("T")

PROBE_ID = "bridge:probe"
"""Instance id of a probe. The prefix is reserved for the bridge, and no instance has this id."""

_ID_PAGE = 1000
_PAYLOAD_PAGE = 100
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


class EngineClient:
    """Calls on one engine, named as in the SDK's client. Every method raises EngineError.

    The parameter `what` describes the call in the error's text; each method has a default.
    """

    def __init__(self, sdk: AsyncTaskHubGrpcClient, payloads: PayloadStore | None = None) -> None:
        """Wrap a client of the SDK. `close` closes it.

        payloads: store of large payloads; the client's converter is then a `ClientConverter`.
        """
        self._sdk = sdk
        self._stores_payloads = stores_payloads(sdk)
        self._payloads = None if payloads is None else ClientPayloads(payloads)
        self.requests: dict[tuple[str, str], Histogram] = {}
        """Durations of requests by command and result: `ok`, or the reason of the error."""
        self.lacking = ALL
        """Capabilities that the engine does not have, as far as `learn` has found out."""

    async def _call(self, command: str, call: Coroutine[Any, Any, T], what: str) -> T:
        """Await a call of the SDK's client, and count it. what: the call, for the error.

        gRPC cancels a call whose channel was closed: such a call raises EngineUnavailable, while the cancellation of
        this task passes. Raises: EngineError.
        """
        began = time.perf_counter()
        result = "cancelled"
        try:
            answer = await call
            result = "ok"
            return answer
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, EngineError):
                result = error.reason
                raise
            translated = translate(error, what=what)
            result = translated.reason
            try:
                raise translated from error
            finally:
                del translated  # in a cycle with its own traceback it would live until the garbage collector runs
        finally:
            histogram = self.requests.get((command, result))
            if histogram is None:
                histogram = self.requests[command, result] = Histogram(SECONDS)
            histogram.observe(time.perf_counter() - began)

    async def _restore(self, message: Message) -> None:
        """Put the large payloads of a message in the place of their references. Raises: EngineError."""
        if self._payloads is not None:
            await self._payloads.restore(message)

    async def _stored(self, value: Any, target_id: str | None) -> Any:
        """Value to send to the instance or entity. Raises: TypeError, EngineError."""
        return value if self._payloads is None else await self._payloads.stored(value, target_id)

    async def _restored(self, answer: Coroutine[Any, Any, OrchestrationState | None]) -> OrchestrationState | None:
        """State of an instance with its large payloads. Raises: EngineError."""
        state = await answer
        return state if state is None or self._payloads is None else await self._payloads.restored(state)

    @property
    def _needs_sdk(self) -> bool:
        """True when the SDK's client must make the frequent requests: for its spans, or for its payload store."""
        return self._stores_payloads or records_spans() or current_ids() is not None

    @property
    def sdk(self) -> AsyncTaskHubGrpcClient:
        """Client of the SDK, for a client that answers some calls itself."""
        return self._sdk

    async def close(self) -> None:
        await self._sdk.close()

    async def probe(self, what: str) -> None:
        """Check the engine with a read of an instance that does not exist.

        Unlike a greeting, the read needs the task hub and the credentials.
        """
        try:
            await self.get_orchestration_state(PROBE_ID, fetch_payloads=False, what=what)
        except InstanceNotFound:
            return

    async def learn(self) -> None:
        """Find out which capabilities the engine lacks, by reads of an instance and an entity that do not exist.

        Raises: EngineOutage.
        """
        lacking = set()
        if not await answers(self.get_entity(EntityInstanceId("bridge.probe", PROBE_ID), include_state=False)):
            lacking.add(Capability.ENTITIES)
        query = pb.QueryInstancesRequest(
            query=pb.InstanceQuery(instanceIdPrefix=StringValue(value=PROBE_ID), maxInstanceCount=1)
        )
        if not await answers(self._call("list", stub_of(self._sdk).QueryInstances(query), "list instances")):
            lacking.add(Capability.QUERIES)
        try:
            await self.get_protocol_history(PROBE_ID)
        except EngineError as error:
            if is_unimplemented(error):
                lacking.add(Capability.HISTORIES)
                if is_unknown_method(error):
                    lacking.add(Capability.PROTOCOL)
            elif isinstance(error, EngineOutage):
                raise
        self.lacking = frozenset(lacking)

    def _has_entities(self) -> bool:
        return Capability.ENTITIES not in self.lacking

    async def server_time(self) -> float | None:
        """Time of the engine in seconds since 1970, from the date of an answer; None for an engine that sends none."""

        async def ask() -> float | None:
            call = stub_of(self._sdk).Hello(Empty())
            await call
            sent = next((value for key, value in await call.initial_metadata() if key == "date"), None)
            try:
                return None if sent is None else parsedate_to_datetime(str(sent)).timestamp()
            except ValueError:
                return None

        return await self._call("hello", ask(), "ask for the time")

    # Instances: changes

    async def schedule_new_orchestration(
        self,
        orchestration: str,
        *,
        input: Any = None,  # noqa: A002 -- the SDK's name
        instance_id: str | None = None,
        start_at: datetime | None = None,
        reuse_id_policy: pb.OrchestrationIdReusePolicy | None = None,
        tags: Mapping[str, str] | None = None,
        version: str | None = None,
        what: str | None = None,
    ) -> str:
        """Start an instance; return its id."""
        start: Any = self._sdk.schedule_new_orchestration if self._needs_sdk else partial(_start, self._sdk)

        async def send() -> str:
            return str(
                await start(
                    orchestration,
                    input=await self._stored(input, instance_id),
                    instance_id=instance_id,
                    start_at=start_at,
                    reuse_id_policy=reuse_id_policy,
                    tags=dict(tags) if tags else None,
                    version=version,
                )
            )

        return await self._call("start", send(), what or f"start {instance_id!r}")

    async def raise_orchestration_event(self, instance_id: str, event_name: str, *, data: Any = None) -> bool:
        """Raise an event. Returns True when the answer itself says that the event will reach the instance."""
        raise_event: Any = self._sdk.raise_orchestration_event if self._needs_sdk else partial(_raise, self._sdk)

        async def send() -> bool:
            return bool(await raise_event(instance_id, event_name, data=await self._stored(data, instance_id)))

        return await self._call("raise_event", send(), f"raise {event_name!r} to {instance_id!r}")

    async def terminate_orchestration(self, instance_id: str, *, output: Any = None, recursive: bool = True) -> None:
        async def terminate() -> None:
            stored = await self._stored(output, instance_id)
            await self._sdk.terminate_orchestration(instance_id, output=stored, recursive=recursive)

        await self._call("terminate", terminate(), f"terminate {instance_id!r}")

    async def suspend_orchestration(self, instance_id: str, *, reason: str | None = None) -> None:
        await self._call(
            "suspend", self._sdk.suspend_orchestration(instance_id, reason=reason), f"suspend {instance_id!r}"
        )

    async def resume_orchestration(self, instance_id: str, *, reason: str | None = None) -> None:
        await self._call(
            "resume", self._sdk.resume_orchestration(instance_id, reason=reason), f"resume {instance_id!r}"
        )

    async def restart_orchestration(self, instance_id: str, *, restart_with_new_instance_id: bool = False) -> str:
        """Run an instance again with its input; return the id it runs under."""
        call = self._sdk.restart_orchestration(instance_id, restart_with_new_instance_id=restart_with_new_instance_id)
        return await self._call("restart", call, f"restart {instance_id!r}")

    async def rewind_orchestration(self, instance_id: str, *, reason: str | None = None) -> None:
        await self._call(
            "rewind", self._sdk.rewind_orchestration(instance_id, reason=reason), f"rewind {instance_id!r}"
        )

    async def purge_orchestration(self, instance_id: str, recursive: bool = True) -> PurgeInstancesResult:

        async def purge() -> PurgeInstancesResult:
            result = await self._sdk.purge_orchestration(instance_id, recursive)
            if self._payloads is not None and result.deleted_instance_count:
                await self._payloads.purged(instance_id)
            return result

        return await self._call("purge", purge(), f"purge {instance_id!r}")

    async def purge_orchestrations_by(
        self,
        created_time_from: datetime | None = None,
        created_time_to: datetime | None = None,
        runtime_status: list[OrchestrationStatus] | None = None,
        recursive: bool = False,
    ) -> PurgeInstancesResult:
        call = self._sdk.purge_orchestrations_by(created_time_from, created_time_to, runtime_status, recursive)
        return await self._call("purge", call, "purge instances")

    # Instances: reads

    async def get_orchestration_state(
        self, instance_id: str, *, fetch_payloads: bool = True, what: str | None = None
    ) -> OrchestrationState | None:
        call = self._restored(self._sdk.get_orchestration_state(instance_id, fetch_payloads=fetch_payloads))
        return await self._call("get", call, what or f"show {instance_id!r}")

    async def find_instance(
        self, instance_id: str, *, fetch_payloads: bool = True, what: str | None = None
    ) -> OrchestrationState | None:
        """State of an instance; None when it does not exist, whether the engine answers that or refuses the read."""
        try:
            return await self.get_orchestration_state(instance_id, fetch_payloads=fetch_payloads, what=what)
        except InstanceNotFound:
            return None

    async def wait_for_orchestration_start(
        self,
        instance_id: str,
        *,
        fetch_payloads: bool = False,
        timeout: float = 60,  # noqa: ASYNC109 -- the SDK's name
    ) -> OrchestrationState | None:
        """Wait until the instance has started. Raises: EngineTimeout after `timeout` seconds."""
        call = self._sdk.wait_for_orchestration_start(instance_id, fetch_payloads=fetch_payloads, timeout=timeout)
        return await self._call("wait", self._restored(call), f"wait for {instance_id!r}")

    async def wait_for_orchestration_completion(
        self,
        instance_id: str,
        *,
        fetch_payloads: bool = True,
        timeout: float = 60,  # noqa: ASYNC109 -- the SDK's name
    ) -> OrchestrationState | None:
        """Wait until the instance has finished. Raises: EngineTimeout after `timeout` seconds."""
        call = self._sdk.wait_for_orchestration_completion(instance_id, fetch_payloads=fetch_payloads, timeout=timeout)
        return await self._call("wait", self._restored(call), f"wait for {instance_id!r}")

    async def get_orchestration_history(self, instance_id: str, *, what: str | None = None) -> list[HistoryEvent]:
        """History events of an instance, oldest first."""

        async def read() -> list[HistoryEvent]:
            found = await self._sdk.get_orchestration_history(instance_id)
            payloads = self._payloads
            return found if payloads is None else [await payloads.restored(event) for event in found]

        with one_response():
            return await self._call("history", read(), what or f"history of {instance_id!r}")

    async def get_protocol_history(self, instance_id: str) -> list[pb.HistoryEvent]:
        """History events of an instance as the protocol has them, which can be replayed."""

        async def read() -> list[pb.HistoryEvent]:
            request = pb.StreamInstanceHistoryRequest(instanceId=instance_id)
            found = [
                event async for chunk in stub_of(self._sdk).StreamInstanceHistory(request) for event in chunk.events
            ]
            for event in found:
                await self._restore(event)
            return found

        with one_response():
            return await self._call("history", read(), f"history of {instance_id!r}")

    async def get_all_orchestration_states(
        self, query: OrchestrationQuery | None = None, *, what: str = "list instances"
    ) -> list[OrchestrationState]:
        async def read() -> list[OrchestrationState]:
            found = await self._sdk.get_all_orchestration_states(query)
            payloads = self._payloads
            return found if payloads is None else [await payloads.restored(state) for state in found]

        with one_response():
            return await self._call("list", read(), what)

    async def find_tags(self, instance_id: str) -> Mapping[str, str] | None:
        """Tags of an instance, which the SDK's own read leaves out; None when it does not exist."""

        async def read() -> Mapping[str, str] | None:
            found = await stub_of(self._sdk).GetInstance(pb.GetInstanceRequest(instanceId=instance_id))
            return dict(found.orchestrationState.tags) if found.exists else None

        try:
            return await self._call("get", read(), f"read the tags of {instance_id!r}")
        except InstanceNotFound:
            return None

    async def get_all_tags(
        self, statuses: Sequence[OrchestrationStatus], prefix: str, page_size: int, *, what: str
    ) -> Sequence[tuple[str, OrchestrationStatus, Mapping[str, str]]]:
        """Id, status and tags of the instances with a prefix. The SDK's own query leaves out the tags."""

        async def read() -> list[tuple[str, OrchestrationStatus, Mapping[str, str]]]:
            token: StringValue | None = None
            found: list[tuple[str, OrchestrationStatus, Mapping[str, str]]] = []
            while True:
                query = pb.InstanceQuery(
                    runtimeStatus=[status.value for status in statuses],
                    instanceIdPrefix=StringValue(value=prefix),
                    maxInstanceCount=page_size,
                    continuationToken=token,
                )
                page = await stub_of(self._sdk).QueryInstances(pb.QueryInstancesRequest(query=query))
                found += [
                    (each.instanceId, OrchestrationStatus(each.orchestrationStatus), dict(each.tags))
                    for each in page.orchestrationState
                ]
                if not _has_more(page.continuationToken, token):
                    return found
                token = page.continuationToken

        with one_response():
            return await self._call("list", read(), what)

    async def instance_pages(
        self,
        statuses: Sequence[OrchestrationStatus] = (),
        prefix: str = "",
        created_from: datetime | None = None,
        created_to: datetime | None = None,
        *,
        payloads: bool = False,
        what: str = "select instances",
    ) -> AsyncIterator[Sequence[pb.OrchestrationState]]:
        """States of instances with their tags, page by page: a filter may select more than fit into memory.

        payloads: include inputs and outputs.
        """
        token: StringValue | None = None
        while True:
            query = pb.InstanceQuery(
                runtimeStatus=[status.value for status in statuses],
                instanceIdPrefix=StringValue(value=prefix) if prefix else None,
                createdTimeFrom=None if created_from is None else to_timestamp(created_from),
                createdTimeTo=None if created_to is None else to_timestamp(created_to),
                maxInstanceCount=_PAYLOAD_PAGE if payloads else _ID_PAGE,
                fetchInputsAndOutputs=payloads,
                continuationToken=token,
            )
            call = stub_of(self._sdk).QueryInstances(pb.QueryInstancesRequest(query=query))
            page = await self._call("list", call, what)
            if payloads and self._payloads is not None:
                # One at a time: the large payloads of a page may be larger than the memory
                for state in page.orchestrationState:
                    await self._call("list", self._restore(state), what)
                    yield [state]
                    state.Clear()
            else:
                yield page.orchestrationState
            if not _has_more(page.continuationToken, token):
                return
            token = page.continuationToken

    async def list_instance_ids(
        self,
        runtime_status: list[OrchestrationStatus] | None = None,
        completed_time_from: datetime | None = None,
        completed_time_to: datetime | None = None,
        page_size: int | None = None,
        continuation_token: str | None = None,
        *,
        what: str = "list finished instances",
    ) -> Page[str]:
        """One page of ids of finished instances."""
        call = self._sdk.list_instance_ids(
            runtime_status, completed_time_from, completed_time_to, page_size, continuation_token
        )
        return await self._call("list", call, what)

    async def list_all_instance_ids(
        self,
        runtime_status: list[OrchestrationStatus] | None = None,
        completed_time_from: datetime | None = None,
        completed_time_to: datetime | None = None,
    ) -> Sequence[str]:
        """Ids of all finished instances, by status and time of completion."""
        ids: list[str] = []
        token: str | None = None
        with one_response():
            while True:
                page = await self.list_instance_ids(
                    runtime_status, completed_time_from, completed_time_to, _ID_PAGE, token
                )
                ids += page.items
                if not page.items or not page.continuation_token or page.continuation_token == token:
                    return ids
                token = page.continuation_token

    # Entities

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

        if not self._has_entities():
            return

        async def read() -> None:
            token: StringValue | None = None
            while True:
                query = pb.EntityQuery(includeState=True, includeTransient=True, continuationToken=token)
                query.instanceIdStartsWith.value = f"@{name}@"
                query.pageSize.value = _ENTITY_PAGE
                page = await stub_of(self._sdk).QueryEntities(pb.QueryEntitiesRequest(query=query))
                for entity in page.entities:
                    visit(entity)
                if not _has_more(page.continuationToken, token):
                    return
                token = page.continuationToken

        with one_response(keeps=False):
            await self._call("list_entities", read(), what)

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
        return page.entities, page.continuationToken.value if _has_more(page.continuationToken, former) else None

    async def clean_entity_storage(
        self, remove_empty_entities: bool = True, release_orphaned_locks: bool = True
    ) -> CleanEntityStorageResult:
        with one_response(keeps=False):
            return await self._call(
                "clean_entities",
                self._sdk.clean_entity_storage(remove_empty_entities, release_orphaned_locks),
                "clean entities",
            )


async def _start(sdk: AsyncTaskHubGrpcClient, orchestration: str, **settings: Any) -> str:
    answer = await stub_of(sdk).StartInstance(start_request(orchestration, **settings))
    return str(answer.instanceId)


async def _raise(sdk: AsyncTaskHubGrpcClient, instance_id: str, event_name: str, *, data: Any) -> bool:
    call = stub_of(sdk).RaiseEvent(event_request(instance_id, event_name, data))
    await call
    return isinstance(call, Call) and EVENT_CONFIRMED in tuple(await call.trailing_metadata())


def _has_more(token: StringValue, former: StringValue | None) -> bool:
    """True when a page has a successor. As in the SDK, "0" ends the pages, and so does a token that repeats."""
    return token.value not in ("", "0", "" if former is None else former.value)
