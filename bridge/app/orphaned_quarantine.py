"""Quarantined keys that no source of the configuration takes up any more."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence

import structlog
from durabletask.client import EntityQuery

from bridge.app.connection import chosen
from bridge.app.parking import quarantine_engine
from bridge.config.source import Loaded
from bridge.engines.base import Engine
from bridge.engines.errors import asked
from bridge.errors import BridgeError, EngineError, wire_name
from bridge.ops.health import PartReading
from bridge.parking.names import QUARANTINE, quarantine_source

log = structlog.get_logger("bridge.quarantine")

_AGAIN = 15.0
"""Seconds between two looks while some are stranded, or the engine does not answer."""
_LATER = 60.0
"""The same otherwise: a process with an earlier configuration may still hold keys."""


@wire_name("bridge.app.orphaned_quarantine.NotTakenUp")
class QuarantineOrphaned(BridgeError):
    """Who releases these keys would wait for nothing."""

    reason = "not_taken_up"


def refuse_release(loaded: Loaded, source: str, engine: str | None) -> None:
    """Raises: NotTakenUp when a source of the configuration keeps no keys on this engine; LookupError: no such engine.

    engine: as `bridge.app.connection.chosen` takes it.
    """
    if source not in loaded.config.sources:
        return
    name = chosen(loaded, engine)
    if quarantine_engine(loaded, source) != name:
        raise QuarantineOrphaned(f"nobody would take them up: {_why(loaded, source, name)}")


class OrphanedQuarantine:
    """Looks, on each engine, for keys whose source keeps none there."""

    def __init__(self, loaded: Loaded, engines: Mapping[str, Engine]) -> None:
        self._loaded = loaded
        self._engines = engines
        self._known: dict[str, dict[str, int]] = {name: {} for name in engines}
        """Of each engine, keys by source."""

    def readings(self) -> Sequence[PartReading]:
        """One for each engine that holds keys of sources of this configuration, which nobody takes up."""
        found = []
        for engine, keys in self._known.items():
            mine = {source: count for source, count in keys.items() if source in self._loaded.config.sources}
            if mine:
                found.append(
                    PartReading("quarantine", engine, "; ".join(self._told(engine, *one) for one in mine.items()))
                )
        return found

    async def run(self) -> None:
        """For ever."""
        while True:
            sure = await self.look()
            await asyncio.sleep(_LATER if sure and not any(self._known.values()) else _AGAIN)

    async def look(self) -> bool:
        """One look at each engine; whether all of them answered."""
        sure = True
        for engine in self._engines:
            try:
                await self._look(engine)
            except EngineError as error:
                sure = False
                log.info("quarantine cannot be read", action="census", engine=engine, detail=str(error))
        return sure

    async def _look(self, engine: str) -> None:
        query = EntityQuery(instance_id_starts_with=f"@{QUARANTINE}@", include_state=False)
        entities = await asked(self._engines[engine].client.get_all_entities(query), "look for quarantined keys")
        held = Counter(quarantine_source(each.id.key) for each in entities)
        found = {source: count for source, count in held.items() if quarantine_engine(self._loaded, source) != engine}
        for source, count in found.items():
            # Another configuration may share the engine, and know the source: no reason not to be ready
            if source not in self._loaded.config.sources and source not in self._known[engine]:
                log.warning(
                    f"keys in quarantine on engine {engine}: {self._told(engine, source, count)}",
                    action="quarantine", engine=engine, source=source,
                )  # fmt: skip
        self._known[engine] = found

    def _told(self, engine: str, source: str, count: int) -> str:
        keys = "1 key waits, and nobody takes it up" if count == 1 else f"{count:,} keys wait, and nobody takes them up"
        return f"{keys}: {_why(self._loaded, source, engine)}"


def _why(loaded: Loaded, source: str, engine: str) -> str:
    """Why keys of a source that are held on an engine are not taken up, and what to do about it."""
    drop = f"or drop what it holds (`bridge parked drop --source {source} KEY`)"
    if source not in loaded.config.sources:
        return f"there is no source `{source}` in this configuration; name it so again if it was yours, {drop}"
    kept = quarantine_engine(loaded, source)
    if kept is None:
        return f"the source `{source}` has no `quarantine`; give it one and restart, {drop}"
    return (
        f"the source `{source}` keeps its keys on the engine {kept}, not on {engine}; "
        f"let `quarantine.engine` be {engine} and restart, {drop}"
    )
