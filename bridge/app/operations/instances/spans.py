"""Spans of a history: what ran and what waited, from when to when, with attempts and compensations. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from bridge.core.answers import PUBLISH_ACTIVITY


class SpanKind(StrEnum):
    """Kind of a span."""

    ACTIVITY = "activity"
    CHILD = "child"
    ENTITY = "entity"
    LOCK = "lock"
    TIMER = "timer"
    SUSPENDED = "suspended"
    MOMENT = "moment"
    """Event without a duration."""


WAITS = frozenset({SpanKind.TIMER, SpanKind.SUSPENDED})
"""Kinds during which nothing runs."""


@dataclass(slots=True)
class HistorySpan:
    """Part of an instance's life. Times are seconds since the Unix epoch.

    end: None while it lasts. attempt: number of the attempt, from 1. instance_id: of a child.
    """

    kind: SpanKind
    name: str
    start: float
    end: float | None = None
    failed: bool = False
    attempt: int = 1
    is_compensation: bool = False
    event_type: str | None = None
    """Type of the event that it publishes, where that is known."""
    instance_id: str | None = None

    @property
    def waits(self) -> bool:
        return self.kind in WAITS


@dataclass(frozen=True, slots=True)
class Lifetime:
    """Lifetime of one execution of an instance. end: None while it is not finished."""

    start: float
    end: float | None
    last: float
    spans: Sequence[HistorySpan]


@dataclass(slots=True)
class _Reader:
    spans: list[HistorySpan] = field(default_factory=list)
    open: dict[object, HistorySpan] = field(default_factory=dict)
    start: float | None = None
    end: float | None = None
    now: float = 0.0

    def read(self, event: Mapping[str, Any]) -> None:
        at = _seconds(event.get("timestamp"))
        if at:
            # A late timer carries the time when it was due
            self.now = max(self.now, at)
            self.start = self.now if self.start is None else self.start
        kind, number = str(event.get("event")), event.get("event_id")
        match kind:
            case "TaskScheduled":
                self._begin(number, SpanKind.ACTIVITY, event.get("name"))
                if event.get("name") == PUBLISH_ACTIVITY:
                    self.spans[-1].event_type = _type_of(event.get("input"))
            case "SubOrchestrationInstanceCreated":
                self._begin(number, SpanKind.CHILD, event.get("name"), event.get("instance_id"))
            case "TaskCompleted" | "SubOrchestrationInstanceCompleted":
                self._finish(event.get("task_scheduled_id"))
            case "TaskFailed" | "SubOrchestrationInstanceFailed":
                self._finish(event.get("task_scheduled_id"), failed=True)
            case "TimerCreated":
                self._begin(("timer", number), SpanKind.TIMER, "timer")
            case "TimerFired":
                self._finish(("timer", event.get("timer_id")))
            case "EntityOperationCalled":
                name = f"{event.get('target_instance_id')} {event.get('operation')}"
                self._begin(event.get("request_id"), SpanKind.ENTITY, name)
            case "EntityOperationCompleted" | "EntityOperationFailed":
                self._finish(event.get("request_id"), failed=kind.endswith("Failed"))
            case "EntityLockRequested":
                locks = event.get("lock_set")
                names = ", ".join(map(str, locks)) if isinstance(locks, list) else ""
                self._begin(event.get("critical_section_id"), SpanKind.LOCK, f"lock of {names}")
            case "EntityLockGranted":
                self._finish(event.get("critical_section_id"))
            case "EntityOperationSignaled":
                self._moment(f"signal {event.get('target_instance_id')} {event.get('operation')}")
            case "EventRaised":
                self._moment(f"event {event.get('name')}")
            case "EventSent":
                self._moment(f"event {event.get('name')} to {event.get('instance_id')}")
            case "ExecutionSuspended":
                self._begin("suspended", SpanKind.SUSPENDED, "suspended")
            case "ExecutionResumed":
                self._finish("suspended")
            case "ExecutionTerminated":
                self._moment("termination")
            case "ExecutionRewound":
                self._moment("rewind")
                self.end = None
            case "ExecutionCompleted":
                self.end = self.now

    def _begin(self, key: object, kind: SpanKind, name: Any, instance_id: Any = None) -> None:
        span = HistorySpan(kind, str(name), self.now, instance_id=None if instance_id is None else str(instance_id))
        self.open[key] = span
        self.spans.append(span)

    def _finish(self, key: object, *, failed: bool = False) -> None:
        span = self.open.pop(key, None)
        if span is not None:
            span.end, span.failed = self.now, failed

    def _moment(self, name: str) -> None:
        self.spans.append(HistorySpan(SpanKind.MOMENT, name, self.now, self.now))


@dataclass(frozen=True, slots=True)
class Undoing:
    """Facts that a saga tells about its compensations.

    count: compensations that have begun; None where the saga does not tell. outcome: type of the event that publishes
    its end, if one does.
    """

    count: int | None = None
    outcome: str | None = None


def lifetime(events: Iterable[Mapping[str, Any]], undoing: Undoing | None = None) -> Lifetime | None:
    """Lifetime that a history records; None for an empty one.

    events: result of `instances.history`. undoing: of a saga that compensates or has compensated.
    """
    reader = _Reader()
    for event in events:
        reader.read(event)
    if reader.start is None:
        return None
    for span in reader.open.values():
        if reader.end is not None:
            span.end = max(reader.end, span.start)  # nobody waits for it any more
    _count_attempts(reader.spans)
    if undoing is not None:
        _mark_compensations(reader.spans, undoing)
    return Lifetime(reader.start, reader.end, reader.now, reader.spans)


def _count_attempts(spans: Sequence[HistorySpan]) -> None:
    """Number the attempts: a call of the same name after a failed one is its next attempt."""
    failed: dict[tuple[SpanKind, str], int] = {}
    for span in spans:
        key = span.kind, span.name
        span.attempt = failed.get(key, 0) + 1
        if span.failed:
            failed[key] = span.attempt
        else:
            failed.pop(key, None)


def _mark_compensations(spans: Sequence[HistorySpan], undoing: Undoing) -> None:
    """Mark the compensations of a saga, which are its last calls. The publication of its end is none."""
    calls = [span for span in spans if span.kind in (SpanKind.ACTIVITY, SpanKind.CHILD)]
    if calls and undoing.outcome is not None and calls[-1].event_type == undoing.outcome:
        calls.pop()
    first = _after_failure(calls) if undoing.count is None else _last_calls(calls, undoing.count)
    for span in calls[first:]:
        span.is_compensation = True


def _last_calls(calls: Sequence[HistorySpan], count: int) -> int:
    """Position of the first of the last calls. count: their number; the attempts of one call count once."""
    begun = [position for position, span in enumerate(calls) if span.attempt == 1]
    return begun[-count] if 0 < count <= len(begun) else len(calls) if count == 0 else 0


def _after_failure(calls: Sequence[HistorySpan]) -> int:
    """Position after the first call that failed for good."""
    for position, span in enumerate(calls):
        later = calls[position + 1 :]
        if span.failed and not any(each.name == span.name and each.attempt == span.attempt + 1 for each in later):
            return position + 1
    return len(calls)


def _type_of(request: Any) -> str | None:
    """Type of a published event. request: input of its activity, as JSON text; None without the right to read it."""
    try:
        found = json.loads(request) if isinstance(request, str) else None
    except (ValueError, RecursionError):
        return None
    kind = found.get("type") if isinstance(found, dict) else None
    return kind if isinstance(kind, str) else None


def _seconds(value: Any) -> float | None:
    try:
        return datetime.fromisoformat(value).timestamp() if isinstance(value, str) else None
    except (ValueError, OverflowError):
        return None
