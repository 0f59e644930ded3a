"""The engine client translates all errors of all calls. A closed connection is an outage; a cancelled call is not."""

from __future__ import annotations

import ast
import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import grpc
import pytest
from durabletask.client import AsyncTaskHubGrpcClient, OrchestrationStatus
from durabletask.entities import EntityInstanceId
from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.core.errors import EngineError, EngineOutage, EngineRejected, EngineTimeout
from bridge.engines.client import EngineClient
from bridge.engines.embedded.inprocess import AioChannel
from bridge.engines.entity_client import EntityFilter
from bridge.engines.errors import STATUS
from bridge.sqlite_engine.protocol.service import SidecarService
from tests.engines.test_errors import EXPECTED
from tests.kit.source import trees, walk

BRIDGE = Path(__file__).parents[2] / "bridge"
ENTITY = EntityInstanceId("counter", "a")
CALLS: dict[str, Callable[[EngineClient], Coroutine[Any, Any, Any]]] = {
    "probe": lambda client: client.probe("engine 'default'"),
    "schedule_new_orchestration": lambda client: client.schedule_new_orchestration("echo", instance_id="a"),
    "raise_orchestration_event": lambda client: client.raise_orchestration_event("a", "paid"),
    "terminate_orchestration": lambda client: client.terminate_orchestration("a"),
    "suspend_orchestration": lambda client: client.suspend_orchestration("a"),
    "resume_orchestration": lambda client: client.resume_orchestration("a"),
    "restart_orchestration": lambda client: client.restart_orchestration("a"),
    "rewind_orchestration": lambda client: client.rewind_orchestration("a"),
    "purge_orchestration": lambda client: client.purge_orchestration("a"),
    "purge_orchestrations_by": lambda client: client.purge_orchestrations_by(),
    "get_orchestration_state": lambda client: client.get_orchestration_state("a"),
    "find_instance": lambda client: client.find_instance("a"),
    "wait_for_orchestration_start": lambda client: client.wait_for_orchestration_start("a", timeout=5),
    "wait_for_orchestration_completion": lambda client: client.wait_for_orchestration_completion("a", timeout=5),
    "get_orchestration_history": lambda client: client.get_orchestration_history("a"),
    "get_protocol_history": lambda client: client.get_protocol_history("a"),
    "get_all_orchestration_states": lambda client: client.get_all_orchestration_states(),
    "find_tags": lambda client: client.find_tags("a"),
    "get_all_tags": lambda client: client.get_all_tags([OrchestrationStatus.RUNNING], "a", 10, what="count"),
    "list_instance_ids": lambda client: client.list_instance_ids(),
    "list_all_instance_ids": lambda client: client.list_all_instance_ids(),
    "signal_entity": lambda client: client.signal_entity(ENTITY, "add"),
    "get_entity": lambda client: client.get_entity(ENTITY),
    "find_entity": lambda client: client.find_entity(ENTITY),
    "get_all_entities": lambda client: client.get_all_entities(),
    "entity_page": lambda client: client.entity_page(EntityFilter("@counter@"), None, 10, what="list"),
    "visit_entities": lambda client: client.visit_entities("counter", lambda entity: None, what="count"),
    "clean_entity_storage": lambda client: client.clean_entity_storage(),
    "server_time": lambda client: client.server_time(),
    "search_lineage": lambda client: client.search_lineage([["a"]]),
    "record_lineage": lambda client: client.record_lineage({"kind": "published"}),
}
MISSING_IS_AN_ANSWER = {"find_tags", "probe", "find_instance"}
every_call = pytest.mark.parametrize("call", list(CALLS.values()), ids=list(CALLS))


class Refusing:
    """Servicer that answers every call with one status."""

    def __init__(self, code: grpc.StatusCode) -> None:
        self._code = code

    def __getattr__(self, name: str) -> Any:
        def call(request: Any, context: Any) -> Any:
            context.abort(self._code, "the card 4111")

        return call


