"""Sidecar protocol over a database, for servers and in-process channels with asynchronous handlers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from durabletask.internal import orchestrator_service_pb2 as pb
from durabletask.internal.orchestrator_service_pb2_grpc import TaskHubSidecarServiceServicer

from bridge.sqlite_engine.database import Database
from bridge.sqlite_engine.hub.calls import DEFERRED
from bridge.sqlite_engine.hub.dispatch import Stream
from bridge.sqlite_engine.model.rejection import Rejection
from bridge.sqlite_engine.model.reply import LoopReply
from bridge.sqlite_engine.protocol.service import PING_SECONDS, UNARY, WAITS


class AioSidecarService(TaskHubSidecarServiceServicer):
    """Servicer of coroutines: a call that waits for its commit occupies no thread.

    `context` is a context of grpc.aio or of an in-process channel: `abort` is awaited.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def database(self, context: Any) -> Database:
        """Task hub that serves the call. Raises: Rejection."""
        return self._database

    async def _unary(self, method: str, request: Any, context: Any) -> Any:
        reply = LoopReply(asyncio.get_running_loop())
        try:
            database = self.database(context)
            answer = database.call(method, request, reply, context.peer())
            if answer is not DEFERRED:
                return answer
            if method in WAITS:
                return await self._wait(database, request, reply)
            return await reply.future
        except Rejection as rejection:
            return await context.abort(rejection.code, rejection.details)
        finally:
            # The reply holds the rejection, whose traceback holds this frame
            del reply

    async def _wait(self, database: Database, request: pb.GetInstanceRequest, reply: LoopReply) -> Any:
        # The server or the channel cancels the call at its deadline. A reply at that moment would reach a call that has
        # just ended, which gRPC logs as an error.
        try:
            return await reply.future
        finally:
            if not reply.future.done() or reply.future.cancelled():
                database.forget(request.instanceId, reply)

    async def GetWorkItems(  # noqa: N802 -- the protocol's name
        self, request: pb.GetWorkItemsRequest, context: Any
    ) -> AsyncIterator[pb.WorkItem]:
        """Stream work items to a worker until the worker disconnects or the engine stops."""
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[pb.WorkItem] = asyncio.Queue()

        def send(item: pb.WorkItem) -> None:
            # When the loop is closed, the stream is about to end and returns the work.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(queue.put_nowait, item)

        stream = Stream(request, send, peer=context.peer())
        try:
            database = self.database(context)
            database.connect(stream)
        except Rejection as rejection:
            await context.abort(rejection.code, rejection.details)
            return
        try:
            while True:
                try:
                    item = await asyncio.wait_for(queue.get(), PING_SECONDS)
                except TimeoutError:
                    item = pb.WorkItem(healthPing=pb.HealthPing())
                yield item
        finally:
            database.disconnect(stream)

    async def StreamInstanceHistory(  # noqa: N802 -- the protocol's name
        self, request: pb.StreamInstanceHistoryRequest, context: Any
    ) -> AsyncIterator[pb.HistoryChunk]:
        """Stream an instance's history in chunks."""
        for chunk in await self._unary("StreamInstanceHistory", request, context):
            yield chunk


def _handler(method: str) -> Callable[..., Any]:
    async def handle(self: AioSidecarService, request: Any, context: Any) -> Any:
        return await self._unary(method, request, context)

    handle.__name__ = method
    return handle


for _method in UNARY:
    setattr(AioSidecarService, _method, _handler(_method))
