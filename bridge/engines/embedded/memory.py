"""The SDK's in-memory backend, with what it lacks to stand in for an engine until the durable one takes over.

It loses everything at exit, and work that was handed to a worker which then died is not handed out again. Added here:
start times, waits and timers without a thread each and without the backend's own limit of 30 seconds, retention, and a
bound on how many callers of the socket may wait at once.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import durabletask.internal.helpers as helpers
import durabletask.internal.orchestrator_service_pb2 as pb
import grpc  # type: ignore[import-untyped]  # grpcio ships no type information
from durabletask.testing.in_memory_backend import InMemoryOrchestrationBackend, OrchestrationInstance

from bridge.engines.embedded.agenda import Agenda
from bridge.engines.inprocess.context import PEER

REMOTE_WAITS = 32
"""Calls over the socket that may hold a thread of the server while they wait: worker streams and instance waits."""

SWEEP_SECONDS = 60.0
"""Longest time between two looks for instances past their retention."""


class MemoryBackend(InMemoryOrchestrationBackend):
    """A sidecar servicer. It is reached through channels and servers made elsewhere; its own `start` is not used.

    retention: seconds that finished instances are kept, None until exit.
    """

    def __init__(self, retention: float | None = None) -> None:
        super().__init__()
        self._agenda = Agenda("bridge-engine-agenda")
        self._held: dict[str, int] = {}
        self._holds = 0
        self._retention = retention
        self._remote_waits = threading.BoundedSemaphore(REMOTE_WAITS)
        if retention is not None:
            self._agenda.add(self._sweep_interval(retention), self._sweep)

    def close(self) -> None:
        """Ends streams, waits and due actions. Idempotent."""
        self._agenda.close()
        self.stop()
        with self._lock:
            for waiters in self._state_waiters.values():
                for waiter in waiters:
                    waiter.event.set()

    def StartInstance(  # noqa: N802 - the protocol's name
        self, request: pb.CreateInstanceRequest, context: Any
    ) -> pb.CreateInstanceResponse:
        if not request.HasField("scheduledStartTimestamp"):
            return super().StartInstance(request, context)
        due = request.scheduledStartTimestamp.ToDatetime(tzinfo=UTC)
        delay = (due - datetime.now(UTC)).total_seconds()
        if delay <= 0:
            return super().StartInstance(request, context)
        if not request.instanceId:
            request.instanceId = uuid.uuid4().hex
        instance_id = request.instanceId
        with self._lock:
            before = self._held.get(instance_id)
            self._holds += 1
            hold = self._held[instance_id] = self._holds
            try:
                response = super().StartInstance(request, context)
            except BaseException:
                if before is None:
                    del self._held[instance_id]
                else:
                    self._held[instance_id] = before
                raise
        self._agenda.add(delay, lambda: self._release(instance_id, hold))
        return response

    def _release(self, instance_id: str, hold: int | None = None) -> None:
        """Lets a held instance start. `hold` guards against one that was replaced in the meantime."""
        with self._lock:
            held = self._held.get(instance_id)
            if held is None or (hold is not None and held != hold):
                return
            del self._held[instance_id]
            if instance_id in self._instances:
                self._enqueue_orchestration(instance_id)

    def _enqueue_orchestration(self, instance_id: str) -> None:
        if instance_id not in self._held:
            super()._enqueue_orchestration(instance_id)

    def TerminateInstance(  # noqa: N802 - the protocol's name
        self, request: pb.TerminateRequest, context: Any
    ) -> pb.TerminateResponse:
        response = super().TerminateInstance(request, context)
        # Its first turn sees the start and the termination together and so runs nothing.
        self._release(request.instanceId)
        return response

    def GetWorkItems(  # noqa: N802 - the protocol's name
        self, request: pb.GetWorkItemsRequest, context: Any
    ) -> Iterator[pb.WorkItem]:
        self._admit(context)
        yield from super().GetWorkItems(request, context)

    def WaitForInstanceStart(  # noqa: N802 - the protocol's name
        self, request: pb.GetInstanceRequest, context: Any
    ) -> pb.GetInstanceResponse:
        self._admit(context)
        return super().WaitForInstanceStart(request, context)

    def WaitForInstanceCompletion(  # noqa: N802 - the protocol's name
        self, request: pb.GetInstanceRequest, context: Any
    ) -> pb.GetInstanceResponse:
        self._admit(context)
        return super().WaitForInstanceCompletion(request, context)

    def _admit(self, context: Any) -> None:
        """Keeps threads of the socket's server free for the calls that do not wait."""
        if context.peer() == PEER:
            return
        if not self._remote_waits.acquire(blocking=False):
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"more than {REMOTE_WAITS} workers and waits are open")
        if not context.add_callback(self._remote_waits.release):
            self._remote_waits.release()

    def _wait_for_state(
        self, instance_id: str, predicate: Callable[[OrchestrationInstance], bool], timeout: float | None
    ) -> OrchestrationInstance | None:
        # The backend takes None and 0 for 30 seconds, and then a parent never learns of its sub-orchestration's end.
        seconds = threading.TIMEOUT_MAX if timeout is None else max(timeout, 0.001)
        return super()._wait_for_state(instance_id, predicate, seconds)

    def _process_create_timer_action(self, instance: OrchestrationInstance, action: pb.OrchestratorAction) -> None:
        # The backend sleeps on a thread per timer, and every deadline of a saga is one.
        fire_at = action.createTimer.fireAt.ToDatetime(tzinfo=UTC)
        instance.history.append(helpers.new_timer_created_event(action.id, fire_at))
        if instance.status == pb.ORCHESTRATION_STATUS_PENDING:
            instance.status = pb.ORCHESTRATION_STATUS_RUNNING
        self._agenda.add(
            (fire_at - datetime.now(UTC)).total_seconds(),
            lambda: self._fire_timer(instance, action.id, fire_at),
        )

    def _fire_timer(self, instance: OrchestrationInstance, timer_id: int, fire_at: datetime) -> None:
        with self._lock:
            if self._instances.get(instance.instance_id) is instance and not self._is_terminal_status(instance.status):
                instance.pending_events.append(helpers.new_timer_fired_event(timer_id, fire_at))
                instance.last_updated_at = datetime.now(UTC)
                self._enqueue_orchestration(instance.instance_id)

    def _sweep(self) -> None:
        assert self._retention is not None
        limit = datetime.now(UTC) - timedelta(seconds=self._retention)
        with self._lock:
            old = [
                instance_id
                for instance_id, instance in self._instances.items()
                if instance.completed_at is not None and instance.completed_at < limit
            ]
            for instance_id in old:
                del self._instances[instance_id]
        self._agenda.add(self._sweep_interval(self._retention), self._sweep)

    @staticmethod
    def _sweep_interval(retention: float) -> float:
        return min(max(retention / 10, 0.1), SWEEP_SECONDS)
