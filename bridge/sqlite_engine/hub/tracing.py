"""Spans of workflows, made of the history in the transaction that writes it.

Spans have the names and attributes of the Durable Task SDK's own. Their ids are derived from the execution, and they
are kept in the engine's file until they are sent: none is lost with the process, and a repeated export has the same
bytes. The decision to sample is part of the history, as the flags of the instance's trace context.

Trace context of an instance: `traceParent` names the parent of the instance's span. Where the engine makes the span of
the start, that parent, `spanID` names the start's own parent. Where the instance begins a trace, `traceParent` names
the instance's own span.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Protocol

from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.sqlite_engine.model import instance as states
from bridge.sqlite_engine.model.instance import Instance
from bridge.sqlite_engine.model.turn import Outcome
from bridge.sqlite_engine.options import HostRules, TracingOptions
from bridge.sqlite_engine.storage.transaction import Transaction
from bridge.system.spans import (
    CLIENT,
    INTERNAL,
    PRODUCER,
    SERVER,
    attribute,
    derived_span_id,
    derived_trace_id,
    known_attribute,
    link,
    span,
)

_PARENT = re.compile("00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)
_SAMPLED = frozenset("13579bdf")

_STATUSES: dict[int, str] = {
    states.COMPLETED: "Completed",
    states.FAILED: "Failed",
    states.TERMINATED: "Terminated",
    states.CANCELED: "Canceled",
    states.CONTINUED_AS_NEW: "ContinuedAsNew",
}

ABANDONED = "Abandoned"
"""Status of a step that had no result when its instance ended."""


class Hub(Protocol):
    """Hub as its spans need it."""

    tx: Transaction
    now: int
    rules: HostRules

    def load_history(self, instance: Instance) -> list[pb.HistoryEvent]: ...


class HistoryTracing:
    """Maker of the spans of a hub. All methods run in the writer's thread.

    waiting_bytes: spans in the file.
    dropped: spans that were not kept, by reason: `backlog` (the file keeps too many), `age` (kept for too long).
    """

    def __init__(self, hub: Hub, options: TracingOptions) -> None:
        self._hub = hub
        self._options = options
        self.waiting_bytes = 0
        self.dropped: Counter[str] = Counter()

    def begin(self, instance: Instance) -> None:
        """Complete the trace context of a new instance."""
        started = instance.start.executionStarted
        if started.HasField("parentTraceContext"):
            context = started.parentTraceContext
            given = context.traceParent
            # A client that names its own span has made it
            if context.spanID or not _PARENT.fullmatch(given):
                return
            context.spanID = given[36:52]
            if given[-1] in _SAMPLED:
                context.traceParent = f"{given[:36]}{derived_span_id(instance.execution, 'create')}{given[52:]}"
        elif instance.parent is None:
            trace_id = derived_trace_id(instance.execution)
            if self._options.samples(trace_id, f"orchestration:{instance.name}"):
                own = derived_span_id(instance.execution, "orchestration")
                started.parentTraceContext.traceParent = f"00-{trace_id}-{own}-01"
                started.parentTraceContext.spanID = own

    def turn(self, instance: Instance, outcome: Outcome) -> None:
        """Make the spans that end with a turn, and give the scheduled steps their context. Call it before recording."""
        made = _Spans.of(self._hub, instance)
        if made is None:
            if any(event.HasField("eventRaised") for event in outcome.history):
                self._keep(_events_of_others(self._hub, instance, outcome.history))
            return
        made.add(outcome)
        self._keep(made.spans)

    def end(self, instance: Instance, status: int, failure: pb.TaskFailureDetails | None) -> None:
        """Make the last spans of an instance that the engine ends."""
        made = _Spans.of(self._hub, instance)
        if made is not None:
            made.start()
            waiting = instance.open_work
            if waiting is None:
                waiting = open_work(self._hub.load_history(instance)) if instance.chunks else {}
            made.finish(status, failure, waiting)
            self._keep(made.spans)

    def _keep(self, spans: list[bytes]) -> None:
        if not spans:
            return
        size = sum(map(len, spans))
        if self.waiting_bytes + size > self._options.max_backlog:
            self.dropped["backlog"] += len(spans)
            return
        self.waiting_bytes += size
        self._hub.tx.add_spans(spans)


class _Spans:
    """Spans of one transaction of a sampled instance."""

    def __init__(self, hub: Hub, instance: Instance, parent: str) -> None:
        self._hub = hub
        self._instance = instance
        self._parent = parent
        self._trace_id = parent[3:35]
        self._execution = instance.execution
        self._own = derived_span_id(instance.execution, "orchestration")
        self._attributes = attribute("durabletask.task.instance_id", instance.id)
        self.spans: list[bytes] = []

    @classmethod
    def of(cls, hub: Hub, instance: Instance) -> _Spans | None:
        """Spans of an instance; None when it is not sampled, or when its worker makes spans itself."""
        parent = instance.start.executionStarted.parentTraceContext.traceParent
        if parent[-1:] not in _SAMPLED or not _PARENT.fullmatch(parent):
            return None
        if instance.trace is not None and instance.trace.spanID.value:
            return None
        return cls(hub, instance, parent)

    # Parts

    def start(self) -> None:
        """Make the span of the start, with the first turn, where the engine has given it its id."""
        instance = self._instance
        if instance.chunks or self._parent[36:52] != derived_span_id(self._execution, "create"):
            return
        at = _time(instance.start)
        caller = instance.start.executionStarted.parentTraceContext.spanID
        name = f"create_orchestration:{_titled(instance.name, instance.version)}"
        self._add(self._parent[36:52], caller, name, PRODUCER, at, at, self._orchestration())

    def add(self, outcome: Outcome) -> None:
        """Make the spans of a turn."""
        instance = self._instance
        self.start()
        past = self._hub.load_history(instance)
        waiting = instance.open_work
        if waiting is None:
            waiting = instance.open_work = open_work(past)
        since = _time(past[-1]) if past else None
        for position, event in enumerate(outcome.history):
            kind = event.WhichOneof("eventType")
            if kind == "taskScheduled":
                self._pass_on(event.taskScheduled.parentTraceContext, "activity", event.eventId)
                waiting[event.eventId] = event
            elif kind == "taskCompleted":
                self._activity(waiting.pop(event.taskCompleted.taskScheduledId, None), _time(event))
            elif kind == "taskFailed":
                failed = event.taskFailed
                self._activity(waiting.pop(failed.taskScheduledId, None), _time(event), failed.failureDetails)
            elif kind == "timerCreated":
                waiting[event.eventId] = event
            elif kind == "timerFired":
                self._timer(waiting.pop(event.timerFired.timerId, None), _time(event))
            elif kind == "subOrchestrationInstanceCreated":
                self._pass_on(event.subOrchestrationInstanceCreated.parentTraceContext, "child", event.eventId)
                waiting[event.eventId] = event
            elif kind == "subOrchestrationInstanceCompleted":
                done = event.subOrchestrationInstanceCompleted
                self._child(waiting.pop(done.taskScheduledId, None), _time(event))
            elif kind == "subOrchestrationInstanceFailed":
                ended = event.subOrchestrationInstanceFailed
                self._child(waiting.pop(ended.taskScheduledId, None), _time(event), ended.failureDetails)
            elif kind == "eventRaised":
                self._wait(event, since, position)
            elif kind == "eventSent":
                self._sent(event)
        for request in outcome.activities:
            request.parentTraceContext.CopyFrom(waiting[request.taskId].taskScheduled.parentTraceContext)
        for task_id, child in outcome.children:
            created = waiting[task_id].subOrchestrationInstanceCreated
            child.parentTraceContext.CopyFrom(created.parentTraceContext)
        completion = outcome.completion
        if completion is not None:
            failure = completion.failureDetails if completion.HasField("failureDetails") else None
            self.finish(completion.orchestrationStatus, failure, waiting)

    def finish(self, status: int, failure: pb.TaskFailureDetails | None, waiting: dict[int, pb.HistoryEvent]) -> None:
        """Make the span of the instance, and those of its steps without a result."""
        instance = self._instance
        now = self._hub.now * 1000
        for event in waiting.values():
            if event.HasField("taskScheduled"):
                self._activity(event, now, abandoned=True)
            elif event.HasField("subOrchestrationInstanceCreated"):
                self._child(event, now, abandoned=True)
        parent = self._parent[36:52]
        known = known_attribute("durabletask.task.status", _STATUSES.get(status, "Completed"))
        self._add(
            self._own,
            "" if parent == self._own else parent,
            f"orchestration:{_titled(instance.name, instance.version)}",
            SERVER,
            _time(instance.start),
            now,
            self._orchestration() + known + _error(failure),
            error=status == states.FAILED,
        )

    def _activity(
        self,
        scheduled: pb.HistoryEvent | None,
        end: int,
        failure: pb.TaskFailureDetails | None = None,
        *,
        abandoned: bool = False,
    ) -> None:
        if scheduled is not None:
            task = scheduled.taskScheduled
            version = task.version.value if task.HasField("version") else None
            self._step("activity", "activity", scheduled, task.name, version, end, failure, abandoned)

    def _child(
        self,
        scheduled: pb.HistoryEvent | None,
        end: int,
        failure: pb.TaskFailureDetails | None = None,
        *,
        abandoned: bool = False,
    ) -> None:
        if scheduled is not None:
            child = scheduled.subOrchestrationInstanceCreated
            version = child.version.value if child.HasField("version") else None
            self._step("child", "orchestration", scheduled, child.name, version, end, failure, abandoned)

    def _step(
        self,
        kind: str,
        type_: str,
        scheduled: pb.HistoryEvent,
        name: str,
        version: str | None,
        end: int,
        failure: pb.TaskFailureDetails | None,
        abandoned: bool,
    ) -> None:
        number = scheduled.eventId
        attributes = (
            known_attribute("durabletask.type", type_)
            + known_attribute("durabletask.task.name", name)
            + self._attributes
            + known_attribute("durabletask.task.task_id", str(number))
        )
        if version:
            attributes += known_attribute("durabletask.task.version", version)
        if abandoned:
            attributes += known_attribute("durabletask.task.status", ABANDONED)
        self._add(
            derived_span_id(self._execution, kind, number),
            self._own,
            f"{type_}:{_titled(name, version)}",
            CLIENT,
            _time(scheduled),
            end,
            attributes + _error(failure),
            error=failure is not None,
        )

    def _timer(self, created: pb.HistoryEvent | None, end: int) -> None:
        if created is None:
            return
        name = self._instance.name
        attributes = (
            known_attribute("durabletask.type", "timer")
            + known_attribute("durabletask.task.name", name)
            + self._attributes
            + known_attribute("durabletask.task.task_id", str(created.eventId))
            + attribute("durabletask.fire_at", created.timerCreated.fireAt.ToJsonString())
        )
        own = derived_span_id(self._execution, "timer", created.eventId)
        self._add(own, self._own, f"orchestration:{name}:timer", INTERNAL, _time(created), end, attributes)

    def _wait(self, event: pb.HistoryEvent, since: int | None, position: int) -> None:
        """Make the span of an event in its sender's trace, and that of the wait for it."""
        name = event.eventRaised.name
        at = _time(event)
        number = (self._instance.chunks << 20) + position
        raised = _raised(self._hub, self._instance, event, number)
        links = b""
        if raised is not None:
            self.spans.append(raised)
            sender = self._hub.rules.trace_of(event.eventRaised.input.value)
            assert sender is not None
            links = link(sender[3:35], derived_span_id(self._execution, "event", number))
        if since is not None and since < at:
            attributes = (
                known_attribute("durabletask.type", "event")
                + known_attribute("durabletask.task.name", self._instance.name)
                + self._attributes
                + attribute("durabletask.event.name", name)
            )
            own = derived_span_id(self._execution, "wait", number)
            title = f"orchestration:{self._instance.name}:wait"
            self._add(own, self._own, title, INTERNAL, since, at, attributes, links=links)

    def _sent(self, event: pb.HistoryEvent) -> None:
        attributes = (
            known_attribute("durabletask.type", "event")
            + attribute("durabletask.task.name", event.eventSent.name)
            + self._attributes
            + attribute("durabletask.event.target_instance_id", event.eventSent.instanceId)
        )
        own = derived_span_id(self._execution, "sent", event.eventId)
        at = _time(event)
        self._add(own, self._own, f"orchestration_event:{event.eventSent.name}", PRODUCER, at, at, attributes)

    def _pass_on(self, context: pb.TraceContext, kind: str, number: int) -> None:
        """Let a step's work belong to the step's span."""
        own = derived_span_id(self._execution, kind, number)
        context.traceParent = f"{self._parent[:36]}{own}{self._parent[52:]}"
        context.spanID = own

    def _orchestration(self) -> bytes:
        instance = self._instance
        attributes = (
            known_attribute("durabletask.type", "orchestration")
            + known_attribute("durabletask.task.name", instance.name)
            + self._attributes
        )
        return (
            attributes + known_attribute("durabletask.task.version", instance.version)
            if instance.version
            else attributes
        )

    def _add(
        self,
        own: str,
        parent: str,
        name: str,
        kind: int,
        start: int,
        end: int,
        attributes: bytes,
        *,
        links: bytes = b"",
        error: bool = False,
    ) -> None:
        made = span(self._trace_id, own, parent or None, name, kind, start, end, attributes, links=links, error=error)
        self.spans.append(made)


