"""Dead letters: groups with their trend, the newest of a group, one with its payload, and their actions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from bridge.app.operations.dead_letters.jobs import DROP_KIND, RESTORE_KIND
from bridge.app.page.formats import LONGEST_JSON
from bridge.app.page.sparkline import sparkline
from bridge.app.page.visit import Page, Visit
from bridge.dead_letters.state_machine import DeadLetterState
from bridge.replay.kind import REPLAY_KIND

STATES = tuple(each.value for each in DeadLetterState)
SINCE: Mapping[str, tuple[str, float]] = {
    "1h": ("last hour", 3_600.0),
    "24h": ("last day", 86_400.0),
    "7d": ("last week", 604_800.0),
    "30d": ("last month", 2_592_000.0),
}
"""Times of the filter: text and seconds."""
_TREND = "24h"
_MOST_GROUPS = 200
_PROCESSOR_SECONDS = 0.1
"""Seconds of processor time after which the page shows itself without dead letters that are not read yet.

A busy machine does not count: a page of few dead letters waits for them.
"""
_CLOCK_SECONDS = 5.0
_POLL_SECONDS = 0.02
_CHECKED = 1_000
"""Most dead letters of a dry run on a page. `bridge dlq check` takes all."""
RAMP = (1, 10, 100, 1_000)
KINDS = (REPLAY_KIND, DROP_KIND, RESTORE_KIND)
"""Kinds of jobs whose items are dead letters."""
_MOST_JOBS = 10
_MOST_CHECKED = 5
"""Most dead letters with one id that are tried."""
RESTORABLE = ("dropped", "replayed", "returned", "replaying")


class Prompt:
    """Reader of a page. While the first read takes long, the answer says that the daemon counts, and the read goes on.

    It fills the cache of dead letters: later reads are fast, and are awaited.
    """

    def __init__(
        self,
        read: Callable[[Visit], Awaitable[Mapping[str, Any]]],
        processor: float = _PROCESSOR_SECONDS,
        clock: float = _CLOCK_SECONDS,
    ) -> None:
        """Create the reader. processor, clock: seconds that the first read may take, of processor time and in all."""
        self._read = read
        self._bounds = processor, clock
        self._reading: dict[Hashable, asyncio.Task[Mapping[str, Any]]] = {}
        """First reads that have not ended, by what they read."""
        self._warm: set[int] = set()
        """Identities of the routes, one for each daemon of the process, through which a read has ended."""

    async def __call__(self, visit: Visit) -> Mapping[str, Any]:
        if id(visit.routes) in self._warm:
            return await self._kept(visit)
        key = (id(visit.routes), visit.caller, visit.own_address)
        task = self._reading.get(key)
        if task is None:
            task = self._reading[key] = asyncio.create_task(self._kept(visit))
            task.add_done_callback(lambda ended: self._forget(key, ended))
        processor, clock = time.process_time() + self._bounds[0], time.monotonic() + self._bounds[1]
        while not (await asyncio.wait({task}, timeout=_POLL_SECONDS))[0]:
            if time.process_time() >= processor or time.monotonic() >= clock:
                return {"counting": True, "jobs": (), **choices(visit)}
        return task.result()

    async def _kept(self, visit: Visit) -> Mapping[str, Any]:
        found = await self._read(visit)
        self._warm.add(id(visit.routes))
        return {"counting": False, **found}

    def _forget(self, key: Hashable, task: asyncio.Task[Mapping[str, Any]]) -> None:
        self._reading.pop(key, None)
        if not task.cancelled():
            task.exception()  # a visit that has left takes no error


def choices(visit: Visit) -> dict[str, Any]:
    """Members of the filter of the page."""
    config = visit.loaded.config
    return {
        "state": visit.get("state") or "open",
        "states": STATES,
        "times": [(name, text) for name, (text, _) in SINCE.items()],
        "sources": list(config.sources),
        "routes": [route.name for route in config.routes],
        "group": visit.get("group"),
    }


def trend_of(group: Mapping[str, Any], text: str) -> str:
    """Trend of a group as a picture. text: its time in words."""
    counts: Sequence[int] = group["trend"]
    later, earlier = sum(counts[len(counts) // 2 :]), sum(counts[: len(counts) // 2])
    return sparkline(counts, f"{later + earlier:,} in the {text}; {later:,} in its second half")


def moment_of(since: str | None, now: float) -> float | None:
    """Begin of a time of the filter, in seconds since the Unix epoch."""
    return None if since is None or since not in SINCE else now - SINCE[since][1]


def jobs_of(jobs: Sequence[Mapping[str, Any]], named: str | None) -> list[Mapping[str, Any]]:
    """Jobs on dead letters; those whose selection names a group or dead letter, or all. The newest first."""
    found = [each for each in jobs if each["kind"] in KINDS]
    chosen = [each for each in found if named is None or named in each["selection"]]
    return sorted(chosen, key=lambda each: each["created"] or "", reverse=True)[:_MOST_JOBS]


async def _read(visit: Visit) -> Mapping[str, Any]:
    state, since = visit.get("state") or "open", visit.get("since")
    group = visit.get("group")
    begin = moment_of(since, time.time())
    chosen: dict[str, Any] = {
        "sources": visit.get("source"),
        "routes": visit.get("route"),
        "causes": group or visit.get("cause"),
        "states": state,
        "since": None if begin is None else (datetime.fromtimestamp(begin, UTC)).isoformat(),
    }
    text, seconds = SINCE.get(since or _TREND, SINCE[_TREND])
    # Before the groups: they then have what the jobs have done
    jobs = jobs_of(await visit.read("jobs.list"), group)
    found = await visit.read("dlq.groups", **chosen, trend=seconds)
    groups = found["groups"]
    shown: dict[str, Any] = choices(visit) | {
        "groups": groups[:_MOST_GROUPS],
        "more_groups": max(0, len(groups) - _MOST_GROUPS),
        "total": sum(each["count"] for each in groups),
        "gone": found["gone"],
        "trend": lambda each: trend_of(each, text),
        "trend_text": text,
        "group": None,
        "engines": list(visit.loaded.config.engines),
        "ramp": RAMP,
        "action_fields": action_fields(visit, begin),
        "restorable": RESTORABLE,
        "jobs": jobs,
    }
    if group is None:
        return shown
    page = await visit.read("dlq.newest", **chosen, before=visit.get("before"), limit=50)
    return shown | {
        "group": next((each for each in groups if each["group"] == group), {"group": group, "count": 0}),
        "newest": page,
        "check": await visit.try_read("dlq.check", **chosen, limit=_CHECKED) if visit.get("check") else None,
    }


def action_fields(visit: Visit, since: float | None) -> dict[str, Any]:
    """Parameters of the actions on the dead letters that the address selects."""
    named = (("sources[]", "source"), ("routes[]", "route"), ("causes[]", "group"))
    fields: dict[str, Any] = {field: visit.query[name] for field, name in named if visit.get(name)}
    if "causes[]" not in fields and visit.get("cause"):
        fields["causes[]"] = visit.get("cause")
    return fields if since is None else fields | {"since": datetime.fromtimestamp(since, UTC).isoformat()}


async def _read_one(visit: Visit) -> Mapping[str, Any]:
    id_ = visit.parts["id"]
    payload = "true" if visit.caller.payloads else None
    found = await visit.read("dlq.show", id=id_, payload=payload)
    checks = {
        each["id"]: await visit.try_read("dlq.check", ids=each["id"], states=",".join(STATES), limit=_CHECKED)
        for each in found[:_MOST_CHECKED]
    }
    jobs = await visit.read("jobs.list")
    return {
        "id": id_,
        "found": found,
        "checks": checks,
        "jobs": {each["id"]: jobs_of(jobs, each["id"]) for each in found},
        "longest": LONGEST_JSON,
    }


DEAD_LETTERS = Page("/dead-letters", "dead_letters.html", Prompt(_read), "Dead letters")
ONE_DEAD_LETTER = Page("/dead-letters/{id}", "dead_letter.html", _read_one)
