"""The channel of a remote engine's client: headers and deadlines in each call, and new connections after failures."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import durabletask.internal.orchestrator_service_pb2_grpc as stubs
import grpc
import grpc.aio
import pytest
from durabletask.client import AsyncTaskHubGrpcClient
from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.core.errors import EngineTimeout, EngineUnavailable
from bridge.core.origin import MessageOrigin
from bridge.engines.client import EngineClient
from bridge.engines.remote import remote_channel
from bridge.engines.remote.grpc_channel import PARENT
from bridge.engines.remote.remote_channel import MOST_FAILURES, AioCallHeaders, RemoteChannel
from tests.kit.waiting import TIMEOUT

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Servicer(stubs.TaskHubSidecarServiceServicer):
    """Servicer that keeps what arrives, and refuses calls while `status` is set."""

    def __init__(self) -> None:
        self.status: grpc.StatusCode | None = None
        self.headers: list[dict[str, str]] = []
        self.remaining: list[float] = []
        self.peers: list[str] = []
        self.starts: list[Any] = []
        self.waiting = asyncio.Event()
        self.go = asyncio.Event()
        self.ended = asyncio.Event()

    async def _take(self, context: Any) -> None:
        self.headers.append({key: value for key, value in context.invocation_metadata() if isinstance(value, str)})
        self.remaining.append(context.time_remaining())
        self.peers.append(context.peer())
        if self.status is not None:
            await context.abort(self.status, "refused")

    async def StartInstance(self, request: Any, context: Any) -> Any:  # noqa: N802 -- the protocol's name
        await self._take(context)
        self.starts.append(request)
        return pb.CreateInstanceResponse(instanceId=request.instanceId)

    async def RaiseEvent(self, request: Any, context: Any) -> Any:  # noqa: N802 -- the protocol's name
        await self._take(context)
        self.waiting.set()
        try:
            await self.go.wait()
        finally:
            self.ended.set()
        return pb.RaiseEventResponse()

    async def WaitForInstanceCompletion(self, request: Any, context: Any) -> Any:  # noqa: N802 -- the protocol's name
        await self._take(context)
        await asyncio.Event().wait()

    async def StreamInstanceHistory(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802 -- the protocol's name
        await self._take(context)
        yield pb.HistoryChunk()


class Tokens:
    """Interceptor with a token that it counts, as the scheduler's has one."""

    def __init__(self) -> None:
        self.asked = 0
        self.hangs = False

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        self.asked += 1
        if self.hangs:
            await asyncio.Event().wait()
        metadata = [*(details.metadata or ()), ("authorization", f"Bearer {self.asked}")]
        return await continuation(details._replace(metadata=metadata), request)


class Connected:
    """Client, channel and servicer. connections: number of connections that the channel has made."""

    def __init__(self, servicer: Servicer, address: str, headers: AioCallHeaders | None, timeout: float) -> None:
        self.servicer = servicer
        self.connections = 0
        self._address = address
        self.channel = RemoteChannel(self._connect, timeout, headers)
        self.client = EngineClient(AsyncTaskHubGrpcClient(channel=self.channel, emit_trace_spans=False))

    def _connect(self) -> Any:
        self.connections += 1
        return grpc.aio.insecure_channel(self._address, [("grpc.use_local_subchannel_pool", 1)])

    async def start(self) -> None:
        await self.client.schedule_new_orchestration("order", instance_id="i")


@asynccontextmanager
async def connected(headers: AioCallHeaders | None = None, timeout: float = TIMEOUT) -> AsyncIterator[Connected]:
    servicer, server = Servicer(), grpc.aio.server()
    stubs.add_TaskHubSidecarServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    found = Connected(servicer, f"127.0.0.1:{port}", headers, timeout)
    try:
        yield found
    finally:
        await found.channel.close()
        await server.stop(None)


