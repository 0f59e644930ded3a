"""History of an orchestration for a person: events with their times, and calls joined with their results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from durabletask import history
from durabletask.client import OrchestrationStatus
from durabletask.task import FailureDetails

from bridge.app.connection import payload
from bridge.system.clock import stamp

_NEVER = datetime.fromtimestamp(0, UTC)
_TURNS = (history.OrchestratorStartedEvent, history.OrchestratorCompletedEvent)


@dataclass(frozen=True, slots=True)
class TimelineEntry:
    """One line of a timeline.

    after: seconds since the first event.
    data: JSON value of the event.
    """

    at: str
    after: float
    event: str
    data: Any


def timeline(events: Sequence[history.HistoryEvent]) -> list[TimelineEntry]:
    """Entries in the order of the history, without the orchestrator's turns."""
    entries: list[TimelineEntry] = []
    first = next((event.timestamp for event in events if event.timestamp > _NEVER), _NEVER)
    names = _Names(first)
    for event in events:
        # Some engines give times to turns only: an event without a time happened in the turn before it. A late timer
        # carries the time when it was due, which may be before the turn that set it
        now = names.advance(event.timestamp)
        if isinstance(event, _TURNS):
            continue
        text, data = _describe(event, names)
        entries.append(TimelineEntry(stamp(now), (now - first).total_seconds(), text, data))
    return entries


def as_json(events: Sequence[history.HistoryEvent]) -> list[dict[str, Any]]:
    """Events with all their fields, as the engine keeps them."""
    return [{"event": type(event).__name__.removesuffix("Event")} | event.to_dict() for event in events]


class _Names:
    """Names of calls by event id: a result in a history only has the id of its call."""

    def __init__(self, now: datetime) -> None:
        self._now = now
        self._asked: dict[int | str, tuple[str, datetime]] = {}

    def advance(self, moment: datetime) -> datetime:
        """Move the present time on to a moment, never back; return it."""
        self._now = max(self._now, moment)
        return self._now

    def add(self, key: int | str, name: str) -> None:
        self._asked[key] = (name, self._now)

    def done(self, key: int | str, word: str) -> str:
        name, since = self._asked.get(key, (f"task {key}", self._now))
        return f"{name} {word} after {duration((self._now - since).total_seconds())}"


def _describe(event: history.HistoryEvent, names: _Names) -> tuple[str, Any]:
    match event:
        case history.ExecutionStartedEvent():
            version = f" version {event.version}" if event.version else ""
            parent = event.parent_instance and event.parent_instance.orchestration_instance
            by = f" by {parent.instance_id}" if parent else ""
            return f"started {event.name}{version}{by}", payload(event.input)
        case history.ExecutionCompletedEvent():
            status = OrchestrationStatus(event.orchestration_status).name.lower().replace("_", " ")
            return status, payload(event.result) if event.failure_details is None else _failed(event.failure_details)
        case history.ExecutionTerminatedEvent():
            return "termination requested", payload(event.input)
        case history.ExecutionSuspendedEvent():
            return "suspended", payload(event.input)
        case history.ExecutionResumedEvent():
            return "resumed", payload(event.input)
        case history.ExecutionRewoundEvent():
            return "rewound", event.reason
        case history.ContinueAsNewEvent():
            return "continued as new", payload(event.input)
        case history.TaskScheduledEvent():
            names.add(event.event_id, f"activity {event.name}")
            return f"activity {event.name} called", payload(event.input)
        case history.TaskCompletedEvent():
            return names.done(event.task_scheduled_id, "done"), payload(event.result)
        case history.TaskFailedEvent():
            return names.done(event.task_scheduled_id, "failed"), _failed(event.failure_details)
        case history.SubOrchestrationInstanceCreatedEvent():
            names.add(event.event_id, f"orchestration {event.name}")
            return f"orchestration {event.name} called as {event.instance_id}", payload(event.input)
        case history.SubOrchestrationInstanceCompletedEvent():
            return names.done(event.task_scheduled_id, "done"), payload(event.result)
        case history.SubOrchestrationInstanceFailedEvent():
            return names.done(event.task_scheduled_id, "failed"), _failed(event.failure_details)
        case history.TimerCreatedEvent():
            return f"timer set for {stamp(event.fire_at)}", None
        case history.TimerFiredEvent():
            return "timer fired", None
        case history.EventRaisedEvent():
            return f"event {event.name} received", payload(event.input)
        case history.EventSentEvent():
            return f"event {event.name} sent to {event.instance_id}", payload(event.input)
        case _:
            return _describe_entity(event, names)


def _describe_entity(event: history.HistoryEvent, names: _Names) -> tuple[str, Any]:
    match event:
        case history.EntityOperationSignaledEvent():
            return f"entity {event.target_instance_id} signalled: {event.operation}", payload(event.input)
        case history.EntityOperationCalledEvent():
            names.add(event.request_id, f"entity {event.target_instance_id} {event.operation}")
            return f"entity {event.target_instance_id} called: {event.operation}", payload(event.input)
        case history.EntityOperationCompletedEvent():
            return names.done(event.request_id, "done"), payload(event.output)
        case history.EntityOperationFailedEvent():
            return names.done(event.request_id, "failed"), _failed(event.failure_details)
        case history.EntityLockRequestedEvent():
            names.add(event.critical_section_id, f"lock of {', '.join(event.lock_set)}")
            return f"lock of {', '.join(event.lock_set)} requested", None
        case history.EntityLockGrantedEvent():
            return names.done(event.critical_section_id, "granted"), None
        case history.EntityUnlockSentEvent():
            return f"lock of {event.target_instance_id} released", None
        case history.GenericEvent():
            return "note", payload(event.data)
        case _:
            return type(event).__name__.removesuffix("Event"), None


def _failed(details: FailureDetails | None) -> str | None:
    return None if details is None else f"{details.error_type}: {details.message}"


def duration(seconds: float) -> str:
    """Duration as text: `4ms`, `2.5s`, `3m 20s`, `2h 5m`, `3d 4h`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 60:
        return f"{seconds:.1f}s"
    whole = int(seconds)
    for unit, size, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "m", 60)):
        if whole >= size:
            return f"{whole // size}{unit} {whole % size // part}{smaller}"
    return f"{whole // 60}m {whole % 60}s"
