"""Sidecar protocol over a database, with blocking or with asynchronous handlers.

The servers and the in-process channel of the client use the asynchronous ones. A worker on an in-process channel of its
own uses the blocking ones.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as FutureTimeout
from queue import Empty, SimpleQueue
from typing import Any

import grpc
from durabletask.internal import orchestrator_service_pb2 as pb
from durabletask.internal.orchestrator_service_pb2_grpc import TaskHubSidecarServiceServicer

from bridge.sqlite_engine.database import Database, Put
from bridge.sqlite_engine.hub.leases import WorkerStream
from bridge.sqlite_engine.model.reply import DEFERRED, EVENT_CONFIRMED, LoopReply, Rejection, ThreadReply

PING_SECONDS = 30.0
"""Seconds of silence after which a worker's stream gets a health ping; workers disconnect after 120 seconds."""

UNARY = (
    "Hello", "StartInstance", "GetInstance", "RewindInstance", "RestartInstance", "WaitForInstanceStart",
    "WaitForInstanceCompletion", "RaiseEvent", "TerminateInstance", "SuspendInstance", "ResumeInstance",
    "QueryInstances", "ListInstanceIds", "PurgeInstances", "CompleteActivityTask", "CompleteOrchestratorTask",
    "CompleteEntityTask", "CreateTaskHub", "DeleteTaskHub", "SignalEntity", "GetEntity", "QueryEntities",
    "CleanEntityStorage", "AbandonTaskActivityWorkItem", "AbandonTaskOrchestratorWorkItem",
    "AbandonTaskEntityWorkItem", "SkipGracefulOrchestrationTerminations",
)  # fmt: skip
"""Methods with one request and one response."""

WAITS = frozenset({"WaitForInstanceStart", "WaitForInstanceCompletion"})

_CLOSED = object()


class SidecarService(TaskHubSidecarServiceServicer):
    """Servicer with blocking handlers; `context` is gRPC's, or an in-process channel's."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def database(self, context: grpc.ServicerContext) -> Database:
        """Task hub that serves the call. Raises: Rejection."""
        return self._database

    def _unary(self, method: str, request: Any, context: grpc.ServicerContext) -> Any:
        reply = ThreadReply()
        try:
            database = self.database(context)
            answer = database.call(method, request, reply, context.peer())
            if answer is not DEFERRED:
                return answer
            if method in WAITS:
                context.add_callback(reply.future.cancel)
            return reply.future.result(timeout=_seconds_left(context))
        except Rejection as rejection:
            context.abort(rejection.code, rejection.details)
        except (FutureTimeout, CancelledError):
            if method in WAITS:
                self.database(context).forget(request.instanceId, reply)
            context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, f"{method}: the deadline has passed")

    def GetWorkItems(  # noqa: N802 -- the protocol's name
        self, request: pb.GetWorkItemsRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.WorkItem]:
        """Stream work items to a worker until the worker disconnects or the engine stops."""
        queue: SimpleQueue[Any] = SimpleQueue()
        stream = WorkerStream(request, queue.put, peer=context.peer())
        if not context.add_callback(lambda: queue.put(_CLOSED)):
            return
        try:
            database = self.database(context)
            database.connect(stream)
        except Rejection as rejection:
            context.abort(rejection.code, rejection.details)
            return
        try:
            while True:
                try:
                    item = queue.get(timeout=PING_SECONDS)
                except Empty:
                    item = pb.WorkItem(healthPing=pb.HealthPing())
                if item is _CLOSED or not context.is_active():
                    return
                yield item
        finally:
            database.disconnect(stream)

    def StreamInstanceHistory(  # noqa: N802 -- the protocol's name
        self, request: pb.StreamInstanceHistoryRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.HistoryChunk]:
        """Stream an instance's history in chunks."""
        yield from self._unary("StreamInstanceHistory", request, context)


def _seconds_left(context: grpc.ServicerContext) -> float | None:
    # For a call without a deadline gRPC returns a number that overflows every clock.
    left = context.time_remaining()
    return None if left is None or left > 1e8 else left


def _blocking(method: str) -> Callable[..., Any]:
    def handle(self: SidecarService, request: Any, context: grpc.ServicerContext) -> Any:
        return self._unary(method, request, context)

    handle.__name__ = method
    return handle