async def test_each_call_has_headers_and_a_deadline() -> None:
    tokens = Tokens()
    async with connected(AioCallHeaders([tokens]), timeout=50.0) as it:
        it.servicer.go.set()
        await it.start()
        await it.client.raise_orchestration_event("i", "paid")
        await it.client.get_protocol_history("i")
        with pytest.raises(EngineTimeout):
            await it.client.wait_for_orchestration_completion("i", timeout=0.5)
        assert [headers["authorization"] for headers in it.servicer.headers] == ["Bearer 1"] * 4
        *most, last = it.servicer.remaining
        assert all(40 < seconds < 51 for seconds in most)
        assert last < 1


async def test_headers_are_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_channel, "HEADERS_SECONDS", 0.0)
    async with connected(AioCallHeaders([Tokens()])) as it:
        await it.start()
        await it.start()
        assert [headers["authorization"] for headers in it.servicer.headers] == ["Bearer 1", "Bearer 2"]


async def test_the_deadline_includes_the_time_for_a_token() -> None:
    tokens = Tokens()
    tokens.hangs = True
    async with connected(AioCallHeaders([tokens]), timeout=0.1) as it:
        with pytest.raises(EngineTimeout):
            await it.start()
        with pytest.raises(EngineTimeout):
            await it.client.get_protocol_history("i")
        assert it.servicer.headers == []


async def test_a_start_has_the_trace_context_of_its_message() -> None:
    async with connected() as it:
        PARENT.set(MessageOrigin("m", "route", traceparent=TRACE))
        await it.start()
        assert it.servicer.starts[0].parentTraceContext.traceParent == TRACE


async def test_repeated_failures_make_one_new_connection() -> None:
    async with connected() as it:
        it.servicer.status = grpc.StatusCode.UNAVAILABLE
        for _ in range(3 * MOST_FAILURES):
            with pytest.raises(EngineUnavailable):
                await it.start()
        it.servicer.status = None
        await it.start()
        assert it.connections == 2
        assert len(set(it.servicer.peers)) == 2


@pytest.mark.parametrize("between", [None, grpc.StatusCode.NOT_FOUND])
async def test_failures_with_other_answers_between_them_keep_the_connection(between: grpc.StatusCode | None) -> None:
    async with connected() as it:
        for _ in range(2 * MOST_FAILURES):
            for status in (grpc.StatusCode.UNAVAILABLE, between):
                it.servicer.status = status
                await asyncio.gather(it.start(), return_exceptions=True)
        assert it.connections == 1


async def test_the_deadline_of_a_wait_is_no_failure_of_the_connection() -> None:
    async with connected() as it:
        for _ in range(2 * MOST_FAILURES):
            with pytest.raises(EngineTimeout):
                await it.client.wait_for_orchestration_completion("i", timeout=0.01)
        assert it.connections == 1


async def test_calls_on_a_replaced_connection_end() -> None:
    async with connected() as it:
        call = asyncio.create_task(it.client.raise_orchestration_event("i", "paid"))
        async with asyncio.timeout(TIMEOUT):
            await it.servicer.waiting.wait()
        it.servicer.status = grpc.StatusCode.UNAVAILABLE
        for _ in range(MOST_FAILURES):
            with pytest.raises(EngineUnavailable):
                await it.start()
        it.servicer.status = None
        await it.start()
        assert it.connections == 2
        it.servicer.go.set()
        async with asyncio.timeout(TIMEOUT):
            await call


async def test_closing_ends_calls_and_refuses_later_ones() -> None:
    async with connected() as it:
        call = asyncio.create_task(it.client.raise_orchestration_event("i", "paid"))
        async with asyncio.timeout(TIMEOUT):
            await it.servicer.waiting.wait()
        await it.channel.close()
        with pytest.raises(EngineUnavailable):
            await call
        with pytest.raises(EngineUnavailable):
            await it.start()
        with pytest.raises(EngineUnavailable):
            await it.client.get_protocol_history("i")
        assert it.channel.get_state() is grpc.ChannelConnectivity.SHUTDOWN
        await it.channel.close()


async def test_a_cancelled_call_ends_at_the_engine() -> None:
    async with connected() as it, asyncio.timeout(TIMEOUT):
        call = asyncio.create_task(it.client.raise_orchestration_event("i", "paid"))
        await it.servicer.waiting.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await it.servicer.ended.wait()
