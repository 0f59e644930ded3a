"""Construction of the early-message and quarantine parts of a daemon from its configuration."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

import structlog

from bridge.config.model.engines import EarlyMessagesConfig
from bridge.config.model.routes import WaitMissing
from bridge.config.source import Loaded
from bridge.core.errors import EngineError
from bridge.core.settlement import RetryPolicy
from bridge.early_messages.entity import EarlyMessageEntities
from bridge.early_messages.executor import EarlyMessageExecutor, Executor, shortest_prefixes
from bridge.early_messages.store import EarlyMessageStore
from bridge.engines.base import Engine
from bridge.engines.commands.command_runner import indexing_runner
from bridge.quarantine.entity import QuarantineEntities
from bridge.quarantine.orphaned import quarantine_engine
from bridge.quarantine.store import EngineQuarantineStore, QuarantineStore
from bridge.replay.entity import ReplayEntities
from bridge.routing.cel.template import constant_prefix
from bridge.routing.moves import MovingRoutes
from bridge.waiting.totals import WaitingTotals

log = structlog.get_logger("bridge.waiting")

_COUNT = 15.0
"""Least seconds between two counts of the waiting messages."""
_CHANGED = 1.0
"""The same for a count that a person waits for, when this process has stored messages since the last one."""
_SHARE = 50.0
"""Factor between the duration of a count and the pause after it."""
_POLL = 60.0
"""Seconds between two checks for a missing instance where only the bridge reports its starts."""
_NOTIFIED_POLL = 600.0
"""Seconds between two checks for a missing instance where the engine reports every start: only a safety net."""


def early_prefixes(loaded: Loaded, engine: str, candidate: Loaded | None) -> tuple[str, ...]:
    """Instance id prefixes for which a rule may store early messages. candidate: further rules."""
    waiting: list[str] = []
    for route in (*loaded.config.routes, *(() if candidate is None else candidate.config.routes)):
        command = getattr(route, route.command)
        missing = getattr(command, "on_missing", None)
        if engine in route.find and isinstance(missing, WaitMissing):
            waiting.append(constant_prefix(command.instance_id))
    return shortest_prefixes(waiting)


def totals(loaded: Loaded, engine: str) -> WaitingTotals:
    """Limits of all waiting messages on an engine."""
    config = loaded.config.engines[engine].early_messages
    return WaitingTotals(config.total_messages, config.total_bytes)


def early_executor(
    loaded: Loaded,
    engine: Engine,
    now: Callable[[], datetime],
    totals: WaitingTotals,
    candidate: Loaded | None,
) -> EarlyMessageExecutor:
    """Executor of the commands of an engine, for all versions of the rules. candidate: see `early_prefixes`."""
    store = EarlyMessageStore(engine, loaded.config.engines[engine.name].early_messages.max_message, now, totals)
    return EarlyMessageExecutor(
        store,
        indexing_runner(engine, now),
        early_prefixes(loaded, engine.name, candidate),
        engine_notifies=engine.notifies_instance_started,
    )


def quarantine_store(
    loaded: Loaded, source: str, engines: Mapping[str, Engine], totals: Mapping[str, WaitingTotals]
) -> tuple[str, QuarantineStore] | None:
    """Name and store of the engine that keeps a source's messages; None when the source keeps none."""
    name = quarantine_engine(loaded, source)
    return None if name is None else (name, EngineQuarantineStore(engines[name], source, totals[name]))


@dataclass(slots=True)
class WaitingEntities:
    """Early-message and quarantine entities that this process hosts for one engine.

    Implements `bridge.ops.metrics.WaitingStats`.
    """

    name: str
    early_messages: EarlyMessageEntities
    quarantine: QuarantineEntities
    replays: ReplayEntities
    totals: WaitingTotals
    waiting: int | None = None

    def limit(self, config: EarlyMessagesConfig, poll: float) -> None:
        """Change the limits of early messages, and of all waiting messages. poll: see `poll_seconds`."""
        self.early_messages.limit(config, poll)
        self.totals.limit(config.total_messages, config.total_bytes)

    async def count(self, engine: Engine) -> None:
        """Count the waiting messages again. Raises: EngineError."""
        await self.totals.count(engine)
        self.waiting = self.totals.counted.early

    @property
    def expiring(self) -> int | None:
        return None if self.waiting is None else self.totals.counted.early_expiring

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
        return dict(self.early_messages.events)

    @property
    def quarantined(self) -> Mapping[str, int]:
        return dict(self.quarantine.events)

    @property
    def replayed(self) -> Mapping[str, int]:
        return dict(self.replays.events)