class _Outbox:
    """Work items on their way from the writer's thread to a stream in an event loop, with one wake-up per commit."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._unsent: list[pb.WorkItem] = []
        self._items: list[pb.WorkItem] = []
        self._arrived = asyncio.Event()

    def add(self, item: pb.WorkItem) -> None:
        """Add an item, in the writer's thread."""
        self._unsent.append(item)

    def flush(self) -> None:
        """Send the items, in the writer's thread."""
        if self._unsent:
            items, self._unsent = self._unsent, []
            # When the loop is closed, the stream is about to end and returns the work.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._arrive, items)

    def _arrive(self, items: list[pb.WorkItem]) -> None:
        self._items += items
        self._arrived.set()

    async def take(self) -> list[pb.WorkItem]:
        """Items that have arrived; a health ping after PING_SECONDS of silence."""
        if not self._items:
            self._arrived.clear()
            try:
                async with asyncio.timeout(PING_SECONDS):
                    await self._arrived.wait()
            except TimeoutError:
                return [pb.WorkItem(healthPing=pb.HealthPing())]
        items, self._items = self._items, []
        return items


class AioSidecarService(TaskHubSidecarServiceServicer):
    """Servicer of coroutines: a call that waits for its commit occupies no thread.

    `context` is a context of grpc.aio or of an in-process channel: `abort` is awaited.
    """

    _groups = False

    def __init__(self, database: Database) -> None:
        self._database = database

    def group_operations(self) -> None:
        """Let operations of different calls wait for each other, as suits a server (see `OperationGroup`)."""
        self._groups = True

    def databases(self) -> list[Database]:
        """Task hubs that calls may have reached."""
        return [self._database]

    def end_operations(self) -> None:
        """Pass on the operations of this event loop, which serves no call any more."""
        for database in self.databases():
            database.end_group(asyncio.get_running_loop())

    def database(self, context: Any) -> Database:
        """Task hub that serves the call. Raises: Rejection."""
        return self._database

    async def _unary(self, method: str, request: Any, context: Any) -> Any:
        loop = asyncio.get_running_loop()
        reply = LoopReply(loop)
        try:
            database = self.database(context)
            put = database.group(loop).add if self._groups else None
            answer = database.call(method, request, reply, context.peer(), put)
            if answer is not DEFERRED:
                return answer
            if method in WAITS:
                return await self._wait(database, request, reply, put)
            return await reply.future
        except Rejection as rejection:
            return await context.abort(rejection.code, rejection.details)
        finally:
            # The reply holds the rejection, whose traceback holds this frame
            del reply

    async def _wait(self, database: Database, request: pb.GetInstanceRequest, reply: LoopReply, put: Put | None) -> Any:
        # The server or the channel cancels the call at its deadline. A reply at that moment would reach a call that has
        # just ended, which gRPC logs as an error.
        try:
            return await reply.future
        finally:
            if not reply.future.done() or reply.future.cancelled():
                database.forget(request.instanceId, reply, put)

    async def GetWorkItems(  # noqa: N802 -- the protocol's name
        self, request: pb.GetWorkItemsRequest, context: Any
    ) -> AsyncIterator[pb.WorkItem]:
        """Stream work items to a worker until the worker disconnects or the engine stops."""
        outbox = _Outbox(asyncio.get_running_loop())
        stream = WorkerStream(request, outbox.add, flush=outbox.flush, peer=context.peer())
        try:
            database = self.database(context)
            database.connect(stream)
        except Rejection as rejection:
            await context.abort(rejection.code, rejection.details)
            return
        try:
            while True:
                for item in await outbox.take():
                    yield item
        finally:
            database.disconnect(stream)

    async def RaiseEvent(self, request: pb.RaiseEventRequest, context: Any) -> Any:  # noqa: N802 -- the protocol's name
        """Accept an event, and tell a remote caller that the answer is definite."""
        answer = await self._unary("RaiseEvent", request, context)
        if self._groups:
            context.set_trailing_metadata((EVENT_CONFIRMED,))
        return answer

    async def StreamInstanceHistory(  # noqa: N802 -- the protocol's name
        self, request: pb.StreamInstanceHistoryRequest, context: Any
    ) -> AsyncIterator[pb.HistoryChunk]:
        """Stream an instance's history in chunks."""
        for chunk in await self._unary("StreamInstanceHistory", request, context):
            yield chunk


def _asynchronous(method: str) -> Callable[..., Any]:
    async def handle(self: AioSidecarService, request: Any, context: Any) -> Any:
        return await self._unary(method, request, context)

    handle.__name__ = method
    return handle


for _method in UNARY:
    setattr(SidecarService, _method, _blocking(_method))
    if _method not in vars(AioSidecarService):
        setattr(AioSidecarService, _method, _asynchronous(_method))
