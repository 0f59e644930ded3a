"""Sagas: by outcome and step; those that compensate now, and compensations that failed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import Any

from bridge.app.operations.instances.sagas import COMPENSATING
from bridge.app.page.visit import Page, Visit
from bridge.engines.sagas import OUTCOMES
from bridge.sqlite_engine.storage.listing import MOST_EXAMINED

PART = 50
_GROUPED = 200
"""Newest failed sagas that are grouped by step and reason."""
_FAILED = ("compensation_failed", "compensated", "failed")


async def _read(visit: Visit) -> Mapping[str, Any]:
    engine, saga = visit.get("engine"), visit.get("saga")
    outcome, step = visit.get("outcome"), visit.get("step")
    states = outcome or ",".join(OUTCOMES)
    listed = visit.read(
        "sagas.list", engine=engine, saga=saga, states=states, step=step, limit=PART, cursor=visit.get("cursor")
    )
    now = visit.read("sagas.list", engine=engine, saga=saga, states=COMPENSATING, limit=PART)
    failed = visit.read("sagas.list", engine=engine, saga=saga, states=",".join(_FAILED), limit=_GROUPED)
    counted = visit.read("instances.count", engine=engine, outcomes=",".join(OUTCOMES))
    part, compensating, failures, counts = await asyncio.gather(listed, now, failed, counted)
    return {
        "sagas": part["sagas"],
        "next": part["next"],
        "compensating": compensating["sagas"],
        "more_compensating": compensating["next"] is not None,
        "table": _by_saga(counts),
        "steps": _by_step(failures["sagas"]),
        "grouped": len(failures["sagas"]),
        "most_examined": MOST_EXAMINED,
        "outcomes": OUTCOMES,
        "outcome_titles": [f"#{each.replace('_', ' ').capitalize()}" for each in OUTCOMES],
        "states": [*OUTCOMES, "running", COMPENSATING],
        "engines": list(visit.loaded.config.engines),
    }


def _by_saga(counts: Any) -> list[Mapping[str, Any]]:
    """Rows of sagas with their numbers by outcome."""
    found: dict[str, Counter[str]] = {}
    for each in counts:
        if each["status"] in OUTCOMES:
            found.setdefault(each["name"], Counter())[each["status"]] += each["count"]
    return [{"saga": name, "counts": numbers, "all": numbers.total()} for name, numbers in sorted(found.items())]


def _by_step(sagas: Any) -> list[Mapping[str, Any]]:
    """Numbers of failures by saga, outcome, step and reason, the most first."""
    found = Counter((each["saga"], each["state"], each["step"], each["reason"]) for each in sagas)
    return [
        {"saga": saga, "state": state, "step": step, "reason": reason, "count": count}
        for (saga, state, step, reason), count in found.most_common()
    ]


SAGAS = Page("/sagas", "sagas.html", _read, "Sagas")
