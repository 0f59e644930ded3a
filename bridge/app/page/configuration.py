"""Configuration: in use, problems, earlier versions, and the difference to a candidate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bridge.app.page.visit import Page, Visit

VIEWS: Mapping[str, tuple[str, str]] = {
    "effective": ("In use", "config.show"),
    "problems": ("Problems", "config.problems"),
    "history": ("History", "config.history"),
    "candidate": ("Candidate", "config.diff"),
}
"""Views by name: title, and the operation that it reads."""
_RELOADS = 50


async def _read(visit: Visit) -> Mapping[str, Any]:
    offered = {name: title for name, (title, operation) in VIEWS.items() if visit.can(operation)}
    view = visit.get("view")
    view = view if view in offered else next(iter(offered))
    config = visit.loaded.config
    shown: dict[str, Any] = {
        "views": offered,
        "view": view,
        "version": visit.loaded.version,
        "counts": {
            "sources": len(config.sources), "routes": len(config.routes), "targets": len(config.targets),
            "engines": len(config.engines),
        },
        "plan": await visit.try_read("reload.plan") if visit.get("plan") else None,
    }  # fmt: skip
    match view:
        case "effective":
            return shown | {"config": await visit.read("config.show")}
        case "problems":
            return shown | {"problems": await visit.read("config.problems")}
        case "history":
            other = visit.get("version")
            return shown | {
                "starts": await visit.read("config.history"),
                "reloads": list(reversed(await visit.read("audit.list", action="reload", limit=_RELOADS))),
                "last_request": await visit.try_read("reload.show"),
                "difference": None if other is None else await visit.try_read("config.diff", other=other),
            }
        case _:
            difference = await visit.try_read("config.diff")
            new = difference.get("new")
            record = None if new is None else await visit.try_read("canary.show", version=new)
            return shown | {"difference": difference, "record": record}


CONFIGURATION = Page("/config", "config.html", _read, "Config")
