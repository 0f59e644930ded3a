"""Monitor with a deadline: check repeatedly, with growing pauses, until the work is done or the time is up."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from durabletask import task

from bridge.workflow import publish
from workflows.patterns.chaining import BRIEF, RESULTS


@dataclass
class Export:
    """Input of `export_watch`. Times are seconds. ready_after: number of checks that the sample's service needs."""

    number: str
    ready_after: int = 3
    first_pause: float = 1.0
    longest_pause: float = 60.0
    deadline: float = 3600.0


@dataclass
class Look:
    """Input of `export_status`."""

    number: str
    count: int
    ready_after: int


def export_status(ctx: task.ActivityContext, look: Look) -> str:
    """Ask the service for the state of the export. The sample's service is ready after `ready_after` checks."""
    return "ready" if look.count >= look.ready_after else "running"


def export_watch(ctx: task.OrchestrationContext, export: Export) -> Generator[task.Task[Any], Any, dict[str, Any]]:
    """Watch an export. Returns number, status (ready or late) and the number of checks."""
    ends = ctx.current_utc_datetime + timedelta(seconds=export.deadline)
    pause = timedelta(seconds=export.first_pause)
    looks = 0
    status = "running"
    while status != "ready" and ctx.current_utc_datetime < ends:
        looks += 1
        look = Look(export.number, looks, export.ready_after)
        status = yield ctx.call_activity(export_status, input=look, retry_policy=BRIEF)
        if status != "ready":
            yield ctx.create_timer(min(ctx.current_utc_datetime + pause, ends))
            pause = min(pause * 2, timedelta(seconds=export.longest_pause))
    result = {"number": export.number, "status": "ready" if status == "ready" else "late", "looks": looks}
    yield publish(ctx, RESULTS, result, type=f"export.{result['status']}", subject=export.number)
    return result
