"""Operations on the dead-letter limits of sources on running engines: list and end them."""

from __future__ import annotations

import time
from typing import Any

from bridge.app.connection import attached
from bridge.app.names import require
from bridge.config.source import Loaded
from bridge.core.errors import EngineUnavailable, InstanceNotFound, InvalidCommand
from bridge.core.pace import Paces
from bridge.core.states import SourceState
from bridge.engines.base import Engine
from bridge.engines.pacing import EnginePaces, limited_sources
from bridge.quarantine.orphaned import state_engine

_PATIENCE = 30.0
"""Seconds for a worker to process an operation: the engine detects a frozen worker and gives its work to another."""


async def states(loaded: Loaded, engine: Engine) -> list[dict[str, Any]]:
    """State of the sources with limits on an engine, one line per limited route. Raises: EngineError.

    Each line has source, route (None for messages without a route), state (`probing`; None when nothing is limited),
    pause (seconds between two dead letters) and next (seconds until the next one).
    """
    now = time.time()
    limited = await limited_sources(engine)
    lines: list[dict[str, Any]] = []
    for source in loaded.config.sources:
        if state_engine(loaded, source) != engine.name:
            continue
        paces = limited.get(source, Paces())
        if not len(paces):
            lines.append({"source": source, "route": None, "state": None, "pause": None, "next": None})
        for route in paces:
            wait = max(0.0, round(paces[route].due - now, 1))
            pause = paces[route].pause
            lines.append(
                {"source": source, "route": route or None, "state": SourceState.PROBING, "pause": pause, "next": wait}
            )
    return lines


async def states_of_all(loaded: Loaded) -> list[dict[str, Any]]:
    """Lines of `states` for every configured source, in the configuration's order. Raises: EngineError."""
    order = list(loaded.config.sources)
    lines: list[dict[str, Any]] = []
    for name in dict.fromkeys(state_engine(loaded, source) for source in order):
        async with attached(loaded, name) as engine:
            lines += await states(loaded, engine)
    return sorted(lines, key=lambda line: order.index(line["source"]))


def engine_name(loaded: Loaded, source: str) -> str:
    """Name of the engine with the limits of a source. Raises: LookupError when no such source is configured."""
    require("source", source, loaded.config.sources)
    return state_engine(loaded, source)


async def resume(loaded: Loaded, engine: Engine, source: str, route: str | None) -> list[str]:
    """End the limit of one route of a source, or of all with None; return the routes that were limited.

    engine: engine of the source.
    Raises: InvalidCommand when the source has another engine; LookupError when no such source is configured;
    InstanceNotFound when no route is limited; EngineError.
    """
    if engine.name != engine_name(loaded, source):
        raise InvalidCommand(f"the limits of {source} are on the engine {engine_name(loaded, source)}")
    store = EnginePaces(engine, source)
    paces, pending = await store.latest()
    if pending and not _chosen(paces, route):
        paces = await store.load(_PATIENCE)
    limited = _chosen(paces, route)
    if not limited:
        raise InstanceNotFound(f"{source}: no dead letters are limited{f' for route {route}' if route else ''}")
    await store.send("resume", {"route": route})
    try:
        await store.load(_PATIENCE)
    except EngineUnavailable as error:
        raise EngineUnavailable(f"{source}: the resume is stored on the engine, but {error}") from error
    return limited


def _chosen(paces: Paces, route: str | None) -> list[str]:
    return [each for each in paces if route in (None, each)]
