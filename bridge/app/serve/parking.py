"""Construction of the early-message and quarantine components from the configuration."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

import structlog

from bridge.app.composition import subscribe_options
from bridge.config.model.engines import ParkingConfig
from bridge.config.model.on_missing import ParkMissing, StartMissing
from bridge.config.source import Loaded
from bridge.core.errors import EngineError
from bridge.core.settlement import RetryPolicy
from bridge.engines.base import Engine
from bridge.engines.execution import CommandExecutor
from bridge.engines.parking.entity import ParkingEntities
from bridge.engines.parking.executor import ParkingExecutor, ParkingRules, prefixes
from bridge.engines.parking.quarantine import EngineQuarantineStore, QuarantineEntities
from bridge.engines.parking.totals import WaitingTotals
from bridge.parking.early_message_queue import EarlyMessageLimits
from bridge.pipeline.breaker import Breaker
from bridge.pipeline.execution import Target
from bridge.pipeline.quarantine import QuarantineStore
from bridge.routing.cel.template import constant_prefix

log = structlog.get_logger("bridge.parking")

_CENSUS = 15.0
"""Least seconds between two counts of the waiting messages."""
_SHARE = 50.0
"""Factor between the duration of a count and the pause after it."""
_POLL = 60.0
"""Seconds between two looks for a missing instance where only the bridge reports its starts."""
_TELLS_POLL = 600.0
"""Seconds between two looks for a missing instance where the engine reports every start: only a safety net."""


def rules(loaded: Loaded, engine: str) -> ParkingRules | None:
    """Settings of an engine's rules for missing instances; None when no rule waits for or starts one."""
    parks: list[str] = []
    starts = False
    for route in loaded.config.routes:
        verb = getattr(route, route.verb)
        missing = getattr(verb, "on_missing", None)
        if route.engine == engine and isinstance(missing, ParkMissing):
            parks.append(constant_prefix(verb.instance_id))
        starts = starts or (route.engine == engine and isinstance(missing, StartMissing))
    if not parks and not starts:
        return None
    return ParkingRules(prefixes(parks), loaded.config.engines[engine].parking.max_message)


def totals(loaded: Loaded, engine: str) -> WaitingTotals:
    """Limits of all waiting messages on an engine."""
    config = loaded.config.engines[engine].parking
    return WaitingTotals(config.total_messages, config.total_bytes)


def target(
    loaded: Loaded,
    engine: Engine,
    breaker: Breaker,
    now: Callable[[], datetime],
    totals: WaitingTotals | None = None,
) -> Target:
    """Command target of the pipeline for an engine.

    Without rules for missing instances, commands go to the engine directly.
    """
    executor = CommandExecutor(engine, now)
    found = rules(loaded, engine.name)
    if found is None:
        return Target(executor.execute, breaker)
    parking = ParkingExecutor(engine, executor, found, now, totals)
    return Target(parking.execute, breaker, parking.park)


def quarantine_store(
    loaded: Loaded, source: str, engines: Mapping[str, Engine], totals: Mapping[str, WaitingTotals] | None = None
) -> tuple[str, QuarantineStore] | None:
    """Name and store of the engine that keeps a source's messages; None when the source keeps none.

    A message kept there can only be dead-lettered to a queue or topic that the source names.
    """
    name = quarantine_engine(loaded, source)
    return None if name is None else (name, EngineQuarantineStore(engines[name], source, (totals or {}).get(name)))


def quarantine_engine(loaded: Loaded, source: str) -> str | None:
    """Name of the engine that keeps a source's messages; None when the source keeps none or is unknown."""
    config = loaded.config.sources.get(source)
    if config is None:
        return None
    kept = config.quarantine
    limited = math.isfinite(subscribe_options(loaded, source).max_hold)
    if kept is None and not (limited and config.dead_letter is not None):
        return None
    if kept is not None and kept.engine is not None:
        return kept.engine
    return engine_of(loaded, source)


def engine_of(loaded: Loaded, source: str) -> str:
    """Name of the engine that keeps the state of a source: the engine of its first route, else the first engine."""
    engines = loaded.config.engines
    return next((route.engine for route in loaded.config.routes if source in route.from_), next(iter(engines)))


@dataclass(slots=True)
class WaitingStores:
    """Early-message and quarantine entities that this process hosts for one engine.

    Implements `bridge.ops.metrics.ParkingStats`.
    """

    name: str
    parking: ParkingEntities
    quarantine: QuarantineEntities
    totals: WaitingTotals
    waiting: int | None = None

    @property
    def waiting_messages(self) -> int:
        return self.totals.messages

    @property
    def waiting_bytes(self) -> int:
        return self.totals.bytes

    @property
    def refused(self) -> int:
        return self.totals.refused

    @property
    def events(self) -> Mapping[str, int]:
        return dict(self.parking.events)

    @property
    def quarantined(self) -> Mapping[str, int]:
        return dict(self.quarantine.events)


def waiting_stores(
    loaded: Loaded,
    engine: Engine,
    now: Callable[[], datetime],
    loop: asyncio.AbstractEventLoop,
    totals: WaitingTotals,
) -> WaitingStores:
    """Create the early-message and quarantine entities that this process hosts for one engine."""
    config = loaded.config.engines[engine.name]
    slots = max(1, config.worker.threads // 4)
    executor = CommandExecutor(engine, now)
    entities = ParkingEntities(
        executor,
        loop,
        _bounds(config.parking, engine),
        RetryPolicy(),
        now,
        slots,
        totals=totals,
        messages=engine.messages,
    )
    return WaitingStores(engine.name, entities, QuarantineEntities(now, totals), totals)


class EarlyMessageCounter:
    """Counts the waiting messages of the engines periodically, and only while some may wait."""

    def __init__(
        self, engines: Mapping[str, Engine], waiting_stores: Mapping[str, WaitingStores], parked: Callable[[], int]
    ) -> None:
        """Create a counter. parked: callback, number of messages that this process has kept on engines so far."""
        self._engines = engines
        self._keepers = waiting_stores
        self._parked = parked

    async def run(self) -> None:
        """Count the messages of each engine by itself: one that does not answer delays no other. Never returns."""
        async with asyncio.TaskGroup() as group:
            for name, engine in self._engines.items():
                group.create_task(self._run(name, engine), name=f"census:{name}")

    async def _run(self, name: str, engine: Engine) -> None:
        known: int | None = None
        waiting_stores = self._keepers[name]
        while True:
            began = time.monotonic()
            happened = self._parked() + sum((*waiting_stores.events.values(), *waiting_stores.quarantined.values()))
            if known != happened or waiting_stores.totals.messages:
                try:
                    await waiting_stores.totals.count(engine)
                    waiting_stores.waiting = waiting_stores.totals.early
                except EngineError as error:
                    log.info("what waits cannot be counted", action="census", engine=name, detail=str(error))
                else:
                    known = happened
            await asyncio.sleep(max(_CENSUS, _SHARE * (time.monotonic() - began)))


def _bounds(config: ParkingConfig, engine: Engine) -> EarlyMessageLimits:
    poll = config.poll if config.poll is not None else _TELLS_POLL if engine.notifies_instance_started else _POLL
    return EarlyMessageLimits(config.max_messages, config.max_bytes, poll)
