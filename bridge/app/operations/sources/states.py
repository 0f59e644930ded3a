"""Operations on sources: pause and resume them, list and end the limits of their dead letters."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from bridge.app.composition import require
from bridge.config.source import Loaded, state_engine
from bridge.core.errors import InstanceNotFound, InvalidCommand
from bridge.core.pace import Paces
from bridge.core.states import SourceState
from bridge.engines.base import Engine
from bridge.engines.entities.source_entities import EnginePaces, Pause, SourcePauses, limited_sources
from bridge.engines.entities.source_seeks import SourceSeeks
from bridge.engines.entity_reads import WITHIN
from bridge.system.clock import time_of

_REASON_LIMIT = 500
_POLL_SECONDS = 0.05


async def states(loaded: Loaded, engine: Engine) -> list[dict[str, Any]]:
    """State of the sources with limits on an engine, one line per limited route. Raises: EngineError.

    Each line has source, route (None for messages without a route), state (`paused` or `probing`; None otherwise),
    pause (seconds between two dead letters), next (seconds until the next one), and seek (partitions whose position a
    daemon still has to move); a paused source also has since, by and reason.
    """
    now = time.time()
    limited = await limited_sources(engine)
    decisions = await SourceSeeks(engine).decisions()
    lines: list[dict[str, Any]] = []
    for source in loaded.config.sources:
        if state_engine(loaded, source) != engine.name:
            continue
        seek = sorted(decisions.seeks.get(source, ()))
        if (found := decisions.pauses.get(source)) is not None:
            lines.append(
                {
                    "source": source, "route": None, "state": SourceState.PAUSED, "pause": None, "next": None,
                    "seek": seek,
                    "since": time_of(found.since), "by": found.by, "reason": found.reason,
                }
            )  # fmt: skip
            continue
        paces = limited.get(source, Paces())
        if not len(paces):
            lines.append({"source": source, "route": None, "state": None, "pause": None, "next": None, "seek": seek})
        for route in paces:
            wait = max(0.0, round(paces[route].due - now, 1))
            pause = paces[route].pause
            lines.append(
                {
                    "source": source, "route": route or None, "state": SourceState.PROBING, "pause": pause,
                    "next": wait, "seek": seek,
                }
            )  # fmt: skip
    return lines


async def states_on(loaded: Loaded, engines: Mapping[str, Engine]) -> list[dict[str, Any]]:
    """Lines of `states` for the sources of several engines, in the configuration's order. Raises: EngineError."""
    order = list(loaded.config.sources)
    used = dict.fromkeys(state_engine(loaded, source) for source in order)
    lines = [line for name in used if name in engines for line in await states(loaded, engines[name])]
    return sorted(lines, key=lambda line: order.index(line["source"]))


def place(loaded: Loaded, given: Mapping[str, Any]) -> str | None:
    """Engine with the state of the source that a request names; None for an unknown source."""
    source = given.get("source")
    return state_engine(loaded, source) if source in loaded.config.sources else None


def engine_name(loaded: Loaded, source: str) -> str:
    """Name of the engine with the limits of a source. Raises: LookupError when no such source is configured."""
    require("source", source, loaded.config.sources)
    return state_engine(loaded, source)


async def pause(loaded: Loaded, engine: Engine, source: str, by: str, reason: str) -> Pause:
    """Pause a source for all its daemons; a second pause replaces the first.

    by: name of the person.
    Raises: as `resume`, except InstanceNotFound.
    """
    check_engine(loaded, engine, source)
    given = Pause(time.time(), by, reason[:_REASON_LIMIT])
    await SourcePauses(engine).pause(source, given)
    return given


async def resume(loaded: Loaded, engine: Engine, source: str, route: str | None) -> tuple[bool, list[str]]:
    """End the pause of a source and the limit of its routes, or with a route the limit of that route only.

    Returns True if the source was paused, and the routes that were limited.

    engine: engine of the source.
    Raises: InvalidCommand when the source has another engine; LookupError when no such source is configured;
    InstanceNotFound when the source is neither paused nor limited; EngineError.
    """
    check_engine(loaded, engine, source)
    pauses = SourcePauses(engine)
    paused = route is None and await pauses.of(source) is not None
    if paused:
        await pauses.resume(source)
    store = EnginePaces(engine, source)
    paces, limited = await _limited(store, route)
    if not limited:
        if paused:
            return True, []
        what = f"has no limited dead letters of route {route}" if route else "is neither paused nor limited"
        raise InstanceNotFound(f"source {source} {what}. Next: bridge sources list")
    await store.resume(route, limited, paces)
    return paused, limited


def check_engine(loaded: Loaded, engine: Engine, source: str) -> None:
    """Check that an engine stores the state of a source. Raises: InvalidCommand, LookupError."""
    if engine.name != engine_name(loaded, source):
        raise InvalidCommand(f"the state of source {source} is stored on the engine {engine_name(loaded, source)}")


async def _limited(store: EnginePaces, route: str | None) -> tuple[Paces, list[str]]:
    """Paces, and their limited routes: only this one, or all with None. A limit that waits for a worker is included."""
    end = time.monotonic() + WITHIN
    while True:
        paces, pending = await store.latest()
        limited = [each for each in paces if route in (None, each)]
        if limited or not pending or time.monotonic() > end:
            return paces, limited
        await asyncio.sleep(_POLL_SECONDS)
