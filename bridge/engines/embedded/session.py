"""Extended sessions: an orchestration stays in memory between its turns, and a turn processes only the new events.

Without sessions each turn runs the orchestrator from its beginning, and the cost of n turns grows as n squared. The
Durable Task Framework has extended sessions too. A session holds the state that a replay would build. The session is
used only when the history continues exactly where the session stopped, and is dropped otherwise.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import OrderedDict
from concurrent.futures import Future
from typing import Any

from durabletask.internal import orchestrator_service_pb2 as pb
from durabletask.worker import ExecutionResults

from bridge.engines.embedded.sdk_internals import InProcessWorker, OpenTurnExecutor, suppress_spans
from bridge.engines.worker.async_activities import Deferred, DeferredCount, Steps, deferring, start
from bridge.engines.worker.containment import keep_open
from bridge.sqlite_engine import defaults
from bridge.sqlite_engine.hub.work_items import TurnRequest, TurnResponse
from bridge.sqlite_engine.model.values import text
from bridge.system.otel_context import context_of, entered

logger = logging.getLogger("bridge.engines.embedded.worker")


class Session(OpenTurnExecutor):
    """Session of one orchestration. One thread at a time uses it."""

    _begin = 0
    _turn: list[pb.HistoryEvent]
    size = 0
    """Bytes of the history, as an estimate of the session's memory."""

    def follows(self, request: TurnRequest) -> bool:
        """True when this turn directly follows the last one."""
        return request.continues(self._begin, self._turn)

    def run(self, request: TurnRequest) -> ExecutionResults:
        """Run a turn. Raises: the exceptions of the SDK's executor."""
        result: ExecutionResults
        if self.context is None:
            result = self.execute(request.instanceId, request.pastEvents, request.newEvents)
        else:
            result = self.continue_turn(request.pastEvents[self._begin + len(self._turn) :], request.newEvents)
        self._begin, self._turn = len(request.pastEvents), request.newEvents
        self.size = request.historyBytes
        for event in request.newEvents:
            self.size += event.ByteSize()
        return result

    @property
    def unread(self) -> tuple[int, int]:
        """Number and bytes of received events that no wait has taken."""
        received = self.received_events
        if not received:
            return 0, 0
        sizes = [len(data or "") + len(name) for name, events in received.items() for _, data in events]
        return len(sizes), sum(sizes)


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

    @property
    def limits(self) -> tuple[int, int]:
        """Largest number of sessions, and largest total size of their histories in bytes."""
        return self.most, self._most_bytes

    def take(self, request: TurnRequest) -> Session | None:
        """Remove and return the session that this turn continues, or None."""
        with self._lock:
            found = self._kept.pop(request.instanceId, None)
            if found is not None:
                self.bytes -= found.size
        if found is None or found.follows(request):
            return found
        found.release()
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
            each.release()

    def has(self, instance_id: str) -> bool:
        """True when the orchestration has a session that no turn uses."""
        return instance_id in self._kept

    def drop(self, instance_id: str) -> None:
        """End the session of an orchestration, if it has one."""
        with self._lock:
            found = self._kept.pop(instance_id, None)
            if found is not None:
                self.bytes -= found.size
        if found is not None:
            found.release()

    def clear(self) -> None:
        with self._lock:
            gone = self._kept
            self._kept = OrderedDict()
            self.bytes = 0
        for each in gone.values():
            each.release()


def _nothing() -> None:
    """Record nothing."""


