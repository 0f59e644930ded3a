"""Operation on the audit: its lines on the machine of a daemon."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import chain
from typing import Any

from pydantic import AwareDatetime, Field
from typing_extensions import TypedDict

from bridge.app import audit, state
from bridge.app.operations.cursors import Cursor, cursor_at, part_size, place_of
from bridge.app.operations.operation import Operation, Parameters, Scene
from bridge.ops.audit import settle
from bridge.ops.trail import AuditTrail, TrailPosition

_MOST_LINES = 10_000
"""Most lines of an answer, and most that are read for a part."""
_CURSORS = "audit"
"""Name of the list in its cursors."""


class ListAudit(Parameters):
    """Lines of the audit on the machine of the daemon.

    limit: most lines, the newest. They are oldest first; with a cursor, newest first.
    """

    since: AwareDatetime | None = None
    until: AwareDatetime | None = None
    actor: str | None = None
    action: str | None = None
    limit: int = Field(100, ge=1, le=_MOST_LINES)
    cursor: Cursor = None


class AuditPart(TypedDict):
    """Part of the audit lines, newest first. next: cursor of the next part."""

    next: str | None
    lines: list[dict[str, Any]]


async def _audit(scene: Scene, given: ListAudit) -> Any:
    wanted = audit.AuditFilter(given.since, given.until, given.actor, given.action)
    trails = state.trails(scene.loaded)
    if given.cursor is None:
        found = await asyncio.to_thread(_newest_lines, trails, wanted, given.limit)
        return [*reversed(found.lines)]
    form = (str, int) * len(trails)
    after, size = place_of(_CURSORS, given.cursor, form), part_size(given.limit)
    places = None
    if after is not None:
        places = [TrailPosition(str(file), int(at)) for file, at in zip(after[::2], after[1::2], strict=True)]
    found = await asyncio.to_thread(_newest_lines, trails, wanted, size, places, _MOST_LINES)
    more = None if found.next is None else cursor_at(_CURSORS, tuple(chain.from_iterable(found.next)))
    return {"next": more, "lines": found.lines}


def _newest_lines(
    trails: Sequence[AuditTrail],
    wanted: audit.AuditFilter,
    limit: int,
    places: Sequence[TrailPosition] | None = None,
    most: int | None = None,
) -> audit.AuditLines:
    """Part as of `audit.newest`. The first one has the lines of changes whose process was killed, too."""
    if places is None:
        for trail in trails:
            settle(trail)
    return audit.newest(trails, wanted, limit, places, most)


AUDIT_OPERATIONS: tuple[Operation[Any], ...] = (
    Operation(
        "audit.list", "operator", "audit", ListAudit, _audit, list[dict[str, Any]] | AuditPart, only_reads=True
    ),
)  # fmt: skip
