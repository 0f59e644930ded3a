"""Decisions of people about sources, applied to the sources of this daemon: pauses, and moves of positions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

import structlog

from bridge.app.serve.decisions.seeks import SeekApplier
from bridge.config.source import Loaded, state_engine
from bridge.core.errors import EngineError
from bridge.engines.base import Engine
from bridge.engines.entities.reload_requests import State
from bridge.engines.entities.source_entities import Pause
from bridge.engines.entities.source_seeks import SourceSeeks
from bridge.ops.status import PAUSES
from bridge.pipeline.source import SourcePipeline

log = structlog.get_logger("bridge.source")

READ_SECONDS = 3.0
"""Seconds between two reads of changes by people and other processes: all daemons apply one within five seconds."""

SOON_SECONDS = 0.05
"""Seconds until the second read after a worker of this process has processed a change: the engine stores it then. Each
later pause is twice as long, up to READ_SECONDS.
"""


class PauseWatch:
    """Watch that applies the pauses and moves stored on the engines.

    A daemon whose worker has processed a change applies it at once, others at their next read. A source whose pauses
    were not read yet does not start: it may be paused. A pause stays while its engine is away.
    """

    def __init__(self, sources: Mapping[str, Sequence[SourcePipeline]], engines: Mapping[str, Engine]) -> None:
        """Create a watch. sources: sources by the engine with their state."""
        self._sources = dict(sources)
        self._engines = engines
        self._decisions = {name: SourceSeeks(engines[name]) for name in sources}
        self._seeks = {name: SeekApplier(decisions) for name, decisions in self._decisions.items()}
        self._on_reloads: dict[str, Callable[[State], None]] = {}
        self._known: set[str] = set()
        """Engines whose pauses were read at least once."""
        self._changed = asyncio.Event()

    def read_soon(self) -> None:
        """Read again: a worker of this process has processed a change. Call in the event loop."""
        self._changed.set()

    def add(self, engine: str, source: SourcePipeline) -> None:
        """Add a source, whose engine may have its pause. `read` applies it."""
        self._sources[engine] = [*self._sources.get(engine, ()), source]
        if engine not in self._seeks:
            self._decisions[engine] = SourceSeeks(self._engines[engine])
            self._seeks[engine] = SeekApplier(self._decisions[engine])
        if engine not in self._known:
            self._wait(engine, source, "not read yet")

    def remove(self, name: str) -> None:
        """Remove a source."""
        for engine, sources in self._sources.items():
            self._sources[engine] = [each for each in sources if each.settings.name != name]

    def watch_reloads(self, engine: str, listener: Callable[[State], None]) -> None:
        """Call the listener with the reloads of an engine each time that they are read."""
        self._on_reloads[engine] = listener
        self._sources.setdefault(engine, ())
        self._decisions.setdefault(engine, SourceSeeks(self._engines[engine]))
        self._seeks.setdefault(engine, SeekApplier(self._decisions[engine]))

    async def read(self) -> None:
        """Read and apply all pauses once. Sources of an engine that does not answer wait for its answer."""
        await asyncio.gather(*map(self._apply, self._sources))

    async def run(self) -> None:
        """Read and apply the pauses and moves again and again. Never returns."""
        pause = READ_SECONDS
        try:
            while True:
                await self.read()
                try:
                    async with asyncio.timeout(pause):
                        await self._changed.wait()
                except TimeoutError:
                    pause = min(READ_SECONDS, 2 * pause)
                else:
                    self._changed.clear()
                    pause = SOON_SECONDS
        finally:
            for applier in self._seeks.values():
                await applier.stop()

    async def _apply(self, engine: str) -> None:
        try:
            found = await self._decisions[engine].decisions()
        except EngineError as error:
            if engine not in self._known:
                for source in self._sources[engine]:
                    self._wait(engine, source, f"does not answer: {error}")
            return
        if engine not in self._known:
            self._known.add(engine)
            for source in self._sources[engine]:
                source.gate.release(PAUSES)
        if (listener := self._on_reloads.get(engine)) is not None:
            listener(found.reloads)
        for source in self._sources[engine]:
            name = source.settings.name
            pause = found.pauses.get(name)
            if pause is None:
                if source.paused is not None:
                    source.resume()
                    log.info(f"source {name} is resumed", action="resume", source=name)
            elif source.paused != (text := sentence(name, pause)):
                source.pause(text)
                log.warning(text, action="pause", source=name)
            if (seeks := found.seeks.get(name)) is not None:
                self._seeks[engine].apply(source, seeks)

    @staticmethod
    def _wait(engine: str, source: SourcePipeline, state: str) -> None:
        source.gate.hold(PAUSES, f"engine {engine} stores the pauses of the source and {state}")


def pause_watch(loaded: Loaded, sources: Sequence[SourcePipeline], engines: Mapping[str, Engine]) -> PauseWatch:
    """Create the watch of these sources. engines: all of the configuration, by name."""
    by_engine: dict[str, list[SourcePipeline]] = {}
    for source in sources:
        by_engine.setdefault(state_engine(loaded, source.settings.name), []).append(source)
    return PauseWatch(by_engine, engines)


def sentence(source: str, pause: Pause) -> str:
    """Sentence for a person about a pause, with the next step."""
    since = datetime.fromtimestamp(pause.since, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    why = f" ({pause.reason})" if pause.reason else ""
    return f"paused by {pause.by} since {since}{why}; `bridge sources resume {source}` continues"