class SessionWorker(InProcessWorker):
    """Worker of the SDK that runs turns in sessions when they share the engine's history.

    All other turns, and turns that fail, run in the SDK's code. By default the worker makes no spans: the embedded
    engine makes them of its history. Activities run in OpenTelemetry's context of their span, where OpenTelemetry is
    installed.
    """

    def __init__(
        self,
        *,
        sessions: int = defaults.SESSIONS,
        session_bytes: int = defaults.SESSION_BYTES,
        emit_trace_spans: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(emit_trace_spans=emit_trace_spans, **options)
        self.session_type = Session
        self.deferred = DeferredCount()
        """Activities in the event loop."""
        self.sessions = Sessions(sessions if self.can_have_sessions else 0, session_bytes)

    def count_session_replay(self) -> None:
        """Count a turn that ran the orchestrator again from its history."""

    def run_turn(self, request: Any, stub: Any, token: Any) -> None:
        response = None
        if isinstance(request, TurnRequest) and self.sessions.most:
            response = self._turn(request, token)
        if response is None:
            self.replay_turn(request, stub, token)
        else:
            stub.CompleteOrchestratorTask(response)

    def has_history(self, request: TurnRequest) -> bool:
        """True when the turn carries the whole history."""
        return True

    def replay_turn(self, request: Any, stub: Any, token: Any) -> None:
        """Run a turn in the SDK's code, which needs the whole history."""
        if request.pastEvents:
            self.count_session_replay()
        super().run_turn(request, stub, token)

    @property
    def answers_block(self) -> bool:
        """True when sending a response may wait, and must not happen in the event loop of the activities."""
        return False

    def steps(self, token: Any) -> Steps:
        """Record of the steps of an activity in the event loop."""
        return Steps(_nothing, _nothing)

    def run_activity(self, request: Any, stub: Any, token: Any) -> Future[None] | None:
        executor = self.make_activity_executor()
        if executor is None:
            return super().run_activity(request, stub, token)
        instance_id, name, number = request.orchestrationInstance.instanceId, request.name, request.taskId
        response = pb.ActivityResponse(instanceId=instance_id, taskId=number, completionToken=token)
        try:
            with entered(context_of(request.parentTraceContext) if request.HasField("parentTraceContext") else None):
                result = deferring(executor.execute, instance_id, name, number, request.input.value)
            if result is not None:
                response.result.value = result
        except Deferred as deferred:
            return self._go_on(deferred, name, response, stub)
        except Exception as error:
            response.failureDetails.CopyFrom(self.failure_details_of(error))
        self._complete(name, response, stub)
        return None

    def _go_on(self, deferred: Deferred, name: str, response: pb.ActivityResponse, stub: Any) -> Future[None]:
        """Go on with an activity in the event loop."""
        done: Future[None] = Future()

        def settle(result: Any, error: BaseException | None) -> None:
            try:
                if error is not None:
                    response.failureDetails.CopyFrom(self.failure_details_of(error))
                elif (encoded := self.converter.serialize(result)) is not None:
                    response.result.value = encoded
            except Exception as failure:
                response.failureDetails.CopyFrom(self.failure_details_of(failure))
            if self.answers_block:
                asyncio.get_running_loop().run_in_executor(None, answer)
            else:
                answer()

        def answer() -> None:
            try:
                self._complete(name, response, stub)
            finally:
                self.deferred.end()
                done.set_result(None)

        self.deferred.begin()
        start(deferred, self.steps(response.completionToken), settle)
        return done

    def _complete(self, name: str, response: pb.ActivityResponse, stub: Any) -> None:
        try:
            stub.CompleteActivityTask(response)
        except Exception as error:
            number, instance_id = response.taskId, response.instanceId
            (self.sdk_logger or logger).exception(
                "The answer of activity %s#%d of %s could not be delivered: %s", name, number, instance_id, error
            )

    def _turn(self, request: TurnRequest, token: Any) -> TurnResponse | None:
        """Response to a turn; None when the SDK must run the turn itself."""
        session = self.sessions.take(request)
        is_new = session is None
        if is_new and not self.has_history(request):
            return None
        if session is None:
            session = self.make_turn_executor(self.session_type)
        try:
            with suppress_spans():
                result = session.run(request)
        except Exception:
            return None
        if is_new and request.pastEvents:
            self.count_session_replay()
        unread, status = session.unread, text(result.encoded_custom_status)
        if is_new and not session.can_continue:
            session.release()
        elif not session.is_over:
            # Before the response is sent: the next turn may start at once, in another thread
            self.sessions.keep(request.instanceId, session)
            keep_open()
        return TurnResponse(request.instanceId, result.actions, token, status, None, unread)
