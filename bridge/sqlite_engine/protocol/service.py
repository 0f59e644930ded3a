"""Sidecar protocol over a database, for servers with blocking handlers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as FutureTimeout
from queue import Empty, SimpleQueue
from typing import Any

import grpc
from durabletask.internal import orchestrator_service_pb2 as pb
from durabletask.internal.orchestrator_service_pb2_grpc import TaskHubSidecarServiceServicer

from bridge.sqlite_engine.database import Database
from bridge.sqlite_engine.hub.calls import DEFERRED
from bridge.sqlite_engine.hub.dispatch import Stream
from bridge.sqlite_engine.model.rejection import Rejection
from bridge.sqlite_engine.model.reply import ThreadReply

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
        except Rejection as rejection:
            return context.abort(rejection.code, rejection.details)
        try:
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
                database.forget(request.instanceId, reply)
            context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, f"{method}: the deadline has passed")

    def GetWorkItems(  # noqa: N802 -- the protocol's name
        self, request: pb.GetWorkItemsRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.WorkItem]:
        """Stream work items to a worker until the worker disconnects or the engine stops."""
        queue: SimpleQueue[Any] = SimpleQueue()
        stream = Stream(request, queue.put, peer=context.peer())
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


def _handler(method: str) -> Callable[..., Any]:
    def handle(self: SidecarService, request: Any, context: grpc.ServicerContext) -> Any:
        return self._unary(method, request, context)

    handle.__name__ = method
    return handle


for _method in UNARY:
    setattr(SidecarService, _method, _handler(_method))
