"""Pauses of sources by people, applied to the sources of this daemon."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import structlog

from bridge.core.errors import EngineError
from bridge.engines.source_entities import Pause, SourcePauses
from bridge.pipeline.source import SourcePipeline

log = structlog.get_logger("bridge.source")

LOOK_SECONDS = 3.0
"""Seconds between two reads: a pause applies to all daemons within five seconds."""


_CAUSE = "pauses"


class PauseWatch:
    """Applies the pauses that are stored on the engines.

    A source whose pauses were not read yet does not start: it may be paused. A pause stays while its engine is away.
    """

    def __init__(self, sources: Mapping[str, Sequence[SourcePipeline]], pauses: Mapping[str, SourcePauses]) -> None:
        """Create a watch.

        sources: sources by the engine with their state.
        pauses: pauses by engine.
        """
        self._sources = sources
        self._pauses = pauses
        self._known: set[str] = set()
        """Engines whose pauses were read at least once."""

    async def read(self) -> None:
        """Read and apply all pauses once. Sources of an engine that does not answer wait for its answer."""
        await asyncio.gather(*map(self._look, self._sources))

    async def run(self) -> None:
        """Read and apply the pauses again and again. Never returns."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self.read()

    async def _look(self, engine: str) -> None:
        try:
            found = await self._pauses[engine].load()
        except EngineError as error:
            if engine not in self._known:
                for source in self._sources[engine]:
                    source.gate.hold(
                        _CAUSE, f"engine {engine} stores the pauses of the source and does not answer: {error}"
                    )
            return
        if engine not in self._known:
            self._known.add(engine)
            for source in self._sources[engine]:
                source.gate.release(_CAUSE)
        for source in self._sources[engine]:
            name = source.settings.name
            pause = found.get(name)
            if pause is None:
                if source.paused is not None:
                    source.resume()
                    log.info(f"source {name} is resumed", action="resume", source=name)
            elif source.paused != (text := sentence(name, pause)):
                source.pause(text)
                log.warning(text, action="pause", source=name)


def sentence(source: str, pause: Pause) -> str:
    """Sentence for a person about a pause, with the next step."""
    since = datetime.fromtimestamp(pause.since, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    why = f" ({pause.reason})" if pause.reason else ""
    return f"paused by {pause.by} since {since}{why}; `bridge sources resume {source}` continues"
