"""Engine of a source's quarantine, and detection of quarantined keys that no source resumes any more."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Mapping, Sequence

import structlog
from durabletask.client import EntityQuery

from bridge.brokers.factory import subscribe_options
from bridge.config.source import Loaded, state_engine
from bridge.core.errors import BridgeError, EngineError, wire_name
from bridge.core.system_names import QUARANTINE, source_of_key
from bridge.core.words import plural
from bridge.engines.base import Engine
from bridge.ops.health import PartReading

log = structlog.get_logger("bridge.quarantine")

_AGAIN = 15.0
"""Seconds between two checks while there are orphaned keys, or the engine does not answer."""
_LATER = 60.0
"""Seconds between two checks otherwise: a process with an earlier configuration may still quarantine keys."""


@wire_name("bridge.app.orphaned_quarantine.NotTakenUp")
class QuarantineOrphaned(BridgeError):
    """Quarantined keys cannot be released: their source no longer has a quarantine on that engine."""

    reason = "not_taken_up"


def quarantine_engine(loaded: Loaded, source: str) -> str | None:
    """Name of the engine that keeps a source's messages; None when the source keeps none or is unknown.

    A message kept there can only be dead-lettered to a queue or topic that the source names.
    """
    config = loaded.config.sources.get(source)
    if config is None:
        return None
    limited = math.isfinite(subscribe_options(loaded.config.brokers[config.broker], config).max_hold)
    if config.quarantine is None and not (limited and config.dead_letter is not None):
        return None
    if config.quarantine is not None and config.quarantine.engine is not None:
        return config.quarantine.engine
    return state_engine(loaded, source)


def refuse_release(loaded: Loaded, source: str, engine: str) -> None:
    """Refuse the release of keys that no source would resume.

    Raises: QuarantineOrphaned when a source of the configuration keeps no keys on this engine.
    """
    if source in loaded.config.sources and quarantine_engine(loaded, source) != engine:
        raise QuarantineOrphaned(f"no source resumes these keys: {_why(loaded, source, engine)}")


class OrphanedQuarantine:
    """Finds, on each engine, keys of sources without a quarantine there."""

    def __init__(self, loaded: Loaded, engines: Mapping[str, Engine]) -> None:
        self._loaded = loaded
        self._engines = engines
        self._known: dict[str, dict[str, int]] = {name: {} for name in engines}
        """Number of orphaned keys by source, for each engine."""

    def use(self, loaded: Loaded) -> None:
        """Check against another configuration from now on."""
        self._loaded = loaded

    def readings(self) -> Sequence[PartReading]:
        """One reading for each engine with orphaned keys of sources of this configuration."""
        found = []
        for engine, keys in self._known.items():
            mine = {source: count for source, count in keys.items() if source in self._loaded.config.sources}
            if mine:
                found.append(
                    PartReading(
                        "quarantine", engine, "; ".join(self._description(engine, *one) for one in mine.items())
                    )
                )
        return found

    async def run(self) -> None:
        """Check the engines periodically. Never returns."""
        while True:
            sure = await self.check()
            await asyncio.sleep(_LATER if sure and not any(self._known.values()) else _AGAIN)

    async def check(self) -> bool:
        """Check each engine once; False when one did not answer."""
        # Side by side: an engine that does not answer delays no other
        return all(await asyncio.gather(*map(self._answers, self._engines)))

    async def _answers(self, engine: str) -> bool:
        try:
            await self._check_engine(engine)
        except EngineError as error:
            log.info(
                "quarantined keys cannot be counted: the engine does not answer",
                action="count",
                engine=engine,
                detail=str(error),
            )
            return False
        return True

    async def _check_engine(self, engine: str) -> None:
        query = EntityQuery(instance_id_starts_with=f"@{QUARANTINE}@", include_state=False)
        entities = await self._engines[engine].client.get_all_entities(query, what="look for quarantined keys")
        held = Counter(source_of_key(each.id.key) for each in entities)
        found = {source: count for source, count in held.items() if quarantine_engine(self._loaded, source) != engine}
        for source, count in found.items():
            # Another configuration may share the engine and have the source: no reason to be unready
            if source not in self._loaded.config.sources and source not in self._known[engine]:
                log.warning(
                    f"keys in quarantine on engine {engine}: {self._description(engine, source, count)}",
                    action="quarantine", engine=engine, source=source,
                )  # fmt: skip
        self._known[engine] = found

    def _description(self, engine: str, source: str, count: int) -> str:
        keys = plural(count, "quarantined key")
        return f"no source resumes {keys}: {_why(self._loaded, source, engine)}"


def _why(loaded: Loaded, source: str, engine: str) -> str:
    """Reason why quarantined keys of a source on an engine are not resumed, and the remedy."""
    drop = f"or drop its keys (`bridge quarantine drop --source {source} KEY`)"
    if source not in loaded.config.sources:
        return f"this configuration has no source `{source}`; if it was renamed, restore its name, {drop}"
    used = quarantine_engine(loaded, source)
    if used is None:
        return f"the source `{source}` has no `quarantine`; add one, {drop}"
    return (
        f"the source `{source}` keeps its keys on the engine {used}, not on {engine}; "
        f"set `quarantine.engine` to {engine}, {drop}"
    )
