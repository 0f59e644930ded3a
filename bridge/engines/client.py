"""Client of an engine: the one place that calls the SDK's client, which translates its errors and bounds its responses.

Every call has a deadline, which the channel sets (`bridge.engines.remote.grpc_channel`, or the in-process channel).
Responses in several parts count as one (`bridge.engines.remote.remote_limits`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any

from durabletask.client import (
    AsyncTaskHubGrpcClient,
    OrchestrationQuery,
    OrchestrationState,
    OrchestrationStatus,
    Page,
    PurgeInstancesResult,
)
from durabletask.entities import EntityInstanceId
from durabletask.history import HistoryEvent
from durabletask.internal import orchestrator_service_pb2 as pb
from google.protobuf.empty_pb2 import Empty
from google.protobuf.wrappers_pb2 import StringValue

from bridge.core.errors import EngineError, EngineOutage, InstanceNotFound
from bridge.engines.client_calls import has_more
from bridge.engines.entity_client import EntityClient
from bridge.engines.remote.capabilities import Capability, answers, is_unimplemented, is_unknown_method
from bridge.engines.remote.remote_channel import RemoteCall
from bridge.engines.remote.remote_limits import one_response
from bridge.engines.remote.requests import event_request, start_request, to_timestamp
from bridge.engines.sdk_internals import stub_of
from bridge.sqlite_engine.model.reply import EVENT_CONFIRMED
from bridge.system.otel_context import current_ids, records_spans

PROBE_ID = "bridge:probe"
"""Instance id of a probe. The prefix is reserved for the bridge, and no instance has this id."""

_ID_PAGE = 1000
_PAYLOAD_PAGE = 100


class EngineClient(EntityClient):
    """Calls on one engine, named as in the SDK's client. Every method raises EngineError.

    The parameter `what` describes the call in the error's text; each method has a default.
    """

    @property
    def _needs_sdk(self) -> bool:
        """True when the SDK's client must make the frequent requests: for its spans, or for its payload store."""
        return self._stores_payloads or records_spans() or current_ids() is not None

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
        with one_response():
            pages = self.instance_pages(statuses, prefix, page_size=page_size, what=what)
            return [
                (each.instanceId, OrchestrationStatus(each.orchestrationStatus), dict(each.tags))
                async for page in pages
                for each in page
            ]

    async def instance_pages(
        self,
        statuses: Sequence[OrchestrationStatus] = (),
        prefix: str = "",
        created_from: datetime | None = None,
        created_to: datetime | None = None,
        *,
        payloads: bool = False,
        page_size: int | None = None,
        what: str = "select instances",
    ) -> AsyncIterator[Sequence[pb.OrchestrationState]]:
        """States of instances with their tags, page by page: a filter may select more than fit into memory.

        payloads: include inputs and outputs.
        page_size: largest number of instances of a page; None: as many as suit the payloads.
        """
        token: StringValue | None = None
        while True:
            query = pb.InstanceQuery(
                runtimeStatus=[status.value for status in statuses],
                instanceIdPrefix=StringValue(value=prefix) if prefix else None,
                createdTimeFrom=None if created_from is None else to_timestamp(created_from),
                createdTimeTo=None if created_to is None else to_timestamp(created_to),
                maxInstanceCount=page_size or (_PAYLOAD_PAGE if payloads else _ID_PAGE),
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
            if not has_more(page.continuationToken, token):
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


async def _start(sdk: AsyncTaskHubGrpcClient, orchestration: str, **settings: Any) -> str:
    answer = await stub_of(sdk).StartInstance(start_request(orchestration, **settings))
    return str(answer.instanceId)


async def _raise(sdk: AsyncTaskHubGrpcClient, instance_id: str, event_name: str, *, data: Any) -> bool:
    call = stub_of(sdk).RaiseEvent(event_request(instance_id, event_name, data))
    await call
    return isinstance(call, RemoteCall) and EVENT_CONFIRMED in tuple(await call.trailing_metadata())