class Silent:
    """Servicer that answers nothing."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        async def call(request: Any, context: Any) -> Any:
            self.asked.set()
            await asyncio.Event().wait()

        async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
            self.asked.set()
            await asyncio.Event().wait()
            yield pb.HistoryChunk()

        return stream if name == "StreamInstanceHistory" else call


def test_every_call_is_tried() -> None:
    methods = {name for name, _ in inspect.getmembers(EngineClient, inspect.iscoroutinefunction)}
    assert {name for name in methods if not name.startswith("_")} - {"close", "learn"} == set(CALLS)


@every_call
async def test_every_status_is_translated(call: Callable[[EngineClient], Coroutine[Any, Any, Any]]) -> None:
    name = next(name for name, each in CALLS.items() if each is call)
    for code in STATUS:
        if code is grpc.StatusCode.OK:
            continue
        client = EngineClient(AsyncTaskHubGrpcClient(channel=AioChannel(Refusing(code))))
        if code is grpc.StatusCode.NOT_FOUND and name in MISSING_IS_AN_ANSWER:
            assert await call(client) is None
            continue
        with pytest.raises(EngineError) as caught:
            await call(client)
        assert type(caught.value) is EXPECTED[code.name], code
        if not name.startswith("wait_for_"):  # the SDK itself replaces a timeout of these by one of its own
            assert ("4111" in str(caught.value)) == isinstance(caught.value, EngineOutage), code


@every_call
async def test_a_closed_connection_is_an_outage(
    call: Callable[[EngineClient], Coroutine[Any, Any, Any]], unused_tcp_port: int
) -> None:
    """gRPC cancels the calls of a channel that is closed."""
    listening = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", unused_tcp_port)
    async with listening:
        client = EngineClient(AsyncTaskHubGrpcClient(host_address=f"127.0.0.1:{unused_tcp_port}"))
        asking = asyncio.create_task(call(client))
        await asyncio.sleep(0)
        while not asking.done():
            await client.close()
            await asyncio.sleep(0)
        with pytest.raises(EngineOutage):
            await asking


@every_call
async def test_a_cancelled_call_is_cancelled(call: Callable[[EngineClient], Coroutine[Any, Any, Any]]) -> None:
    servicer = Silent()
    asking = asyncio.create_task(call(EngineClient(AsyncTaskHubGrpcClient(channel=AioChannel(servicer)))))
    await servicer.asked.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_a_wait_that_ends_is_a_timeout(service: SidecarService) -> None:
    client = EngineClient(AsyncTaskHubGrpcClient(channel=AioChannel(service)))
    await client.schedule_new_orchestration("echo", instance_id="a")
    with pytest.raises(EngineTimeout):
        await client.wait_for_orchestration_completion("a", timeout=0.01)


async def test_a_value_without_a_form_is_rejected(service: SidecarService) -> None:
    client = EngineClient(AsyncTaskHubGrpcClient(channel=AioChannel(service)))
    with pytest.raises(EngineRejected, match="start 'a': the SDK cannot make a request of it"):
        await client.schedule_new_orchestration("echo", input=object(), instance_id="a")


def test_nothing_else_calls_the_sdk_client() -> None:
    """Only engines construct the SDK's client, to wrap it at once."""
    users = {
        str(path)
        for path, tree in trees(text="durabletask")
        for node in walk(tree)
        if isinstance(node, ast.ImportFrom)
        and (node.module or "").startswith("durabletask")
        and any(name.name.endswith("GrpcClient") or name.name.endswith("SchedulerClient") for name in node.names)
    }
    assert users == {
        "engines/client.py",
        "engines/client_calls.py",
        "engines/embedded/engine.py",
        "engines/scheduler.py",
        "engines/sdk_internals.py",
        "testing/engine.py",
    }
    for name in ("engines/embedded/engine.py", "engines/scheduler.py", "testing/engine.py"):
        for node in ast.walk(ast.parse((BRIDGE / name).read_text())):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "sdk":
                pytest.fail(f"{name}:{node.lineno} calls the SDK's client: {ast.unparse(node)}")
