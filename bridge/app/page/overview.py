"""Overview: sums of all sources, and what needs a person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bridge.app.page.visit import Page, Visit


async def _read(visit: Visit) -> Mapping[str, Any]:
    status = await visit.status()
    return {"status": status, "sources": status["sources"] if status else []}


OVERVIEW = Page("/", "overview.html", _read, "Overview")
