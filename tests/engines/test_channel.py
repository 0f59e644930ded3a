# ruff: noqa: N802 - methods have the protocol's names
"""In-process channels must behave like gRPC wherever the SDK relies on it."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import durabletask.internal.orchestrator_service_pb2 as pb
import durabletask.internal.orchestrator_service_pb2_grpc as stubs
import grpc
import grpc.aio
import pytest
from durabletask.client import AsyncTaskHubGrpcClient, TaskHubGrpcClient
from google.protobuf import empty_pb2

from bridge.engines.embedded.inprocess import AioChannel, InProcessChannel
from tests.kit.waiting import TIMEOUT


class Servicer(stubs.TaskHubSidecarServiceServicer):
    """Servicer with plain functions and generators; some of them misbehave."""

    def __init__(self) -> None:
        self.contexts: list[grpc.ServicerContext] = []
        self.waiting = threading.Event()
        self.finished = threading.Event()

    def Hello(self, request: Any, context: Any) -> Any:
        self.contexts.append(context)
        return empty_pb2.Empty()

    def GetInstance(self, request: Any, context: Any) -> None:
        context.set_trailing_metadata((("why", "asked"),))
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not now")

    def StartInstance(self, request: Any, context: Any) -> None:
        raise KeyError("payload text")

    def RaiseEvent(self, request: Any, context: Any) -> Any:
        try:
            context.abort(grpc.StatusCode.NOT_FOUND, "swallowed")
        except Exception:
            return pb.RaiseEventResponse()

    def SuspendInstance(self, request: Any, context: Any) -> Any:
        context.set_code(grpc.StatusCode.ABORTED)
        context.set_details("conflict")
        return pb.SuspendResponse()

    def WaitForInstanceCompletion(self, request: Any, context: Any) -> Any:
        context.add_callback(self.finished.set)
        self.waiting.set()
        self.finished.wait(TIMEOUT)
        return pb.GetInstanceResponse(exists=False)

    def GetWorkItems(self, request: Any, context: Any) -> Any:
        yield pb.WorkItem(completionToken="1")
        self.waiting.set()
        self.finished.wait(TIMEOUT)
        yield pb.WorkItem(completionToken="2")

    def StreamInstanceHistory(self, request: Any, context: Any) -> Any:
        yield pb.HistoryChunk()
        context.abort(grpc.StatusCode.NOT_FOUND, "gone")


class AioServicer(stubs.TaskHubSidecarServiceServicer):
    """Servicer with coroutine functions and asynchronous generators."""

    def __init__(self) -> None:
        self.cancelled = asyncio.Event()
        self.closed = threading.Event()

    async def Hello(self, request: Any, context: Any) -> Any:
        await asyncio.sleep(0)
        return empty_pb2.Empty()

    async def GetInstance(self, request: Any, context: Any) -> None:
        await context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")

    async def StartInstance(self, request: Any, context: Any) -> None:
        try:
            await asyncio.sleep(TIMEOUT)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def GetWorkItems(self, request: Any, context: Any) -> Any:
        try:
            yield pb.WorkItem(completionToken="1")
            await asyncio.sleep(TIMEOUT)
        finally:
            self.closed.set()

    async def StreamInstanceHistory(self, request: Any, context: Any) -> Any:
        yield pb.HistoryChunk()
        yield pb.HistoryChunk()


def sync_stub(servicer: Any, **more: Any) -> Any:
    return stubs.TaskHubSidecarServiceStub(InProcessChannel(servicer, **more))


def aio_stub(servicer: Any, **more: Any) -> Any:
    return stubs.TaskHubSidecarServiceStub(AioChannel(servicer, **more))


async def test_aio_errors_are_what_the_sdk_catches() -> None:
    stub = aio_stub(Servicer())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.GetInstance(pb.GetInstanceRequest())
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert caught.value.details() == "not now"
    assert dict(caught.value.trailing_metadata()) == {"why": "asked"}
    assert "not now" in str(caught.value)


def test_sync_errors_are_rpc_errors() -> None:
    stub = sync_stub(Servicer())
    with pytest.raises(grpc.RpcError) as caught:
        stub.GetInstance(pb.GetInstanceRequest())
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert caught.value.details() == "not now"
    assert caught.value.trailing_metadata() == (("why", "asked"),)


@pytest.mark.parametrize(
    ("method", "request_", "code"),
    [
        ("StartInstance", pb.CreateInstanceRequest(), grpc.StatusCode.UNKNOWN),
        ("RaiseEvent", pb.RaiseEventRequest(), grpc.StatusCode.NOT_FOUND),
        ("SuspendInstance", pb.SuspendRequest(), grpc.StatusCode.ABORTED),
        ("ResumeInstance", pb.ResumeRequest(), grpc.StatusCode.UNIMPLEMENTED),
    ],
)
async def test_status_of_misbehaving_servicers(method: Any, request_: Any, code: Any) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        getattr(sync_stub(Servicer()), method)(request_)
    assert caught.value.code() is code
    assert "payload" not in caught.value.details()
    with pytest.raises(grpc.aio.AioRpcError) as awaited:
        await getattr(aio_stub(Servicer()), method)(request_)
    assert awaited.value.code() is code
    assert "payload" not in awaited.value.details()


async def test_deadlines_are_told_to_the_servicer() -> None:
    servicer = Servicer()
    await aio_stub(servicer, timeout=50.0).Hello(empty_pb2.Empty())
    await aio_stub(servicer, timeout=50.0).Hello(empty_pb2.Empty(), timeout=5.0)
    sync_stub(servicer).Hello(empty_pb2.Empty())
    first, second, third = (context.time_remaining() for context in servicer.contexts)
    assert 40 < first <= 50
    assert 4 < second <= 5
    assert third is None
    assert not any(context.is_active() for context in servicer.contexts)


async def test_metadata_is_bound_to_the_channel() -> None:
    servicer = Servicer()
    await aio_stub(servicer, metadata=[("taskhub", "eu")]).Hello(empty_pb2.Empty())
    sync_stub(servicer, metadata=[("taskhub", "us")]).Hello(empty_pb2.Empty())
    assert [dict(context.invocation_metadata())["taskhub"] for context in servicer.contexts] == ["eu", "us"]


async def test_blocking_methods_leave_the_loop_free_and_end_at_their_deadline() -> None:
    servicer = Servicer()
    stub = aio_stub(servicer)
    call = asyncio.create_task(stub.WaitForInstanceCompletion(pb.GetInstanceRequest(), timeout=0.2))
    ticks = 0
    while not call.done():
        await asyncio.sleep(0.01)
        ticks += 1
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert ticks > 2
    assert servicer.finished.wait(TIMEOUT), "the servicer did not notice the end of the call"


async def test_cancelling_a_wait_tells_the_servicer() -> None:
    servicer = Servicer()
    call = asyncio.create_task(aio_stub(servicer).WaitForInstanceCompletion(pb.GetInstanceRequest()))
    await asyncio.to_thread(servicer.waiting.wait, TIMEOUT)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert servicer.finished.wait(TIMEOUT)


async def test_closing_the_channel_ends_waits_and_refuses_calls() -> None:
    servicer = Servicer()
    channel = AioChannel(servicer)
    stub = stubs.TaskHubSidecarServiceStub(channel)
    call = asyncio.create_task(stub.WaitForInstanceCompletion(pb.GetInstanceRequest()))
    await asyncio.to_thread(servicer.waiting.wait, TIMEOUT)
    await channel.close()
    assert not (await call).exists
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Hello(empty_pb2.Empty())
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_requests_over_the_limit_are_refused_as_grpc_does(service: Any) -> None:
    waiting = aio_stub(AioServicer(), max_request=1000)
    with pytest.raises(grpc.aio.AioRpcError, match="larger than max"):
        await waiting.StartInstance(pb.CreateInstanceRequest(instanceId="x" * 1000))
    stub = aio_stub(service, max_request=1000)
    await stub.GetInstance(pb.GetInstanceRequest(instanceId="x" * 900))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.GetInstance(pb.GetInstanceRequest(instanceId="x" * 1000))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in caught.value.details()


def test_cancelling_a_stream_wakes_a_reader_whose_servicer_does_not_move() -> None:
    servicer = Servicer()
    stream = sync_stub(servicer).GetWorkItems(pb.GetWorkItemsRequest())
    assert next(stream).completionToken == "1"
    caught: list[BaseException] = []

    def read() -> None:
        try:
            next(stream)
        except grpc.RpcError as error:
            caught.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    assert servicer.waiting.wait(TIMEOUT)
    stream.cancel()
    reader.join(TIMEOUT)
    assert [error.code() for error in caught] == [grpc.StatusCode.CANCELLED]  # type: ignore[attr-defined]  # of the class behind the interface
    assert not stream.is_active()
    servicer.finished.set()


def test_streams_end_with_the_servicers_status() -> None:
    stream = sync_stub(Servicer()).StreamInstanceHistory(pb.StreamInstanceHistoryRequest())
    next(stream)
    with pytest.raises(grpc.RpcError) as caught:
        next(stream)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_aio_streams_end_with_the_servicers_status() -> None:
    stream = aio_stub(Servicer()).StreamInstanceHistory(pb.StreamInstanceHistoryRequest())
    await anext(stream)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await anext(stream)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_coroutine_servicers_on_the_loop() -> None:
    servicer = AioServicer()
    stub = aio_stub(servicer, timeout=0.1)
    assert await stub.Hello(empty_pb2.Empty()) == empty_pb2.Empty()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.GetInstance(pb.GetInstanceRequest())
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    with pytest.raises(grpc.aio.AioRpcError) as late:
        await stub.StartInstance(pb.CreateInstanceRequest())
    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert servicer.cancelled.is_set()
    assert len([chunk async for chunk in stub.StreamInstanceHistory(pb.StreamInstanceHistoryRequest())]) == 2


async def test_coroutine_servicers_from_threads() -> None:
    servicer = AioServicer()
    stub = sync_stub(servicer, timeout=0.1, loop=asyncio.get_running_loop())

    def calls() -> None:
        assert stub.Hello(empty_pb2.Empty()) == empty_pb2.Empty()
        with pytest.raises(grpc.RpcError) as caught:
            stub.GetInstance(pb.GetInstanceRequest())
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        with pytest.raises(grpc.RpcError) as late:
            stub.StartInstance(pb.CreateInstanceRequest())
        assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        stream = stub.GetWorkItems(pb.GetWorkItemsRequest())
        assert next(stream).completionToken == "1"
        stream.cancel()
        with pytest.raises(grpc.RpcError):
            next(stream)
        assert servicer.closed.wait(TIMEOUT)

    await asyncio.to_thread(calls)
    async with asyncio.timeout(TIMEOUT):
        await servicer.cancelled.wait()


async def test_a_call_that_would_wait_for_itself_is_refused() -> None:
    stub = sync_stub(AioServicer(), loop=asyncio.get_running_loop())
    with pytest.raises(grpc.RpcError):
        stub.Hello(empty_pb2.Empty())


async def test_clients_of_the_sdk_time_out(service: Any) -> None:
    client = TaskHubGrpcClient(channel=InProcessChannel(service))
    instance_id = client.schedule_new_orchestration("nobody", instance_id="i")
    aio = AsyncTaskHubGrpcClient(channel=AioChannel(service))
    with pytest.raises(TimeoutError):
        await aio.wait_for_orchestration_completion(instance_id, timeout=0.1)
    with pytest.raises(TimeoutError):
        await asyncio.to_thread(client.wait_for_orchestration_completion, instance_id, timeout=0.1)
    assert client.get_orchestration_state(instance_id) is not None


def test_interceptors_of_grpc_work_on_the_channel() -> None:
    seen = []

    class Interceptor(grpc.UnaryUnaryClientInterceptor):
        def intercept_unary_unary(self, continuation: Any, details: Any, request: pytest.FixtureRequest) -> Any:
            outcome = continuation(details, request)
            seen.append(outcome.code())
            return outcome

    stub = stubs.TaskHubSidecarServiceStub(grpc.intercept_channel(InProcessChannel(Servicer()), Interceptor()))
    stub.Hello(empty_pb2.Empty())
    with pytest.raises(grpc.RpcError):
        stub.GetInstance(pb.GetInstanceRequest())
    assert seen == [grpc.StatusCode.OK, grpc.StatusCode.FAILED_PRECONDITION]


async def test_a_call_adds_little_to_its_servicer() -> None:
    """The limit is twenty times the promised cost: only a lost hot path (a thread, a task, a copy) exceeds it."""
    servicer = Servicer()
    stub = aio_stub(servicer, timeout=10.0, max_request=1 << 22)
    request = empty_pb2.Empty()
    await stub.Hello(request)
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(500):
            await stub.Hello(request)
        best = min(best, (time.perf_counter() - began) / 500)
    assert best < 300e-6
