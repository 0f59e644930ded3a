"""Jobs: progress, control, and the result of each item."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bridge.app.page.dead_letters import KINDS
from bridge.app.page.visit import Page, Visit, place
from bridge.core.errors import InvalidCommand
from bridge.core.states import JobState
from bridge.jobs.state_machine import COUNTS

_PAGE = 100
_MOST_JOBS = 200


def item_path(kind: str, item: str) -> str | None:
    """Page of an item of a job; None for a kind whose items have none."""
    if kind in KINDS:
        return place("dead-letters", item)
    if kind.startswith("instances."):
        return place("instances", item)
    return None


def offset_of(visit: Visit) -> int:
    """Number of items before the page. Raises: InvalidCommand."""
    text = visit.get("offset") or "0"
    if not (text.isascii() and text.isdigit()) or len(text) > 9:
        raise InvalidCommand("`offset` is not a number")
    return int(text)


async def _read(visit: Visit) -> Mapping[str, Any]:
    found = await visit.read("jobs.list", engine=visit.get("engine"))
    state, kind = visit.get("state"), visit.get("kind")
    chosen = [
        each for each in found if (state is None or each["state"] == state) and (kind is None or each["kind"] == kind)
    ]
    chosen.sort(key=lambda each: each["created"] or "", reverse=True)
    return {
        "jobs": chosen[:_MOST_JOBS],
        "all": len(chosen),
        "states": [each.value for each in JobState],
        "kinds": sorted({each["kind"] for each in found}),
        "engines": list(visit.loaded.config.engines),
    }


async def _read_one(visit: Visit) -> Mapping[str, Any]:
    job = await visit.read("jobs.show", job=visit.parts["job"], engine=visit.get("engine"))
    status, offset = visit.get("status"), offset_of(visit)
    items = await visit.read(
        "jobs.items", job=job["job"], engine=visit.get("engine"), statuses=status, offset=offset, limit=_PAGE + 1
    )
    return {
        "job": job,
        "items": [each | {"path": item_path(job["kind"], each["id"])} for each in items[:_PAGE]],
        "next": {"offset": offset + _PAGE} if len(items) > _PAGE else None,
        "offset": offset,
        "statuses": COUNTS,
    }


JOBS = Page("/jobs", "jobs.html", _read, "Jobs")
ONE_JOB = Page("/jobs/{job}", "job.html", _read_one)
