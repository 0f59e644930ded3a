"""Extended sessions: an orchestration stays in memory between its turns, and a turn processes only the new events.

Without sessions each turn runs the orchestrator from its beginning, and the cost of n turns grows as n squared. The
Durable Task Framework has extended sessions too. A session holds the state that a replay would build. The session is
used only when the history continues exactly where the session stopped, and is dropped otherwise.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from itertools import chain
from typing import Any

from durabletask.internal import helpers
from durabletask.internal import orchestrator_service_pb2 as pb
from durabletask.internal.tracing import suppress_span_emission
from durabletask.task import CancellableTask
from durabletask.worker import ExecutionResults, TaskHubGrpcWorker, _ActivityExecutor, _OrchestrationExecutor

from bridge.config.model.engines import EmbeddedEngineConfig
from bridge.engines.worker.containment import close_quietly, keep_open
from bridge.sqlite_engine.hub.work_items import TurnRequest, TurnResponse
from bridge.sqlite_engine.model.values import text
from bridge.system.otel_context import context_of, entered

_DEFAULTS = EmbeddedEngineConfig(type="embedded")


class Session(_OrchestrationExecutor):
    """Session of one orchestration. One thread at a time uses it."""

    _context: Any = None
    _begin = 0
    _turn: list[pb.HistoryEvent]
    size = 0
    """Bytes of the history, as an estimate of the session's memory."""

    def process_event(self, ctx: Any, event: pb.HistoryEvent) -> None:
        self._context = ctx
        super().process_event(ctx, event)

    def follows(self, request: TurnRequest) -> bool:
        """True when this turn directly follows the last one: the history contains that turn's event objects themselves.

        The first of those objects was made for that turn alone. Another turn in its place is therefore detected.
        """
        past, turn = request.pastEvents, self._turn
        end = self._begin + len(turn)
        return len(past) >= end and past[self._begin] is turn[0] and past[end - 1] is turn[-1]

    def run(self, request: TurnRequest) -> ExecutionResults:
        """Run a turn. Raises: the exceptions of the SDK's executor."""
        if self._context is None:
            result = self.execute(request.instanceId, request.pastEvents, request.newEvents)
        else:
            result = self._go_on(self._context, request)
        self._begin, self._turn = len(request.pastEvents), request.newEvents
        self.size = request.historyBytes
        for event in request.newEvents:
            self.size += event.ByteSize()
        return result

    def _go_on(self, context: Any, request: TurnRequest) -> ExecutionResults:
        """Continue from the end of the last turn; the counterpart of the SDK's `execute`."""
        process = super().process_event
        try:
            context._is_replaying = True
            for event in request.pastEvents[self._begin + len(self._turn) :]:
                process(context, event)
            context._is_replaying = False
            for event in request.newEvents:
                process(context, event)
        except Exception as error:
            context.set_failed(error)
        return ExecutionResults(
            context.get_actions(), context._encoded_custom_status, context._orchestration_trace_context
        )

    @property
    def unread(self) -> tuple[int, int]:
        """Number and bytes of received events that no wait has taken."""
        held = self._context._received_events if self._context is not None else None
        if not held:
            return 0, 0
        sizes = [len(data or "") + len(name) for name, events in held.items() for _, data in events]
        return len(sizes), sum(sizes)

    @property
    def over(self) -> bool:
        """True when no turn can follow."""
        return self._context is None or self._context._is_complete

    def close(self) -> None:
        """Release the orchestrator and break its reference cycles.

        A garbage collector might find the cycles only hours later. The orchestrator's `finally` clauses run, as they do
        after every replay.
        """
        context, self._context = self._context, None
        if context is None:
            return
        close_quietly(context._generator)
        waits = [*context._pending_tasks.values(), *chain.from_iterable(context._pending_events.values())]
        for wait in waits:
            if isinstance(wait, CancellableTask):
                wait.set_cancel_handler(_nothing)
        vars(context).clear()


def _nothing() -> None:
    """Cancel handler that does nothing."""


