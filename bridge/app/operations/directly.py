"""Changes that a command makes on a broker itself, without a daemon and an engine, with their audit line."""

from __future__ import annotations

from collections.abc import Mapping

from bridge.app import state
from bridge.app.operations.limits import engine_name
from bridge.app.operations.positions import seek_directly
from bridge.config.source import Loaded
from bridge.ops.audit import AuditedChange, audited_async, user


async def seek(loaded: Loaded, source: str, positions: Mapping[str, int], reason: str | None) -> None:
    """Move the positions of a source whose group has no members. positions: offsets by partition, like `orders/0`.

    Raises: as `bridge.app.operations.positions.seek_directly`.
    """
    trail = state.trail(loaded, engine_name(loaded, source))
    change = AuditedChange(user(), "sources.seek", source, {"positions": positions, "directly": True}, reason)
    async with audited_async(trail, change):
        await seek_directly(loaded, source, positions)
