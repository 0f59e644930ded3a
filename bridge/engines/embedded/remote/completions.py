"""Results on their way to a remote engine: calls that overlap, without a thread for each."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any

import grpc
from durabletask.internal import orchestrator_service_pb2 as pb
from durabletask.internal.orchestrator_service_pb2_grpc import TaskHubSidecarServiceStub

from bridge.engines.embedded.pools import PoolStub
from bridge.engines.errors import details_of, status_of
from bridge.sqlite_engine.hub.work_items import TurnResponse

logger = logging.getLogger("bridge.engines.embedded.worker")

SECONDS = 30.0
"""Deadline of one result. While the engine is away, a result waits for it as long."""

FINISH_SECONDS = 10.0
"""Longest time for which a stopping worker waits for the answers to its results."""

_NO_LONGER_OURS = frozenset({grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION})


class RemoteStub(PoolStub):
    """Stub for the SDK's executors that sends results to a remote engine.

    One thread makes all calls: gRPC spends less on them than on calls that several threads make at once. A result that
    cannot be delivered is logged: its work item then runs again.

    on_error: see PoolStub; called also for a result whose call could not be made.
    """

    def __init__(
        self,
        channel: grpc.Channel,
        headers: Callable[[], Sequence[tuple[str, str]]],
        on_error: Callable[[str, BaseException], None],
    ) -> None:
        super().__init__(on_error)
        self.headers = headers
        make: Any = TaskHubSidecarServiceStub
        self.calls = make(channel)
        self._changed = threading.Condition()
        # gRPC forgets a call that is not referenced
        self._sent: set[Any] = set()
        self._queue: SimpleQueue[tuple[Any, Any] | threading.Event | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="results", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stay open: the worker itself returns each work item that has not begun."""

    def give_back(self, token: str) -> None:
        """Do nothing: the stub stays open."""

    def _send(self, method: Any, request: Any) -> None:
        self._queue.put((method, request))

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            if isinstance(item, threading.Event):
                item.set()
                continue
            method, request = item
            try:
                call = method.future(request, timeout=SECONDS, metadata=self.headers(), wait_for_ready=True)
            except Exception as error:
                if method is self.calls.AbandonTaskActivityWorkItem:
                    _log(error)
                else:
                    self.on_error(request.completionToken, error)
                continue
            self._sent.add(call)
            call.add_done_callback(self._answered)

    def _answered(self, call: Any) -> None:
        try:
            error = call.exception()
        except grpc.FutureCancelledError as cancelled:
            error = cancelled
        self._sent.discard(call)
        if error is not None:
            _log(error)
        if not self._sent:
            with self._changed:
                self._changed.notify_all()

    def finish(self, seconds: float = FINISH_SECONDS) -> None:
        """Wait until all results are sent and answered, for `seconds` at most."""
        end, are_sent = time.monotonic() + seconds, threading.Event()
        self._queue.put(are_sent)
        if are_sent.wait(seconds):
            with self._changed:
                self._changed.wait_for(lambda: not self._sent, max(0.0, end - time.monotonic()))

    def stop(self) -> None:
        """Wait as `finish` does, and send nothing further."""
        self.finish()
        self._queue.put(None)

    def CompleteOrchestratorTask(self, response: TurnResponse | pb.OrchestratorResponse) -> None:  # noqa: N802 -- the protocol's name
        self._send(self.calls.CompleteOrchestratorTask, message_of(response))

    def CompleteActivityTask(self, response: pb.ActivityResponse) -> None:  # noqa: N802 -- the protocol's name
        self._send(self.calls.CompleteActivityTask, response)

    def CompleteEntityTask(self, result: pb.EntityBatchResult) -> None:  # noqa: N802 -- the protocol's name
        self._send(self.calls.CompleteEntityTask, result)

    def AbandonTaskOrchestratorWorkItem(self, request: Any) -> None:  # noqa: N802 -- the protocol's name
        self._send(self.calls.AbandonTaskOrchestratorWorkItem, request)

    def AbandonTaskActivityWorkItem(self, request: Any) -> None:  # noqa: N802 -- the protocol's name
        self._send(self.calls.AbandonTaskActivityWorkItem, request)

    def AbandonTaskEntityWorkItem(self, request: Any) -> None:  # noqa: N802 -- the protocol's name
        self._send(self.calls.AbandonTaskEntityWorkItem, request)


def _log(error: BaseException) -> None:
    status = status_of(error)
    level = logging.INFO if status in _NO_LONGER_OURS else logging.WARNING
    logger.log(level, "The engine did not take a result: %s %s", getattr(status, "name", ""), details_of(error))


def message_of(response: TurnResponse | pb.OrchestratorResponse) -> pb.OrchestratorResponse:
    """Message of the protocol for the response to a turn."""
    if isinstance(response, pb.OrchestratorResponse):
        return response
    return pb.OrchestratorResponse(
        instanceId=response.instanceId,
        actions=response.actions,
        completionToken=response.completionToken,
        customStatus=response.customStatus,
        orchestrationTraceContext=response.orchestrationTraceContext,
    )
