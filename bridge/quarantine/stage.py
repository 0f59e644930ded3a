"""Quarantine stage of one source: moves messages to an engine, and back to their lane."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Collection, Hashable, Sequence

import structlog

from bridge.brokers.base import Partition
from bridge.config.model.sources import QuarantineConfig
from bridge.core.commands import RoutedCommand
from bridge.core.errors import EngineError, EngineOutage
from bridge.core.pace import NO_ROUTE
from bridge.core.settlement import (
    Complete,
    Keep,
    Release,
    Settlement,
    Wait,
    WriteDeadLetter,
    decide_unstored,
    detail_of,
)
from bridge.core.states import Outcome
from bridge.pipeline.in_flight_delivery import InFlightDelivery
from bridge.pipeline.lanes import Lane
from bridge.pipeline.source import SourcePipeline
from bridge.quarantine.keys import QuarantinedDelivery, QuarantinedKeys
from bridge.quarantine.quarantined_key import QuarantinedMessage
from bridge.quarantine.state_machine import FULL
from bridge.quarantine.store import QuarantineStore
from bridge.system.tasks import cancelled
from bridge.waiting.deliveries import Assignment, decode
from bridge.waiting.replays import ReplayReports

log = structlog.get_logger("bridge.quarantine")

_JOIN = Keep(Wait.KEY, None, "follows", "an earlier message of its key is in quarantine")


class QuarantineStage:
    """Stage that keeps failing messages of one source, and later ones of their key, on an engine.

    Implements `bridge.pipeline.stage.Stage`.
    """

    def __init__(
        self,
        pipeline: SourcePipeline,
        store: QuarantineStore,
        settings: QuarantineConfig | None,
        engine: str,
        reports: ReplayReports | None = None,
    ) -> None:
        """Create the stage.

        settings: None: no key waits for a person, and messages wait only longer than their broker lets them.
        engine: name of the engine with the quarantine.
        reports: informs the jobs that replay quarantined messages.
        """
        self.name = "quarantine"
        self.quarantines = settings is not None
        self._assignment = Assignment(pipeline)
        self.keys = QuarantinedKeys(
            pipeline.settings.name,
            store,
            settings or QuarantineConfig(),
            self._assignment.has,
            self._read,
            pipeline.insert_stored,
            reports,
        )
        self._pipeline = pipeline
        self._engine = engine
        self._loading: asyncio.Task[None] | None = None

    @property
    def ready(self) -> bool:
        """True when the quarantined keys are known. Before that, no message is dispatched."""
        return self.keys.loaded.is_set()

    @property
    def key_count(self) -> int:
        """Number of quarantined keys, as known to this process."""
        return len(self.keys)

    # -- decision

    def blocking_settlement(self, lane: Lane, item: InFlightDelivery) -> Settlement | None:
        """Settlement of a delivery that must not be executed now: an earlier message of its key is in quarantine."""
        key, keys = lane.key, self.keys
        if key is None:
            return None
        if keys.lost(key, item):
            return Release("quarantined")
        if not keys.joins(key, item):
            return None
        if not keys.fits(item):
            return WriteDeadLetter(FULL, "its key is in quarantine, and it is too large to join")
        return _JOIN

    def fits(self, item: InFlightDelivery) -> bool:
        """True when the item is small enough to be quarantined."""
        return self.keys.fits(item)

    # -- carrying out

    async def keep(self, lane: Lane, item: InFlightDelivery, keep: Keep, step: RoutedCommand | None) -> Settlement:
        """Write the message to the engine; return Complete, or the settlement after a failure to write it.

        Raises: DeadLetterLimited.
        """
        message = self._pipeline.runner.stored(item)
        if keep.wait is Wait.KEY:
            return await self._written(self.keys.append(lane.key, item, message))
        limit = self._pipeline.dead_letter_limit
        limited = NO_ROUTE if step is None else step.route
        first = keep.wait is Wait.PERSON and item.stored is None
        paced = first and await limit.allow(limited, item.delivery.position)
        key = lane.key if lane.key is not None else (str(item.delivery.position),)
        route = item.failed_route if step is None else step.route
        settlement = await self._written(self.keys.hold(key, item, message, keep, route))
        if paced and isinstance(settlement, Complete):
            await limit.wrote(limited)
        return settlement

    async def _written(self, writing: Awaitable[None]) -> Settlement:
        try:
            await writing
        except EngineError as error:
            rules = self._pipeline.rules.current
            engine = rules.engines.get(self._engine)
            if isinstance(error, EngineOutage) and engine is not None:
                engine.breaker.trip(error)
            return decide_unstored(error, None if engine is None else engine.breaker.name, rules.retry)
        return Complete(Outcome.QUARANTINED)

    # -- life

    def start(self) -> None:
        """Load the quarantined keys of a broker without groups: its queue with sessions may be silent for long."""
        if not self._assignment.has_groups:
            self.assigned()

    def assigned(self) -> None:
        """Read the quarantined keys before more messages are dispatched; retry while the engine is away."""
        self.keys.loaded.clear()
        if self._loading is not None:
            self._loading.cancel()
        self._loading = asyncio.create_task(self._load(), name=f"{self._pipeline.settings.name}:load")

    async def watch(self) -> None:
        """Look for releases while a key is quarantined. Never returns."""
        await self.keys.watch()

    def leaves_with(self, item: InFlightDelivery, partitions: Collection[Partition]) -> bool:
        """True when a quarantined item leaves with its original partition."""
        return isinstance(item.delivery, QuarantinedDelivery) and self._assignment.leaves_with(item, partitions)

    async def revoked(self, partitions: Collection[Partition]) -> None:
        """End the claims on keys of revoked partitions."""
        gone = self._assignment.revoked_places(partitions)
        await self.keys.unclaim(lambda topic, number: (topic, number) in gone)

    async def stop(self) -> None:
        """Stop loading, and end all claims."""
        await cancelled(self._loading)
        await self.keys.unclaim(lambda topic, number: True)

    async def _load(self) -> None:
        settings, gate = self._pipeline.settings, self._pipeline.gate
        attempt = 0
        while True:
            try:
                await self.keys.load()
            except Exception as error:
                attempt += 1
                gate.hold("quarantine", detail_of(error))
                if not isinstance(error, EngineError):
                    log.error(
                        "the quarantined keys cannot be read; the source tries again",
                        action="bug",
                        source=settings.name,
                        exc_info=error,
                    )
                await asyncio.sleep(self._pipeline.rules.current.retry.delay(attempt))
            else:
                gate.release("quarantine")
                self._pipeline.lanes.release()
                return

    async def _read(self, key: Hashable, messages: Sequence[QuarantinedMessage]) -> Sequence[InFlightDelivery]:
        """Decode quarantined messages."""
        now = time.monotonic()
        items = []
        decoded = await decode(self._pipeline, [each.message for each in messages])
        for each, found in zip(messages, decoded, strict=True):
            failed_at = now - each.failed - max(0.0, time.time() - each.since) if each.attempts > 1 else None
            delivery = QuarantinedDelivery(self.keys, key, each)
            items.append(delivery.in_flight(found, now, max(1, each.attempts), failed_at))
        return items
