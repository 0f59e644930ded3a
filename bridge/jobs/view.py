"""Job as people see it: one JSON document, with its next command. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bridge.core.states import JobState
from bridge.jobs.kind import ItemOutcome
from bridge.jobs.state_machine import COUNTS, JobRecord
from bridge.system.clock import time_of

_PAYLOADS = frozenset({"data", "output"})
"""Arguments that are payload, which no list shows."""


def document(record: JobRecord) -> dict[str, Any]:
    """Job as JSON types. Times are RFC 3339 in UTC.

    eta_seconds: None while it is unknown. per_second: results over the last minute. next: command that a person may
    need; None for a job that has ended without failed and skipped items.
    """
    request = record.request
    speed, eta = record.speed, record.eta()
    return {
        "job": record.id,
        "kind": request.kind,
        "state": str(record.state),
        "why": record.why,
        "follows": record.followed is not None and record.state is JobState.RUNNING,
        "selection": request.selection,
        "arguments": {name: value for name, value in request.arguments.items() if name not in _PAYLOADS},
        "reason": request.reason,
        "by": request.by,
        "cut_off": _time(request.cut_off),
        "created": _time(record.created),
        "began": _time(record.began),
        "ended": _time(record.ended),
        "rate": request.rate,
        "ramp": list(request.ramp),
        "stop_after_failures": request.stop_after_failures,
        "follow": request.follow,
        "selected": record.selected,
        "counts": {name: record.counts[name] for name in COUNTS},
        "per_second": None if speed is None or record.state is not JobState.RUNNING else round(speed, 2),
        "eta_seconds": None if eta is None else round(eta, 1),
        "control": _control(record.control),
        "next": _next(record),
    }


def _control(control: Mapping[str, Any]) -> dict[str, Any] | None:
    """Last operation of a person."""
    if not control:
        return None
    members = ("action", "by", "reason")
    return {name: control[name] for name in members} | {"at": _time(control["at"])}


def _next(record: JobRecord) -> str | None:
    match record.state:
        case JobState.STOPPED:
            return f"bridge jobs show {record.id} --failed"
        case JobState.PAUSED:
            return f"bridge jobs resume {record.id}"
        case JobState.RUNNING | JobState.SELECTING:
            return f"bridge jobs watch {record.id}"
        case _ if record.counts[ItemOutcome.FAILED]:
            return f"bridge jobs show {record.id} --failed"
        case _:
            return f"bridge jobs show {record.id} --status skipped" if record.counts[ItemOutcome.SKIPPED] else None


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else time_of(seconds)
