"""Limits of the sources' dead letters on running engines: list and end them."""

from __future__ import annotations

from bridge.app.attachment import attached
from bridge.app.names import require
from bridge.app.parking import engine_of
from bridge.config.source import Loaded
from bridge.engines.base import Engine
from bridge.engines.pacing import EnginePaces, limited_sources
from bridge.errors import EngineUnavailable, InstanceNotFound, InvalidCommand
from bridge.pace import Paces

_PATIENCE = 30.0
"""Time for a worker to process what was sent: the engine notices a frozen one and gives its work to another."""


async def paces_of_sources(loaded: Loaded) -> dict[str, Paces]:
    """Paces of every configured source. Raises: EngineError."""
    sources = {source: engine_of(loaded, source) for source in loaded.config.sources}
    found: dict[str, dict[str, Paces]] = {}
    for name in set(sources.values()):
        async with attached(loaded, name) as engine:
            found[name] = await limited_sources(engine)
    return {source: found[engine].get(source, Paces()) for source, engine in sources.items()}


def engine_name(loaded: Loaded, source: str) -> str:
    """Name of the engine with the limits of a source. Raises: LookupError when no such source is configured."""
    require("source", source, loaded.config.sources)
    return engine_of(loaded, source)


async def resume(loaded: Loaded, engine: Engine, source: str, route: str | None) -> list[str]:
    """End the limit of one route of a source, or of all with None.

    engine: that of the source. Returns the routes that were limited. Raises: InvalidCommand when the source has another
    engine; LookupError when no such source is configured; InstanceNotFound when nothing is limited; EngineError.
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
        raise EngineUnavailable(f"{source}: the engine keeps the resume, and {error}") from error
    return limited


def _chosen(paces: Paces, route: str | None) -> list[str]:
    return [each for each in paces if route in (None, each)]
