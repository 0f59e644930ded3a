"""Limits of the sources' dead letters on running engines: list and end them."""

from __future__ import annotations

from bridge.app.attachment import attached
from bridge.app.names import require
from bridge.app.parking import engine_of
from bridge.config.source import Loaded
from bridge.engines.pacing import EnginePaces, limited_sources
from bridge.pace import Paces


async def paces_of_sources(loaded: Loaded) -> dict[str, Paces]:
    """Paces of every configured source. Raises: EngineError."""
    sources = {source: engine_of(loaded, source) for source in loaded.config.sources}
    found: dict[str, dict[str, Paces]] = {}
    for name in set(sources.values()):
        async with attached(loaded, name) as engine:
            found[name] = await limited_sources(engine)
    return {source: found[engine].get(source, Paces()) for source, engine in sources.items()}


async def resume(loaded: Loaded, source: str, route: str | None) -> list[str]:
    """End the limit of one route of a source, or of all with None.

    Returns the routes that were limited. Raises: LookupError when no such source is configured; EngineError.
    """
    require("source", source, loaded.config.sources)
    async with attached(loaded, engine_of(loaded, source)) as engine:
        store = EnginePaces(engine, source)
        limited = [each for each in await store.load() if route in (None, each)]
        if limited:
            await store.send("resume", {"route": route})
            await store.load()
        return limited