def open_work(history: list[pb.HistoryEvent]) -> dict[int, pb.HistoryEvent]:
    """Scheduled steps of a history that have no result in it, by their ids."""
    found: dict[int, pb.HistoryEvent] = {}
    for event in history:
        kind = event.WhichOneof("eventType")
        if kind in ("taskScheduled", "timerCreated", "subOrchestrationInstanceCreated"):
            found[event.eventId] = event
        elif kind == "timerFired":
            found.pop(event.timerFired.timerId, None)
        elif kind in (
            "taskCompleted",
            "taskFailed",
            "subOrchestrationInstanceCompleted",
            "subOrchestrationInstanceFailed",
        ):
            found.pop(getattr(event, kind).taskScheduledId, None)
    return found


def _events_of_others(hub: Hub, instance: Instance, history: list[pb.HistoryEvent]) -> list[bytes]:
    """Spans of events whose senders are sampled, while their receiver is not."""
    found = []
    for position, event in enumerate(history):
        if event.HasField("eventRaised"):
            made = _raised(hub, instance, event, (instance.chunks << 20) + position)
            if made is not None:
                found.append(made)
    return found


def _raised(hub: Hub, instance: Instance, event: pb.HistoryEvent, number: int) -> bytes | None:
    """Span of a raised event, in the trace of its sender; None when that is unknown or not sampled."""
    sender = hub.rules.trace_of(event.eventRaised.input.value)
    if sender is None or sender[54] not in _SAMPLED:
        return None
    name = event.eventRaised.name
    attributes = (
        known_attribute("durabletask.type", "event")
        + attribute("durabletask.task.name", name)
        + attribute("durabletask.event.target_instance_id", instance.id)
    )
    at = _time(event)
    receiver = instance.start.executionStarted.parentTraceContext.traceParent
    links = b""
    if _PARENT.fullmatch(receiver):
        links = link(receiver[3:35], derived_span_id(instance.execution, "orchestration"))
    own = derived_span_id(instance.execution, "event", number)
    title = f"orchestration_event:{name}"
    return span(sender[3:35], own, sender[36:52], title, PRODUCER, at, at, attributes, links=links)


def _time(event: pb.HistoryEvent) -> int:
    """Time of an event, in nanoseconds since the Unix epoch."""
    moment = event.timestamp
    return max(0, int(moment.seconds) * 1_000_000_000 + int(moment.nanos))


def _titled(name: str, version: str | None) -> str:
    return f"{name}@({version})" if version else name


def _error(failure: pb.TaskFailureDetails | None) -> bytes:
    """Type of a failure. Its text may contain payload."""
    if failure is None:
        return b""
    return known_attribute("error.type", failure.errorType.removeprefix("builtins.")[:256] or "_OTHER")
