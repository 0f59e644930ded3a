"""Audit: changes by people, allowed and denied."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from bridge.app.page.dead_letters import SINCE, moment_of
from bridge.app.page.visit import Page, Visit

_LIMIT = 200


async def _read(visit: Visit) -> Mapping[str, Any]:
    begin = moment_of(visit.get("since"), time.time())
    lines = await visit.read(
        "audit.list",
        actor=visit.get("actor"),
        action=visit.get("action"),
        since=None if begin is None else datetime.fromtimestamp(begin, UTC).isoformat(),
        until=visit.get("until"),
        limit=_LIMIT,
    )
    lines.reverse()
    result = visit.get("result")
    return {
        "lines": [each for each in lines if result is None or each.get("result") == result],
        "earlier": {"until": lines[-1]["time"]} if len(lines) == _LIMIT else None,
        "times": [(name, text) for name, (text, _) in SINCE.items()],
        "results": ("done", "failed", "denied"),
    }


AUDIT = Page("/audit", "audit.html", _read, "Audit", "audit.list")
