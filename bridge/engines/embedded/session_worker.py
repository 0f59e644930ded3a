"""Worker of the SDK that runs turns in sessions, and activities without spans when OpenTelemetry is missing."""

from __future__ import annotations

import time
from typing import Any

from durabletask.internal import helpers
from durabletask.internal import orchestrator_service_pb2 as pb
from durabletask.internal.tracing import OTEL_AVAILABLE
from durabletask.worker import TaskHubGrpcWorker, _ActivityExecutor

from bridge.engines.containment import keep_open
from bridge.engines.embedded.session import Session, Sessions
from bridge.sqlite_engine.hub.workitem import TurnRequest, TurnResponse
from bridge.sqlite_engine.model.instance import text

MAX_SESSIONS = 1000
MAX_SESSION_BYTES = 64 * 1024 * 1024


class SessionWorker(TaskHubGrpcWorker):
    """Worker that runs turns in sessions when they share the engine's history.

    All other turns, and turns that fail, run in the SDK's code. Where OpenTelemetry is installed the SDK runs all turns
    and activities, because it makes a span of each.
    """

    def __init__(self, *, sessions: int = MAX_SESSIONS, session_bytes: int = MAX_SESSION_BYTES, **options: Any) -> None:
        super().__init__(**options)
        self.sessions = Sessions(sessions, session_bytes)

    def _execute_orchestrator(
        self,
        req: Any,
        stub: Any,
        completionToken: Any,  # noqa: N803 -- the SDK's name
    ) -> None:
        response = None
        if isinstance(req, TurnRequest) and self.sessions.most and not OTEL_AVAILABLE:
            response = self._turn(req, completionToken)
        if response is None:
            super()._execute_orchestrator(req, stub, completionToken)
        else:
            stub.CompleteOrchestratorTask(response)

    def _execute_activity(
        self,
        req: Any,
        stub: Any,
        completionToken: Any,  # noqa: N803 -- the SDK's name
    ) -> None:
        if OTEL_AVAILABLE or self._payload_store is not None:
            super()._execute_activity(req, stub, completionToken)
            return
        instance_id, name, number = req.orchestrationInstance.instanceId, req.name, req.taskId
        response = pb.ActivityResponse(instanceId=instance_id, taskId=number, completionToken=completionToken)
        try:
            executor = _ActivityExecutor(self._registry, self._logger, self._data_converter)
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
        if session is None:
            session = Session(
                self._registry,
                self._logger,
                self._data_converter,
                maximum_timer_interval=self.maximum_timer_interval,
                exception_properties_provider=self._exception_properties_provider,
            )
        try:
            result = session.run(request)
        except Exception:
            return None
        request.unread = session.unread
        if not session.over:
            # Before the response is sent: the next turn may start at once, in another thread
            self.sessions.keep(request.instanceId, session)
            keep_open()
        # A trace context that is left out stays unchanged.
        trace = None
        if self._emit_trace_spans and not request.HasField("orchestrationTraceContext"):
            trace = pb.OrchestrationTraceContext()
            trace.spanStartTime.FromNanoseconds(time.time_ns())
        return TurnResponse(request.instanceId, result.actions, token, text(result.encoded_custom_status), trace)
