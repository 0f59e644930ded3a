"""Pipeline of one source, from subscription to settlement."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence

import structlog

from bridge.brokers.base import Broker, Partition, Subscription
from bridge.core.commands import Step
from bridge.core.errors import (
    BrokerUnavailable,
    ClockSkew,
    LockLost,
    PartitionRevoked,
    RegistryUnavailable,
    SettlementRefused,
    kept,
)
from bridge.core.settlement import Complete, DeadLetter, Hold, Release, Retry, Settlement
from bridge.pipeline.admission import RouteLimit, Throttled
from bridge.pipeline.dead_letter_limit import DeadLetterLimit, DeadLetterLimited, PaceStore
from bridge.pipeline.decoded import DecodedForms
from bridge.pipeline.domain import OrderingDomain
from bridge.pipeline.execution import SLICE, Execution, Routes, Target
from bridge.pipeline.flow_control import FlowControl
from bridge.pipeline.in_flight_delivery import InFlightDelivery
from bridge.pipeline.intake import Decode, Intake
from bridge.pipeline.lanes import Lane, Lanes, LaneState
from bridge.pipeline.ledger import Ledger
from bridge.pipeline.outages import Outages
from bridge.pipeline.preparation import Prepare, prepared
from bridge.pipeline.quarantine import QuarantineStore
from bridge.pipeline.quarantine_stage import QuarantineStage, leaves, letters
from bridge.pipeline.settings import SourceSettings
from bridge.pipeline.settler import Settler
from bridge.pipeline.shares import Shares
from bridge.pipeline.unloading import Unloading

log = structlog.get_logger("bridge.source")

_BATCH = 256
_CHANCES = 3
"""Attempts of a message however many wait behind it: a hot key must not lose messages to a short failure."""
_ENDS = (Complete, DeadLetter)
UNKNOWN_SETTLEMENT = "settlement_unknown"
"""Reason of abandoned messages with an unknown settlement. The broker redelivers those that it did not settle."""


class SourcePipeline:
    """Consumes one source: `start`, then `drain`. Listener of its subscription."""

    def __init__(
        self,
        settings: SourceSettings,
        broker: Broker,
        decode: Decode,
        routes: Routes,
        engines: Mapping[str, Target],
        *,
        limits: Mapping[str, RouteLimit] | None = None,
        domain: OrderingDomain | None = None,
        store: tuple[str, QuarantineStore] | None = None,
        paces: PaceStore | None = None,
        prepare: Prepare | None = None,
    ) -> None:
        """Create the pipeline of one source.

        limits: limits of the routes that have some, by route name.
        domain: ordering domain shared with other sources; None: no order across sources.
        store: name and store of the engine that quarantines keys; None: failing messages are dead-lettered.
        paces: shared pace of the source's dead letters beyond their limit; None keeps the pace in this process.
        prepare: awaited before `decode` of the same messages; None: no preparation.
        """
        self.settings = settings
        self.ledger = Ledger()
        self.shares = None if settings.per is None else Shares(settings.per)
        self.lanes = Lanes(None if self.shares is None else self._waits)
        self.dead_letter_limit = DeadLetterLimit(settings.name, settings.dead_letter_limit, paces)
        self.unloading = Unloading(self.ledger, settings.max_in_flight, settings.max_in_flight_bytes)
        self.decoded = DecodedForms(settings.max_in_flight_bytes)
        self.gate = FlowControl(settings.max_in_flight, settings.max_in_flight_bytes, settings.max_gap, settings.per)
        self.last_progress = time.monotonic()
        """Monotonic seconds of the last settled delivery, or of the last moment without a delivery in flight."""
        self.assignment: set[Partition] = set()
        self.subscription: Subscription | None = None
        self._broker = broker
        self._decode = decode
        self._prepare = prepare
        self._engines = engines
        self.limits = limits or {}
        self._domain = domain
        letter = letters(settings, broker.name)
        self.quarantine_stage = QuarantineStage(
            settings,
            broker,
            Execution(routes, engines, settings.retry, self.ledger, letter, limits),
            letter,
            decode,
            engines,
            self.lanes,
            self.ledger,
            self.gate,
            self.dead_letter_limit,
            self.assignment,
            store,
            self._measure,
        )
        self._settler = Settler(
            settings.name,
            settings.config_version,
            settings.trusted_replay,
            self.ledger,
            self.dead_letter_limit,
            self._stops_others,
        )
        self._revoking: set[Partition] = set()
        self._running: set[InFlightDelivery] = set()
        self._finished = asyncio.Event()
        self._stopping = False
        self._reading: asyncio.Task[None] | None = None
        self._workers: list[asyncio.Task[None]] = []
        self._watches: list[asyncio.Task[None]] = []
        self._slice = time.monotonic()
        self._outages = Outages(settings.name, settings.retry, self.gate, self.lanes)
        self._intake = Intake(
            settings,
            decode,
            routes,
            self.lanes,
            self.ledger,
            domain,
            self.shares,
            revoked=self._revoked,
            crowded=self._backlog_exceeded,
            joined=self._joined,
        )

    async def start(self) -> None:
        """Subscribe and start working. Raises: BrokerUnavailable."""
        self._outages.watch(self._engines)
        self.quarantine_stage.start()
        self.subscription = await self._broker.subscribe(self.settings.subscribe, self)
        self.unloading.use(self.subscription)
        self._workers = [
            asyncio.create_task(self._work(), name=f"{self.settings.name}:worker:{number}")
            for number in range(self.settings.concurrency)
        ]
        self._reading = asyncio.create_task(self._take_in(), name=f"{self.settings.name}:intake")
        pacing = self.dead_letter_limit.run()
        self._watches.append(asyncio.create_task(pacing, name=f"{self.settings.name}:dead-letter-limit"))
        if self.quarantine_stage.quarantine is not None:
            watch = self.quarantine_stage.quarantine.watch()
            self._watches.append(asyncio.create_task(watch, name=f"{self.settings.name}:quarantine"))

    @property
    def tasks(self) -> Collection[asyncio.Task[None]]:
        """Tasks that never end by themselves. One that does has met a bug."""
        return (*self._workers, *self._watches, self._reading) if self._reading else ()

    @property
    def at_work(self) -> int:
        """Number of deliveries that workers are processing."""
        return len(self._running)

    async def drain(self, deadline: float) -> None:
        """Stop intake, finish running deliveries within `deadline` seconds, abandon the others, and unsubscribe."""
        self._stopping = True
        if self._domain is not None:
            self._domain.close()
        if self._reading is not None:
            self._reading.cancel()
        # Before the first await: messages behind an abandoned one must not be executed before it
        running = self._abandon_queued(lambda item: True, "drain")
        if self._reading is not None:
            await asyncio.gather(self._reading, return_exceptions=True)
        try:
            async with asyncio.timeout(deadline):
                await self._wait_for(running)
        except TimeoutError:
            log.warning("drain deadline passed", action="drain", source=self.settings.name, at_work=len(self._running))
        for task in (*self._workers, *self._watches):
            task.cancel()
        await asyncio.gather(*self._workers, *self._watches, return_exceptions=True)
        await self.quarantine_stage.stop()
        if self.subscription is not None:
            await self.subscription.close()

    # -- listener of the subscription

    async def assigned(self, partitions: Sequence[Partition]) -> None:
        self.assignment.update(partitions)
        self.quarantine_stage.load()

    async def revoked(self, partitions: Sequence[Partition]) -> None:
        gone = set(partitions)
        # The broker marks a partition as revoked only after this returns; until then it is remembered here
        self._revoking = {partition for partition in self._revoking if not partition.revoked} | gone
        self.assignment -= gone
        for partition in gone:
            self.gate.forget(partition)
        lost = sum(partition.lost for partition in gone)
        self.ledger.locks_lost += lost
        places = self.quarantine_stage.places(gone)
        running = self._abandon_queued(lambda item: leaves(item, gone, places), LockLost.reason if lost else "revoked")
        await self._wait_for(running)
        await self.quarantine_stage.give_up(places)

    # -- intake

    async def _take_in(self) -> None:
        assert self.subscription is not None
        failures = 0
        while True:
            await self.gate.wait()
            at_work = self.unloading.in_memory - (0 if self.shares is None else self.shares.records)
            room = min(_BATCH, max(1, self.settings.max_in_flight - at_work))
            try:
                deliveries = await self.subscription.receive(room)
            except (BrokerUnavailable, ClockSkew) as error:
                failures += 1
                cause = "clock" if isinstance(error, ClockSkew) else "broker"
                self.gate.pause_reasons[cause] = str(error)
                await asyncio.sleep(self.settings.retry.delay(failures))
                self.gate.release(cause)
                # Lanes that were held meanwhile wait for the same recovery
                self._outages.broker_back()
                continue
            failures = 0
            if not deliveries:
                return
            if self._prepare is not None:
                messages = [each.message for each in deliveries if each.message.unreadable is None]
                await prepared(self._prepare, messages, self.settings.name, self.gate, self.settings.retry)
            now = time.monotonic()
            if not self.ledger.in_flight:
                self.last_progress = now
            for partition in await self._intake.admit(deliveries, now):
                self.gate.fetched(partition)
            self._measure()
            await asyncio.sleep(0)

    # -- work

    async def _work(self) -> None:
        while True:
            lane = await self.lanes.take()
            item = lane.items[0]
            self._running.add(item)
            try:
                await self._process(lane, item)
            except asyncio.CancelledError:
                self._abandon(item, "drain")
                raise
            finally:
                self._running.discard(item)
                self.decoded.leave(item)
                self.dead_letter_limit.tried(item)
                self._finished.set()
            await self._pause()

    async def _pause(self) -> None:
        """Yield to the event loop when workers have kept it for long."""
        if time.monotonic() - self._slice > SLICE:
            await asyncio.sleep(0)
            self._slice = time.monotonic()

    async def _process(self, lane: Lane, item: InFlightDelivery) -> None:
        if item.waits_for is self.dead_letter_limit:
            self.lanes.hold(lane)  # the end of an outage freed the lane with all others
            return
        # A message that is being redelivered leaves its execution to that delivery
        if item.delivery.lost:
            self._on_lock_lost(lane, item)
            return
        if item.delivery.partition.revoked:
            self._abandon_head(lane, item, "revoked")
            return
        if self._domain is not None and not self._domain.may_go(item):
            if (over := self._stop_reason(item)) is not None:
                self._abandon_head(lane, item, over)
                return
            self.lanes.hold(lane)
            self._domain.wait(item, lambda: self.lanes.free(lane))
            return
        if not await self._loaded(lane, item):
            return
        step: Step | None = None
        settlement: Settlement | Throttled
        if item.pending is not None:
            await self._settle(lane, item, item.pending, item.failed_route)
            return
        if not self.quarantine_stage.ready:
            self.lanes.hold(lane)
            return
        if self.quarantine_stage.lost(lane.key, item):
            self._abandon_head(lane, item, "quarantined")
            return
        try:
            settlement, step = await self.quarantine_stage.run(lane, item, self._backlog_exceeded)
        except DeadLetterLimited as limited:
            self._on_dead_letter_limit(lane, item, limited.route)
            return
        item.failed_route = None if step is None else step.route
        if isinstance(settlement, _ENDS):
            await self._settle(lane, item, settlement, item.failed_route)
        elif isinstance(settlement, Release):
            self._abandon_head(lane, item, settlement.reason)
        elif (over := self._stop_reason(item)) is not None:
            self._abandon_head(lane, item, over)
        elif isinstance(settlement, Throttled):
            assert step is not None
            self._delay(lane, item, step, settlement)
        elif isinstance(settlement, Hold):
            item.failed_at = None  # the time of an outage does not count against the message
            self.lanes.hold(lane)
        else:
            assert isinstance(settlement, Retry)  # a Park has become Complete in the quarantine stage
            if not settlement.failed:
                item.waited += 1
                item.failed_at = None  # waiting for others does not count against the message
            else:
                self.ledger.retries += 1
                item.attempt += 1
                if item.failed_at is None:
                    item.failed_at = time.monotonic()
            self.lanes.wait(lane, settlement.delay)

    async def _loaded(self, lane: Lane, item: InFlightDelivery) -> bool:
        """Load an unloaded item again and decode it. False when the item waits or is abandoned."""
        if item.envelope is not None or item.error is not None:
            self.unloading.leave(item)
            return True
        if not self.decoded.admits(item, lambda: self._admitted(lane, item)):
            self.lanes.hold(lane)
            return False
        try:
            if self.unloading.unloaded(item):
                await self.unloading.load(item)
            self.unloading.leave(item)
            message = item.delivery.message
            if self._prepare is not None and message.unreadable is None:
                await self._prepare([message])
        except (BrokerUnavailable, RegistryUnavailable) as away:
            if (over := self._stop_reason(item)) is not None:
                self._abandon_head(lane, item, over)
            else:
                self.lanes.hold(lane)
                self._outages.broker_away(away)
            return False
        if (over := self._stop_reason(item)) is not None:
            self._abandon_head(lane, item, over)
            return False
        try:
            item.envelope = self._decode(message, item.delivery.position)
        except Exception as failure:
            item.error = kept(failure)
        await self._pause()
        return True

    def _admitted(self, lane: Lane, item: InFlightDelivery) -> bool:
        """Make the lane of an item that may be decoded ready. False when the item is not its head any more."""
        self.lanes.free(lane)
        return bool(lane.items) and lane.items[0] is item and lane.state is LaneState.READY

    def _delay(self, lane: Lane, item: InFlightDelivery, step: Step, not_yet: Throttled) -> None:
        """Make the item wait for a limit of its route."""
        if not_yet.delay is not None:
            self.lanes.wait(lane, not_yet.delay)
            return
        item.failed_at = None  # the time in a queue does not count against the message
        self.lanes.hold(lane)
        not_yet.limit.queue(item, step.command, step.value, lambda: self.lanes.free(lane))

    async def _settle(self, lane: Lane, item: InFlightDelivery, end: Complete | DeadLetter, route: str | None) -> None:
        RouteLimit.not_started(item)  # a delivery that ends without its start, as a dead letter does, takes no slot
        try:
            await self._settler.settle(item, end, route)
        except LockLost:
            self._on_lock_lost(lane, item)
        except (PartitionRevoked, SettlementRefused) as error:
            self._abandon_head(lane, item, error.reason)
        except DeadLetterLimited as limited:
            self._on_dead_letter_limit(lane, item, limited.route)
        except BrokerUnavailable as error:
            if (over := self._stop_reason(item)) is not None:
                self._abandon_head(lane, item, over)
            else:
                item.pending = end
                self.lanes.hold(lane)
                self._outages.broker_away(error)
        else:
            self._outages.broker_recovered()
            self.lanes.settled(lane)
            self._leave(item)
            self.last_progress = self.ledger.settled_at
            if self.gate.paused:
                self.gate.settled(item.delivery.partition)
            if self.gate.full:
                self._measure()

    def _on_lock_lost(self, lane: Lane, item: InFlightDelivery) -> None:
        """Abandon the item: its lock was lost, or its settlement has an unknown outcome."""
        if item.delivery.settlement_unknown:
            self._abandon_head(lane, item, UNKNOWN_SETTLEMENT)
        else:
            self.ledger.locks_lost += 1
            self._abandon_head(lane, item, LockLost.reason)

    def _on_dead_letter_limit(self, lane: Lane, item: InFlightDelivery, route: str) -> None:
        """Make the item wait until its dead letter may be written."""
        RouteLimit.not_started(item)
        if (over := self._stop_reason(item)) is not None:
            self._abandon_head(lane, item, over)
            return
        self.lanes.hold(lane)
        self.dead_letter_limit.wait(route, item, lambda: self._freed(lane, item))
        for each in lane.items:
            self._stand(each)
        self._measure()

    def _freed(self, lane: Lane, item: InFlightDelivery) -> None:
        """Let the item try again, at once unless quarantined messages of its key now come before it."""
        self.lanes.free(lane)
        if lane.items[0] is not item or lane.state is not LaneState.READY:
            self.dead_letter_limit.tried(item)

    def _joined(self, lane: Lane, item: InFlightDelivery) -> None:
        """Unload an item that joined a lane held by the dead-letter limit."""
        if lane.items[0].waits_for is self.dead_letter_limit:
            self._stand(item)

    def _stand(self, item: InFlightDelivery) -> None:
        # Items that wait for others of their value are bounded already
        if self.shares is None or self.shares.may_go(item):
            self.unloading.stand(item)

    def _stops_others(self, partition: Partition) -> bool:
        """True when messages that wait for the dead-letter limit would soon stop the others."""
        if self.unloading.crowded:
            return True
        others = 2 * partition.gap >= self.settings.max_gap or (self.shares is not None and self.shares.crowded)
        return self.unloading.standing and others

    def _stop_reason(self, item: InFlightDelivery) -> str | None:
        """Reason why an unsettled item cannot wait here for another attempt; None when it can."""
        if self._stopping:
            return "drain"
        return "revoked" if self._revoked(item.delivery.partition) else None

    def _abandon_queued(self, gone: Callable[[InFlightDelivery], bool], reason: str) -> list[InFlightDelivery]:
        """Abandon queued items; return the matching items that are still being processed."""
        removed, running = self.lanes.drop(gone)
        for item in removed:
            self._abandon(item, reason)
        self._measure()
        return running

    def _abandon(self, item: InFlightDelivery, reason: str) -> None:
        if item.waits_for is not None:
            item.waits_for.forget(item)
        self.unloading.leave(item)
        self.decoded.forget(item)
        self.dead_letter_limit.tried(item)
        RouteLimit.not_started(item)
        self.ledger.abandon(item, reason)
        self._leave(item)

    def _leave(self, item: InFlightDelivery) -> None:
        """Let the next item of the same key and of the same value go."""
        if self._domain is not None:
            self._domain.leave(item)
        if self.shares is not None:
            self.shares.leave(item)

    def _waits(self, lane: Lane) -> bool:
        """True when the head of a lane waits for others of its value. Their end frees the lane."""
        assert self.shares is not None
        item = lane.items[0]
        if self.shares.may_go(item):
            return False
        self.shares.wait(item, lambda: self.lanes.free(lane))
        return True

    def _backlog_exceeded(self, lane: Lane) -> bool:
        """True when too many messages wait behind a head that has had its attempts."""
        return lane.items[0].attempt >= _CHANCES and lane.backlog > self.settings.max_key_backlog

    def _abandon_head(self, lane: Lane, item: InFlightDelivery, reason: str) -> None:
        self.lanes.settled(lane)
        self._abandon(item, reason)
        self._measure()

    def _revoked(self, partition: Partition) -> bool:
        return partition.revoked or partition in self._revoking

    def _measure(self) -> None:
        waiting = (0, 0) if self.shares is None else (self.shares.records, self.shares.size)
        self.gate.measure(self.unloading.in_memory, self.unloading.bytes_in_memory, waiting)

    async def _wait_for(self, items: Sequence[InFlightDelivery]) -> None:
        while any(item in self._running for item in items):
            self._finished.clear()
            await self._finished.wait()