class Sessions:
    """Sessions of a worker; the least recently used are evicted first. Methods may be called from any thread.

    most: largest number of sessions.
    most_bytes: largest total size of their histories, in bytes.
    """

    def __init__(self, most: int, most_bytes: int) -> None:
        self.most = most
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Session] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def take(self, request: TurnRequest) -> Session | None:
        """Remove and return the session that this turn continues, or None."""
        with self._lock:
            found = self._kept.pop(request.instanceId, None)
            if found is not None:
                self.bytes -= found.size
        if found is None or found.follows(request):
            return found
        found.close()
        return None

    def keep(self, instance_id: str, session: Session) -> None:
        """Keep a session until its next turn, or until it is evicted."""
        gone: list[Session] = []
        with self._lock:
            former = self._kept.pop(instance_id, None)
            if former is not None:
                self.bytes -= former.size
                gone.append(former)
            self._kept[instance_id] = session
            self.bytes += session.size
            while len(self._kept) > self.most or self.bytes > self._most_bytes:
                _, oldest = self._kept.popitem(last=False)
                self.bytes -= oldest.size
                gone.append(oldest)
        for each in gone:
            each.close()

    def clear(self) -> None:
        with self._lock:
            gone = self._kept
            self._kept = OrderedDict()
            self.bytes = 0
        for each in gone.values():
            each.close()


class SessionWorker(TaskHubGrpcWorker):
    """Worker of the SDK that runs turns in sessions when they share the engine's history.

    All other turns, and turns that fail, run in the SDK's code. The worker makes no spans: the engine makes them of its
    history. Activities run in OpenTelemetry's context of their span, where OpenTelemetry is installed.
    """

    def __init__(
        self, *, sessions: int = _DEFAULTS.sessions, session_bytes: int = _DEFAULTS.session_bytes, **options: Any
    ) -> None:
        super().__init__(emit_trace_spans=False, **options)
        self.sessions = Sessions(sessions, session_bytes)

    def count_session_replay(self) -> None:
        """Count a turn that ran the orchestrator again from its history."""

    def _execute_orchestrator(
        self,
        req: Any,
        stub: Any,
        completionToken: Any,  # noqa: N803 -- the SDK's name
    ) -> None:
        response = None
        if isinstance(req, TurnRequest) and self.sessions.most:
            response = self._turn(req, completionToken)
        if response is None:
            if req.pastEvents:
                self.count_session_replay()
            super()._execute_orchestrator(req, stub, completionToken)
        else:
            stub.CompleteOrchestratorTask(response)

    def _execute_activity(
        self,
        req: Any,
        stub: Any,
        completionToken: Any,  # noqa: N803 -- the SDK's name
    ) -> None:
        if self._payload_store is not None:
            super()._execute_activity(req, stub, completionToken)
            return
        instance_id, name, number = req.orchestrationInstance.instanceId, req.name, req.taskId
        response = pb.ActivityResponse(instanceId=instance_id, taskId=number, completionToken=completionToken)
        try:
            executor = _ActivityExecutor(self._registry, self._logger, self._data_converter)
            with entered(context_of(req.parentTraceContext) if req.HasField("parentTraceContext") else None):
                result = executor.execute(instance_id, name, number, req.input.value)
            if result is not None:
                response.result.value = result
        except Exception as error:
            details = helpers.new_failure_details(error, self._exception_properties_provider, self._logger)
            response.failureDetails.CopyFrom(details)
        try:
            stub.CompleteActivityTask(response)
        except Exception as error:
            self._logger.exception(
                "The answer of activity %s#%d of %s could not be delivered: %s", name, number, instance_id, error
            )

    def _turn(self, request: TurnRequest, token: Any) -> TurnResponse | None:
        """Response to a turn; None when the SDK must run the turn itself."""
        session = self.sessions.take(request)
        is_new = session is None
        if session is None:
            session = Session(
                self._registry,
                self._logger,
                self._data_converter,
                maximum_timer_interval=self.maximum_timer_interval,
                exception_properties_provider=self._exception_properties_provider,
            )
        try:
            with suppress_span_emission():
                result = session.run(request)
        except Exception:
            return None
        if is_new and request.pastEvents:
            self.count_session_replay()
        unread, status = session.unread, text(result.encoded_custom_status)
        if not session.over:
            # Before the response is sent: the next turn may start at once, in another thread
            self.sessions.keep(request.instanceId, session)
            keep_open()
        return TurnResponse(request.instanceId, result.actions, token, status, None, unread)
