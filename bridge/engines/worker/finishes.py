"""Ends of instances, as one process sees them: counts, durations, and each failure as it may be logged."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from durabletask.client import OrchestrationStatus
from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.core.histogram import LONG_SECONDS, Histogram
from bridge.core.system_names import PREFIX, SAGA
from bridge.core.trace_context import sampled_trace
from bridge.core.user_code.frames import frames, own_frame
from bridge.engines.sagas import declared_name, is_name, saga_end
from bridge.sqlite_engine.model.instance import CONTINUED_AS_NEW, FAILED, Finish, last_failure

OTHER = "other"
"""Label of all names that neither the configuration nor a worker knows."""

MAX_NAMES = 1000
"""Names that are counted apart. Further ones are counted as OTHER."""

_LIKE_A_NAME = re.compile(r"[^\W\d_][\w .:/-]{0,99}")
_LIKE_A_TYPE = re.compile(r"[A-Za-z_][\w.]{0,199}")
_CAUSED = "TaskFailedError"


@dataclass(frozen=True, slots=True)
class InstanceFailure:
    """Failed instance, or instance whose saga was compensated, without anything that may be payload.

    outcome: of the saga; empty without a saga. step, reason: cause of the saga's failure.
    compensation: step whose compensation failed; several with commas between them.
    error: type of the error. frame: place of the error in the user's code.
    parent: id of the orchestration that called this one.
    """

    orchestration: str
    instance_id: str
    saga: str = ""
    outcome: str = ""
    step: str = ""
    reason: str = ""
    compensation: str = ""
    error: str = ""
    frame: str = ""
    parent: str = ""

    @property
    def is_compensated(self) -> bool:
        return self.outcome == "compensated"


def saga_name(end: Finish) -> str:
    """Name of the saga of an end; empty without a saga, OTHER for a name from code that may contain payload."""
    return end.saga if not end.saga or end.name == SAGA or is_name(end.saga) else OTHER


def failure_of(end: Finish) -> InstanceFailure:
    """Describe a failure. Words from code that are not like names are left out: they may contain payload."""
    saga = saga_end(end.custom_status, end.status, end.saga or None)
    compensations = () if saga is None else saga.failed_compensations
    reasons = {why for _, why in compensations}
    details = end.failure if end.status == FAILED else None
    reason = saga.reason if saga is not None and saga.reason is not None and is_name(saga.reason) else ""
    caused = details is None or details.errorType.endswith(_CAUSED)
    if caused and end.cause is not None and (details is not None or reason == "failed" or "failed" in reasons):
        details = end.cause
    frame = None if details is None else own_frame(frames(details.stackTrace.value))
    error = "" if details is None else details.errorType.removeprefix("builtins.")
    return InstanceFailure(
        end.saga if end.name == SAGA and end.saga else end.name,
        end.instance_id,
        saga_name(end),
        end.outcome,
        "" if saga is None else _name(saga.step),
        reason,
        ", ".join(filter(None, (_name(step) for step, _ in compensations))),
        error if _LIKE_A_TYPE.fullmatch(error) else "",
        "" if frame is None else str(frame),
        end.parent or "",
    )


def _name(word: str | None) -> str:
    return word if word is not None and _LIKE_A_NAME.fullmatch(word) else ""


class Finishes:
    """Ends of the instances of one engine since the process started. Methods may be called from any thread.

    finished: number of ends by orchestration and status.
    sagas: number of ends of sagas by name and outcome.
    seconds: durations from the creation of an instance to its end, by orchestration and status.
    A declared saga has its own name. Names that neither the configuration nor a worker knows count as OTHER, and so do
    names of sagas that may contain payload.
    """

    def __init__(
        self,
        names: Collection[str] = (),
        on_failure: Callable[[Finish], None] = lambda _: None,
        *,
        traces: bool = False,
    ) -> None:
        """Create the counts.

        names: orchestrations and sagas that are known.
        on_failure: called with each failure.
        traces: keep the traces of instances as examples of durations.
        """
        self._traces = traces
        self._names = {*names}
        self._sagas: set[str] = set()
        self._on_failure = on_failure
        self._lock = threading.Lock()
        self.finished: Counter[tuple[str, str]] = Counter()
        self.sagas: Counter[tuple[str, str]] = Counter()
        self.seconds: dict[tuple[str, str], Histogram] = {}

    def add_names(self, names: Collection[str]) -> None:
        """Add names of orchestrations and sagas that are known."""
        with self._lock:
            self._names.update(names)

    def add(self, ends: Sequence[Finish]) -> None:
        """Count the ends of one commit."""
        with self._lock:
            for end in ends:
                key = (self._label(end), _WORDS.get(end.status, "failed"))
                self.finished[key] += 1
                histogram = self.seconds.get(key)
                if histogram is None:
                    histogram = self.seconds[key] = Histogram(LONG_SECONDS)
                seconds = end.seconds if end.seconds > 0 else 0.0
                histogram.observe(seconds)
                if self._traces and (trace_id := sampled_trace(end.traceparent)) is not None:
                    histogram.example(seconds, trace_id, time.time())
                if end.outcome:
                    self.sagas[self._saga(end), end.outcome] += 1
        for end in ends:
            if end.is_failure:
                self._on_failure(end)

    def add_one(self, end: Finish) -> None:
        self.add((end,))

    def _label(self, end: Finish) -> str:
        name = end.saga if end.name == SAGA and end.saga else end.name
        if name in self._names:
            return name
        if name.startswith(PREFIX) or (end.has_run and len(self._names) < MAX_NAMES):
            self._names.add(name)
            return name
        return OTHER

    def _saga(self, end: Finish) -> str:
        name = saga_name(end)
        if name not in self._sagas:
            if len(self._sagas) >= MAX_NAMES:
                return OTHER
            self._sagas.add(name)
        return name

    def label(self, orchestration: str, has_run: bool) -> str:
        """Name of an orchestration as a label. has_run: an instance of it ran, so a worker knows the name."""
        with self._lock:
            if orchestration in self._names:
                return orchestration
            if has_run and len(self._names) < MAX_NAMES:
                self._names.add(orchestration)
                return orchestration
            return OTHER


_WORDS: dict[int, str] = {int(status.value): status.name.lower() for status in OrchestrationStatus}


def end_of_turn(request: Any, response: pb.OrchestratorResponse) -> Finish | None:
    """End of an instance in the response to a turn, for an engine that does not report ends. None when it goes on."""
    for action in response.actions:
        if action.HasField("completeOrchestration"):
            break
    else:
        return None
    completion = action.completeOrchestration
    status = completion.orchestrationStatus
    history = [*request.pastEvents, *request.newEvents]
    at = next((event for event in history if event.HasField("executionStarted")), None)
    if status == CONTINUED_AS_NEW or at is None:
        return None
    start = at.executionStarted
    custom_status = response.customStatus.value if response.HasField("customStatus") else None
    declared = declared_name(start.input.value) if start.name == SAGA else None
    saga = saga_end(custom_status, status, declared)
    end = Finish(
        response.instanceId,
        start.orchestrationInstance.executionId.value,
        start.name,
        "" if saga is None else saga.saga,
        status,
        "" if saga is None else saga.outcome,
        has_run=True,
        seconds=time.time() - at.timestamp.ToNanoseconds() / 1e9,
        custom_status=custom_status,
        failure=completion.failureDetails if completion.HasField("failureDetails") else None,
        parent=start.parentInstance.orchestrationInstance.instanceId if start.HasField("parentInstance") else None,
        traceparent=start.parentTraceContext.traceParent,
    )
    return replace(end, cause=last_failure(history)) if end.is_failure else end