def waiting_entities(
    loaded: Loaded,
    engine: Engine,
    now: Callable[[], datetime],
    loop: asyncio.AbstractEventLoop,
    totals: WaitingTotals,
    executor: Executor,
) -> WaitingEntities:
    """Create the early-message and quarantine entities that this process hosts for one engine.

    executor: delivers the early messages.
    """
    config = loaded.config.engines[engine.name]
    slots = max(1, config.worker.threads // 4)
    entities = EarlyMessageEntities(
        executor,
        loop,
        config.early_messages,
        poll_seconds(loaded, engine),
        RetryPolicy(),
        now,
        slots,
        totals=totals,
        messages=engine.messages,
        engine=engine.name,
    )
    return WaitingEntities(
        engine.name,
        entities,
        QuarantineEntities(now, totals, engine.name),
        ReplayEntities(engine.name, now),
        totals,
    )


class WaitingCounter:
    """Counter of the waiting messages of the engines: it counts periodically, and only while some may wait."""

    def __init__(
        self, engines: Mapping[str, Engine], waiting_entities: Mapping[str, WaitingEntities], stored: Callable[[], int]
    ) -> None:
        """Create a counter. stored: callback, number of messages that this process has kept on engines so far."""
        self._engines = engines
        self._waiting_entities = waiting_entities
        self._stored = stored
        self._locks = {name: asyncio.Lock() for name in engines}
        self._ended = dict.fromkeys(engines, -math.inf)
        """Monotonic time of the last count of an engine."""
        self._took = dict.fromkeys(engines, 0.0)
        """Duration of the last count."""
        self._known: dict[str, int] = {}
        """Number of events of this process before the last count."""

    async def run(self) -> None:
        """Count the messages of each engine by itself: one that does not answer delays no other. Never returns."""
        async with asyncio.TaskGroup() as group:
            for name in self._engines:
                group.create_task(self._run(name), name=f"count:{name}")

    async def refresh(self, name: str) -> None:
        """Count the messages of an engine now, unless the last count is young: a second if this process has stored
        messages since, else as in `run`.
        """
        pause = _CHANGED if self._known.get(name) != self._happened(name) else _COUNT
        if not self._locks[name].locked() and self._left(name, pause) <= 0:
            await self._count(name)

    async def _run(self, name: str) -> None:
        while True:
            if self._known.get(name) != self._happened(name) or self._waiting_entities[name].totals.messages:
                await self._count(name)
            await asyncio.sleep(max(_COUNT, self._left(name, _COUNT)))

    def _happened(self, name: str) -> int:
        """Number of events of this process that change the messages of an engine."""
        entities = self._waiting_entities[name]
        return self._stored() + sum((*entities.events.values(), *entities.quarantined.values()))

    def _left(self, name: str, pause: float) -> float:
        """Seconds until the messages of an engine may be counted again."""
        return self._ended[name] + max(pause, _SHARE * self._took[name]) - time.monotonic()

    async def _count(self, name: str) -> None:
        async with self._locks[name]:
            began, happened = time.monotonic(), self._happened(name)
            try:
                await self._waiting_entities[name].count(self._engines[name])
            except EngineError as error:
                log.info("waiting messages cannot be counted", action="count", engine=name, detail=str(error))
            else:
                self._known[name] = happened
            finally:
                self._ended[name] = time.monotonic()
                self._took[name] = self._ended[name] - began


def poll_seconds(loaded: Loaded, engine: Engine) -> float:
    """Seconds between two checks for a missing instance. An engine reports no starts on another engine."""
    poll = loaded.config.engines[engine.name].early_messages.poll
    if poll is not None:
        return poll
    reported = engine.notifies_instance_started and engine.name not in MovingRoutes(loaded.config.routes).moving
    return _NOTIFIED_POLL if reported else _POLL
