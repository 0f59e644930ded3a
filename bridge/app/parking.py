"""Parking and quarantine, put together for a configuration."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

import structlog

from bridge.config.engines import ParkingConfig
from bridge.config.on_missing import ParkMissing, StartMissing
from bridge.config.servicebus import ServiceBusBrokerConfig
from bridge.config.source import Loaded
from bridge.engines.base import Engine
from bridge.engines.execution import CommandExecutor
from bridge.engines.parking.entity import ParkingEntities
from bridge.engines.parking.executor import ParkingExecutor, ParkingRules, prefixes
from bridge.engines.parking.quarantine import EngineQuarantineStore, QuarantineEntities
from bridge.engines.parking.totals import WaitingTotals
from bridge.errors import EngineError
from bridge.parking.early_message_queue import EarlyMessageLimits
from bridge.pipeline.breaker import Breaker
from bridge.pipeline.execution import Target
from bridge.pipeline.quarantine import QuarantineStore
from bridge.routing.template import constant_prefix
from bridge.settlement import RetryPolicy

log = structlog.get_logger("bridge.parking")

_CENSUS = 15.0
"""Seconds between two counts of what waits, at least."""
_SHARE = 50.0
"""A count that took a second is repeated after so many."""
_POLL = 60.0
"""Seconds between two looks for a missing instance, where only the bridge tells of its starts."""
_TELLS_POLL = 600.0
"""The same where the engine tells of every start: for what nobody foresaw."""


def rules(loaded: Loaded, engine: str) -> ParkingRules | None:
    """What the rules of an engine say about missing instances; None: nothing that needs a look."""
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
    """The bound of all that waits on an engine."""
    config = loaded.config.engines[engine].parking
    return WaitingTotals(config.total_messages, config.total_bytes)


def target(
    loaded: Loaded,
    engine: Engine,
    breaker: Breaker,
    now: Callable[[], datetime],
    totals: WaitingTotals | None = None,
) -> Target:
    """The engine as the pipeline sees it: with nothing in between where no rule parks."""
    executor = CommandExecutor(engine, now)
    found = rules(loaded, engine.name)
    if found is None:
        return Target(executor.execute, breaker)
    parking = ParkingExecutor(engine, executor, found, now, totals)
    return Target(parking.execute, breaker, parking.park)


def quarantine_store(
    loaded: Loaded, source: str, engines: Mapping[str, Engine], totals: Mapping[str, WaitingTotals] | None = None
) -> tuple[str, QuarantineStore] | None:
    """Where a source keeps its messages outside the broker; None: it never does.

    What is kept there can only be dead-lettered to a queue or topic that the source names.
    """
    name = quarantine_engine(loaded, source)
    return None if name is None else (name, EngineQuarantineStore(engines[name], source, (totals or {}).get(name)))


def quarantine_engine(loaded: Loaded, source: str) -> str | None:
    """The engine on which a source keeps its messages outside the broker; None: it keeps none, or is unknown."""
    config = loaded.config.sources.get(source)
    if config is None:
        return None
    kept = config.quarantine
    limited = isinstance(loaded.config.brokers[config.broker], ServiceBusBrokerConfig)
    if kept is None and not (limited and config.dead_letter is not None):
        return None
    if kept is not None and kept.engine is not None:
        return kept.engine
    return engine_of(loaded, source)


def engine_of(loaded: Loaded, source: str) -> str:
    """Name of the engine that keeps the state of a source: that of its first route, else the first engine."""
    engines = loaded.config.engines
    return next((route.engine for route in loaded.config.routes if source in route.from_), next(iter(engines)))


@dataclass(slots=True)
class WaitingStores:
    """What this process runs for one engine of what waits there. As `bridge.ops.metrics.ParkingStats`."""

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
    """What this process runs for an engine of what waits there."""
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
    """Counts what waits on engines: now and then, and only while something may wait."""

    def __init__(
        self, engines: Mapping[str, Engine], waiting_stores: Mapping[str, WaitingStores], parked: Callable[[], int]
    ) -> None:
        """parked: how many messages this process has parked so far."""
        self._engines = engines
        self._keepers = waiting_stores
        self._parked = parked

    async def run(self) -> None:
        """For ever."""
        known: dict[str, int] = {}
        while True:
            began = time.monotonic()
            for name, engine in self._engines.items():
                waiting_stores = self._keepers[name]
                happened = self._parked() + sum((*waiting_stores.events.values(), *waiting_stores.quarantined.values()))
                if known.get(name) == happened and not waiting_stores.totals.messages:
                    continue
                try:
                    await waiting_stores.totals.count(engine)
                    waiting_stores.waiting = waiting_stores.totals.early
                except EngineError as error:
                    log.info("what waits cannot be counted", action="census", engine=name, detail=str(error))
                else:
                    known[name] = happened
            await asyncio.sleep(max(_CENSUS, _SHARE * (time.monotonic() - began)))


def _bounds(config: ParkingConfig, engine: Engine) -> EarlyMessageLimits:
    poll = config.poll if config.poll is not None else _TELLS_POLL if engine.notifies_instance_started else _POLL
    return EarlyMessageLimits(config.max_messages, config.max_bytes, poll)
