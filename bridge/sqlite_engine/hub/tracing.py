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
from functools import lru_cache
from typing import Protocol

from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.sqlite_engine.model import instance as states
from bridge.sqlite_engine.model.instance import StoredInstance
from bridge.sqlite_engine.model.turn import TurnOutcome
from bridge.sqlite_engine.options import HostRules, TracingOptions
from bridge.sqlite_engine.storage.transaction import Transaction
from bridge.system.spans import (
    CLIENT,
    INTERNAL,
    PRODUCER,
    SERVER,
    attribute,
    known_attribute,
    link,
    part_of,
    span,
    span_id_of,
    trace_id_of,
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

_COMPLETED = frozenset({"taskCompleted", "subOrchestrationInstanceCompleted"})
_FAILED = frozenset({"taskFailed", "subOrchestrationInstanceFailed"})
_START, _ACTIVITY, _CHILD, _TIMER, _EVENT, _WAIT, _SENT = range(1, 8)
"""Kinds of parts, in the ids of their spans. They stay as they are: a part keeps its id."""

ABANDONED = "Abandoned"
"""Status of a step that had no result when its instance ended."""


class Hub(Protocol):
    """Hub as its spans need it."""

    tx: Transaction
    now: int
    rules: HostRules

    def load_history(self, instance: StoredInstance) -> list[pb.HistoryEvent]: ...


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

    def expired(self, number: int) -> None:
        """Count spans that were kept for too long."""
        self.dropped["age"] += number

    def measured(self, size: int) -> None:
        """Set the bytes of the spans in the file."""
        self.waiting_bytes = size

    def begin(self, instance: StoredInstance) -> None:
        """Complete the trace context of a new instance."""
        started = instance.start.executionStarted
        if started.HasField("parentTraceContext"):
            context = started.parentTraceContext
            given = context.traceParent
            # A client that names its own span has made it
            if given[-1:] in _SAMPLED and not context.spanID and _PARENT.fullmatch(given):
                start = part_of(span_id_of(instance.execution), _START).hex()
                context.traceParent = f"{given[:36]}{start}{given[52:]}"
                context.spanID = given[36:52]
        elif instance.parent is None:
            trace_id = trace_id_of(instance.execution).hex()
            if self._options.samples(trace_id, f"orchestration:{instance.name}"):
                own = span_id_of(instance.execution).hex()
                started.parentTraceContext.traceParent = f"00-{trace_id}-{own}-01"
                started.parentTraceContext.spanID = own

    def turn(self, instance: StoredInstance, outcome: TurnOutcome) -> None:
        """Make the spans that end with a turn, and give the scheduled steps their context. Call it before recording."""
        made = self._spans_of(instance)
        if made is not None:
            made.add(outcome, self._hub)
            self._keep(made.take())
        elif any(event.HasField("eventRaised") for event in outcome.history):
            self._keep(_events_of_others(self._hub, instance, outcome.history))

    def end(self, instance: StoredInstance, status: int, failure: pb.TaskFailureDetails | None) -> None:
        """Make the last spans of an instance that the engine ends."""
        made = self._spans_of(instance)
        if made is not None:
            if not instance.chunks:
                made.start()
            made.finish(status, failure, made.waiting(self._hub), self._hub.now * 1000)
            self._keep(made.take())

    def _spans_of(self, instance: StoredInstance) -> _Spans | None:
        """Spans of an instance; None when it is not sampled, or when its worker makes spans itself."""
        found: _Spans | bool | None = instance.spans
        if found is None:
            parent = instance.start.executionStarted.parentTraceContext.traceParent
            is_sampled = parent[-1:] in _SAMPLED and _PARENT.fullmatch(parent) is not None
            found = instance.spans = _Spans(instance, parent) if is_sampled else False
        if not found or (instance.trace is not None and instance.trace.spanID.value):
            return None
        assert isinstance(found, _Spans)
        return found

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
    """Spans of one execution of a sampled instance."""

    __slots__ = ("_attributes", "_instance", "_made", "_own", "_parent", "_prefix", "_suffix", "_trace_id", "_waiting")

    def __init__(self, instance: StoredInstance, parent: str) -> None:
        self._instance = instance
        self._trace_id = bytes.fromhex(parent[3:35])
        self._parent = bytes.fromhex(parent[36:52])
        self._prefix, self._suffix = parent[:36], parent[52:]
        self._own = span_id_of(instance.execution)
        self._attributes = attribute("durabletask.task.instance_id", instance.id)
        self._waiting: dict[int, pb.HistoryEvent] | None = None if instance.chunks else {}
        self._made: list[bytes] = []

    def take(self) -> list[bytes]:
        """Spans made since the last call."""
        made, self._made = self._made, []
        return made

    def waiting(self, hub: Hub) -> dict[int, pb.HistoryEvent]:
        """Scheduled steps without a result, by their ids."""
        if self._waiting is None:
            self._waiting = open_work(hub.load_history(self._instance))
        return self._waiting

    # Parts

    def start(self) -> None:
        """Make the span of the start, where the engine has given it its id."""
        if self._parent != part_of(self._own, _START):
            return
        instance = self._instance
        at = _time(instance.start)
        caller = bytes.fromhex(instance.start.executionStarted.parentTraceContext.spanID)
        name = _titled("create_orchestration", instance.name, instance.version)
        self._add(self._parent, caller, name, PRODUCER, at, at, self._orchestration())

    def add(self, outcome: TurnOutcome, hub: Hub) -> None:
        """Make the spans of a turn."""
        if not self._instance.chunks:
            self.start()
        waiting = self.waiting(hub)
        for position, event in enumerate(outcome.history):
            kind = event.WhichOneof("eventType")
            if kind == "taskScheduled" or kind == "timerCreated" or kind == "subOrchestrationInstanceCreated":
                waiting[event.eventId] = event
            elif kind in _COMPLETED or kind in _FAILED:
                ended = getattr(event, str(kind))
                failure = ended.failureDetails if kind in _FAILED else None
                self._call(waiting.pop(ended.taskScheduledId, None), _time(event), failure)
            elif kind == "timerFired":
                self._timer(waiting.pop(event.timerFired.timerId, None), _time(event))
            elif kind == "eventRaised":
                past = hub.load_history(self._instance)
                self._wait(event, _time(past[-1]) if past else None, position, hub)
            elif kind == "eventSent":
                self._sent(event)
        for request in outcome.activities:
            self._pass_on(request.parentTraceContext, _ACTIVITY, request.taskId)
        for task_id, child in outcome.children:
            self._pass_on(child.parentTraceContext, _CHILD, task_id)
        completion = outcome.completion
        if completion is not None:
            failure = completion.failureDetails if completion.HasField("failureDetails") else None
            self.finish(completion.orchestrationStatus, failure, waiting, hub.now * 1000)

    def finish(
        self, status: int, failure: pb.TaskFailureDetails | None, waiting: dict[int, pb.HistoryEvent], now: int
    ) -> None:
        """Make the span of the instance, and those of its steps without a result."""
        for event in waiting.values():
            self._call(event, now, abandoned=True)
        instance = self._instance
        self._add(
            self._own,
            None if self._parent == self._own else self._parent,
            _titled("orchestration", instance.name, instance.version),
            SERVER,
            _time(instance.start),
            now,
            self._orchestration()
            + known_attribute("durabletask.task.status", _STATUSES.get(status, "Completed"))
            + _error(failure),
            error=status == states.FAILED,
        )

    def _call(
        self,
        scheduled: pb.HistoryEvent | None,
        end: int,
        failure: pb.TaskFailureDetails | None = None,
        *,
        abandoned: bool = False,
    ) -> None:
        """Make the span of an activity or a child orchestration; none for other events."""
        call: pb.TaskScheduledEvent | pb.SubOrchestrationInstanceCreatedEvent
        if scheduled is None:
            return
        if scheduled.HasField("taskScheduled"):
            kind, type_, call = _ACTIVITY, "activity", scheduled.taskScheduled
        elif scheduled.HasField("subOrchestrationInstanceCreated"):
            kind, type_, call = _CHILD, "orchestration", scheduled.subOrchestrationInstanceCreated
        else:
            return
        name, version = call.name, call.version.value if call.HasField("version") else None
        number = scheduled.eventId
        attributes = (
            _described(type_, name, version)
            + self._attributes
            + known_attribute("durabletask.task.task_id", str(number))
        )
        if abandoned:
            attributes += known_attribute("durabletask.task.status", ABANDONED)
        if failure is not None:
            attributes += _error(failure)
        own, title = part_of(self._own, kind, number), _titled(type_, name, version)
        self._add(own, self._own, title, CLIENT, _time(scheduled), end, attributes, error=failure is not None)

    def _timer(self, created: pb.HistoryEvent | None, end: int) -> None:
        if created is None:
            return
        name = self._instance.name
        attributes = (
            _described("timer", name, None)
            + self._attributes
            + known_attribute("durabletask.task.task_id", str(created.eventId))
            + attribute("durabletask.fire_at", created.timerCreated.fireAt.ToJsonString())
        )
        own = part_of(self._own, _TIMER, created.eventId)
        self._add(own, self._own, f"orchestration:{name}:timer", INTERNAL, _time(created), end, attributes)

    def _wait(self, event: pb.HistoryEvent, since: int | None, position: int, hub: Hub) -> None:
        """Make the span of an event in its sender's trace, and that of the wait for it."""
        at = _time(event)
        number = (self._instance.chunks << 20) + position
        raised = _raised(hub, self._instance, event, number)
        links = b""
        if raised is not None:
            sender, made = raised
            self._made.append(made)
            links = link(sender, part_of(self._own, _EVENT, number))
        if since is not None and since < at:
            name = self._instance.name
            attributes = (
                _described("event", name, None)
                + self._attributes
                + attribute("durabletask.event.name", event.eventRaised.name)
            )
            own = part_of(self._own, _WAIT, number)
            self._add(own, self._own, f"orchestration:{name}:wait", INTERNAL, since, at, attributes, links=links)

    def _sent(self, event: pb.HistoryEvent) -> None:
        sent = event.eventSent
        attributes = (
            _described("event", sent.name, None)
            + self._attributes
            + attribute("durabletask.event.target_instance_id", sent.instanceId)
        )
        own, at = part_of(self._own, _SENT, event.eventId), _time(event)
        self._add(own, self._own, f"orchestration_event:{sent.name}", PRODUCER, at, at, attributes)

    def _pass_on(self, context: pb.TraceContext, kind: int, number: int) -> None:
        """Let a step's work belong to the step's span."""
        own = part_of(self._own, kind, number).hex()
        context.traceParent = f"{self._prefix}{own}{self._suffix}"
        context.spanID = own

    def _orchestration(self) -> bytes:
        instance = self._instance
        attributes = _described("orchestration", instance.name, instance.version) + self._attributes
        return attributes if instance.saga is None else attributes + attribute("bridge.saga", instance.saga)

    def _add(
        self,
        own: bytes,
        parent: bytes | None,
        name: str,
        kind: int,
        start: int,
        end: int,
        attributes: bytes,
        *,
        links: bytes = b"",
        error: bool = False,
    ) -> None:
        self._made.append(
            span(self._trace_id, own, parent, name, kind, start, end, attributes, links=links, error=error)
        )


def open_work(history: list[pb.HistoryEvent]) -> dict[int, pb.HistoryEvent]:
    """Scheduled steps of a history that have no result in it, by their ids."""
    found: dict[int, pb.HistoryEvent] = {}
    for event in history:
        kind = event.WhichOneof("eventType")
        if kind in ("taskScheduled", "timerCreated", "subOrchestrationInstanceCreated"):
            found[event.eventId] = event
        elif kind == "timerFired":
            found.pop(event.timerFired.timerId, None)
        elif kind in _COMPLETED or kind in _FAILED:
            found.pop(getattr(event, str(kind)).taskScheduledId, None)
    return found


def _events_of_others(hub: Hub, instance: StoredInstance, history: list[pb.HistoryEvent]) -> list[bytes]:
    """Spans of events whose senders are sampled, while their receiver is not."""
    found = []
    for position, event in enumerate(history):
        if event.HasField("eventRaised"):
            raised = _raised(hub, instance, event, (instance.chunks << 20) + position)
            if raised is not None:
                found.append(raised[1])
    return found


def _raised(hub: Hub, instance: StoredInstance, event: pb.HistoryEvent, number: int) -> tuple[bytes, bytes] | None:
    """Trace id of the sender of a raised event, and the event's span there; None when unknown or not sampled."""
    sender = hub.rules.trace_of(event.eventRaised.input.value)
    if sender is None or sender[54] not in _SAMPLED:
        return None
    name = event.eventRaised.name
    attributes = _described("event", name, None) + attribute("durabletask.event.target_instance_id", instance.id)
    at, own = _time(event), span_id_of(instance.execution)
    receiver = instance.start.executionStarted.parentTraceContext.traceParent
    links = link(bytes.fromhex(receiver[3:35]), own) if _PARENT.fullmatch(receiver) else b""
    trace_id, parent = bytes.fromhex(sender[3:35]), bytes.fromhex(sender[36:52])
    title = f"orchestration_event:{name}"
    made = span(trace_id, part_of(own, _EVENT, number), parent, title, PRODUCER, at, at, attributes, links=links)
    return trace_id, made


def _time(event: pb.HistoryEvent) -> int:
    """Time of an event, in nanoseconds since the Unix epoch."""
    moment = event.timestamp
    nanoseconds: int = moment.seconds * 1_000_000_000 + moment.nanos
    return max(0, nanoseconds)


@lru_cache(1024)
def _titled(what: str, name: str, version: str | None) -> str:
    return f"{what}:{name}@({version})" if version else f"{what}:{name}"


@lru_cache(1024)
def _described(type_: str, name: str, version: str | None) -> bytes:
    """Attributes that all spans of a name share."""
    found = attribute("durabletask.type", type_) + attribute("durabletask.task.name", name)
    return found + attribute("durabletask.task.version", version) if version else found


def _error(failure: pb.TaskFailureDetails | None) -> bytes:
    """Type of a failure. Its text may contain payload."""
    if failure is None:
        return b""
    return known_attribute("error.type", failure.errorType.removeprefix("builtins.")[:256] or "_OTHER")
