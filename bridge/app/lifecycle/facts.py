"""Lifecycle events of facts. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from bridge.app.lifecycle.data import CauseData, ConfigurationData, InstanceData, JobData, SourceData
from bridge.core.lifecycle import EventKind, LifecycleEvent, event_id
from bridge.core.states import JobState, SourceState
from bridge.dead_letters.rows import Facts, Summary
from bridge.engines.worker.finishes import failure_of
from bridge.jobs.state_machine import JobRecord
from bridge.ops.health import Check
from bridge.ops.status import next_of_source
from bridge.sqlite_engine.model.instance import Finish
from bridge.system.clock import stamp

SOURCE_TROUBLES: Mapping[str, EventKind] = {
    SourceState.HELD: EventKind.SOURCE_HELD,
    SourceState.PAUSED: EventKind.SOURCE_PAUSED,
    SourceState.PROBING: EventKind.SOURCE_PROBING,
    SourceState.STUCK: EventKind.SOURCE_STUCK,
}
"""Kinds of events by the state of a source. A source that is dead ends its daemon."""

_PROBLEMS = 3
_TEXT = 500


def _time(seconds: float) -> str:
    return stamp(datetime.fromtimestamp(seconds, UTC))


def of_end(engine: str, end: Finish, at: float) -> LifecycleEvent | None:
    """Event of the end of an instance; None for one that did not fail. at: seconds since the Unix epoch."""
    if not end.is_failure:
        return None
    found = failure_of(end)
    kind = EventKind.INSTANCE_COMPENSATED if found.is_compensated else EventKind.INSTANCE_FAILED
    data = InstanceData(
        engine=engine,
        orchestration=found.orchestration,
        instance=found.instance_id,
        execution=end.execution,
        parent=found.parent,
        saga=found.saga,
        outcome=found.outcome,
        step=found.step,
        reason=found.reason,
        compensation=found.compensation,
        error=found.error,
        frame=found.frame,
        next=f"bridge instances show {found.instance_id}",
    )
    id_ = event_id(kind, engine, found.instance_id, end.execution)
    return LifecycleEvent(kind, id_, at, found.instance_id, {**data})


def of_cause(broker: str, topic: str, facts: Facts, summary: Summary, now: float) -> LifecycleEvent:
    """Event of a new cause. summary: open dead letters of it. now: used where the dead letters have no time.

    The oldest open dead letter is part of the id: all daemons see the same one, and a cause that comes back after the
    others were replayed has another one.
    """
    kind = EventKind.DEAD_LETTER_CAUSE
    source = facts.source or ""
    data = CauseData(
        source=source,
        broker=broker,
        topic=topic,
        group=facts.fingerprint,
        reason=facts.reason,
        route=facts.route or "",
        error=facts.error,
        count=summary.count,
        first_at=None if summary.first is None else _time(summary.first),
        next=f"bridge dlq list {source} --cause {facts.fingerprint}".replace("  ", " "),
    )
    id_ = event_id(kind, broker, topic, source, facts.fingerprint, summary.first)
    return LifecycleEvent(kind, id_, summary.first or now, source or topic, {**data})


def of_source(daemon: str, check: Check, since: float, before: str | None = None) -> LifecycleEvent:
    """Event of the state of a source in a daemon.

    since: time of the state, seconds since the Unix epoch. before: state that has ended; None at its begin.
    """
    kind = EventKind.SOURCE_RECOVERED if before is not None else SOURCE_TROUBLES[check.state]
    data = SourceData(
        daemon=daemon,
        source=check.name,
        state=str(check.state),
        before=before,
        detail=check.detail[:_TEXT],
        since=_time(since),
        next=next_of_source(check.state, check.name),
    )
    return LifecycleEvent(kind, event_id(kind, daemon, check.name, since), since, check.name, {**data})


def of_job(engine: str, record: JobRecord, now: float) -> LifecycleEvent | None:
    """Event of a job that has ended or was stopped; None for another one. now: used for a stop, which has no time."""
    if record.state is JobState.STOPPED:
        kind, mark = EventKind.JOB_STOPPED, str(record.finished)
    elif not record.is_open:
        kind, mark = EventKind.JOB_FINISHED, ""
    else:
        return None
    data = JobData(
        engine=engine,
        job=record.id,
        kind=record.request.kind,
        state=str(record.state),
        why=record.why,
        selected=record.selected,
        counts=dict(record.counts),
        by=record.request.by,
        note=record.request.reason[:_TEXT],
        next=f"bridge jobs show {record.id}",
    )
    id_ = event_id(kind, engine, record.id, mark)
    return LifecycleEvent(kind, id_, record.ended or now, record.id, {**data})


def of_reload(
    daemon: str,
    before: str,
    version: str,
    by: str,
    now: float,
    *,
    sources: Mapping[str, str] | None = None,
    routes: Mapping[str, str] | None = None,
    problems: Sequence[str] = (),
) -> LifecycleEvent:
    """Event of a reload; refused with `problems`. before, version: versions of the configuration."""
    kind = EventKind.CONFIGURATION_REFUSED if problems else EventKind.CONFIGURATION_RELOADED
    data = ConfigurationData(
        daemon=daemon,
        before=before,
        version=version,
        by=by,
        sources=dict(sources or {}),
        routes=dict(routes or {}),
        problems=[each[:_TEXT] for each in problems[:_PROBLEMS]],
        problem_count=len(problems),
        next="bridge check" if problems else "bridge status",
    )
    return LifecycleEvent(kind, event_id(kind, daemon, version, now), now, version, {**data})


def request(event: LifecycleEvent, target: str) -> dict[str, Any]:
    """Request of `bridge.pipeline.publishing`."""
    return {
        "target": target,
        "id": event.id,
        "type": event.kind.type,
        "time": _time(event.time),
        "subject": event.subject,
        "key": event.subject,
        "data": event.data,
    }
