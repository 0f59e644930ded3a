"""Configuration: in use, problems, earlier versions, and the difference to a candidate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bridge.app.page.visit import Page, Visit
from bridge.core.errors import BridgeError

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
        "plan": await _tried(visit, "reload.plan") if visit.get("plan") else None,
    }  # fmt: skip
    match view:
        case "effective":
            return shown | {"config": await visit.ask("config.show")}
        case "problems":
            return shown | {"problems": await visit.ask("config.problems")}
        case "history":
            other = visit.get("version")
            return shown | {
                "starts": await visit.ask("config.history"),
                "reloads": list(reversed(await visit.ask("audit.list", action="reload", limit=_RELOADS))),
                "last_request": await _tried(visit, "reload.show"),
                "difference": None if other is None else await _tried(visit, "config.diff", other=other),
            }
        case _:
            difference = await _tried(visit, "config.diff")
            new = difference.get("new")
            record = None if new is None else await _tried(visit, "canary.show", version=new)
            return shown | {"difference": difference, "record": record}


async def _tried(visit: Visit, operation: str, **given: Any) -> Mapping[str, Any]:
    """Answer of an operation, or `failure` with the text of its error."""
    try:
        found: Mapping[str, Any] = await visit.ask(operation, **given)
    except BridgeError as error:
        return {"failure": str(error)}
    return found


CONFIGURATION = Page("/config", "config.html", _read, "Config")
