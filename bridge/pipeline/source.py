"""Pipeline of one source, from subscription to settlement."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import replace

import structlog

from bridge.brokers.base import Broker, Partition, PausableSubscription, SubscribeOptions, Subscription
from bridge.brokers.positions import MovableSubscription, Move, Moved, Place
from bridge.core.errors import (
    BrokerUnavailable,
    ClaimStoreUnavailable,
    ClockSkew,
    LockLost,
    MessageError,
    RegistryUnavailable,
    storable,
)
from bridge.core.message import Message
from bridge.pipeline.decisions import DecisionListeners
from bridge.pipeline.decoded import DecodedForms
from bridge.pipeline.flow_control import PERSON, EngineQueue, FlowControl, Outages
from bridge.pipeline.in_flight_delivery import InFlightDelivery
from bridge.pipeline.intake import Intake, prepared
from bridge.pipeline.lanes import Lane, Lanes, LaneState, OrderingDomain
from bridge.pipeline.ledger import Ledger
from bridge.pipeline.limits.action_budget import BudgetShare
from bridge.pipeline.limits.dead_letter_limit import DeadLetterLimit, PaceStore
from bridge.pipeline.limits.per_value import ValueShares
from bridge.pipeline.limits.route_limits import RouteLimit
from bridge.pipeline.rule_set import RuleChooser, RuleSet, payload_of
from bridge.pipeline.runner import DeliveryRunner
from bridge.pipeline.settings import SLICE, RecordDeadLetter, SourceSettings
from bridge.pipeline.settler import Settler
from bridge.pipeline.stage import SourcePart, Stage
from bridge.pipeline.tracing import SourceTracing
from bridge.pipeline.unloading import Unloading
from bridge.system.log_context import SUBJECT
from bridge.system.tasks import cancelled

log = structlog.get_logger("bridge.source")

_BATCH = 256


class SourcePipeline:
    """Consumer of one source: `start`, then `drain`. Listener of its subscription.

    Intake puts deliveries into lanes; workers take the head of a lane; the runner decides its settlement, and the
    settler carries it out.
    """

    def __init__(
        self,
        settings: SourceSettings,
        broker: Broker,
        rules: RuleChooser,
        *,
        route_limits: Mapping[str, RouteLimit] | None = None,
        budgets: Mapping[str, BudgetShare] | None = None,
        domain: OrderingDomain | None = None,
        stage: Callable[[SourcePipeline], Stage] | None = None,
        feed: Callable[[SourcePipeline], SourcePart] | None = None,
        paces: PaceStore | None = None,
        record: RecordDeadLetter | None = None,
        tracing: SourceTracing | None = None,
        decisions: DecisionListeners | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        """Create the pipeline of one source.

        rules: chooses the rule set of each delivery.
        route_limits: limits of the routes that have some, by route name.
        budgets: shares of routes in the budgets of engines that have one, by route name.
        domain: ordering domain shared with other sources; None: no order across sources.
        stage: creates the stage that keeps deliveries outside their broker; None: failing messages are dead-lettered.
        feed: creates the part that brings dead letters back; None: they are not brought back.
        paces: shared pace of the source's dead letters beyond their limit; None keeps the pace in this process.
        record: records written dead letters; None: they are not recorded.
        tracing: makes the spans of messages; None where traces are off.
        decisions: listeners of settled deliveries, shared by the sources of a daemon; None: of this source alone.
        ledger: counts of a drained pipeline of the source, which continue; None begins new ones.
        """
        limits = settings.limits
        self.settings = settings
        self.broker = broker
        self.rules = rules
        self.ledger = Ledger() if ledger is None else ledger
        self.shares = None if limits.per is None else ValueShares(limits, limits.per)
        self.lanes = Lanes(None if self.shares is None else self._waits, limits.max_key_backlog)
        self.dead_letter_limit = DeadLetterLimit(settings.name, limits.dead_letter_limit, paces)
        self.unloading = Unloading(self.ledger, limits.max_in_flight, limits.max_in_flight_bytes)
        self.decoded = DecodedForms(limits.max_in_flight_bytes)
        self.gate = FlowControl(settings.name, limits)
        self.decisions = DecisionListeners() if decisions is None else decisions
        self.assignment: set[Partition] = set()
        self.subscription: Subscription | None = None
        self.route_limits = dict(route_limits or {})
        self.budgets = dict(budgets or {})
        self.stage = None if stage is None else stage(self)
        self.parts = [part for part in (self.stage, None if feed is None else feed(self)) if part is not None]
        """Parts that bring stored deliveries."""
        self.domain = domain
        self._revoking: set[Partition] = set()
        self._running: set[InFlightDelivery] = set()
        self._finished = asyncio.Event()
        self._stopping = False
        self._reading: asyncio.Task[None] | None = None
        self._workers: list[asyncio.Task[None]] = []
        self._watches: list[asyncio.Task[None]] = []
        self._slice = time.monotonic()
        self._outages = Outages(settings.name, rules, self.gate, self.lanes)
        self.runner = DeliveryRunner(
            settings,
            broker.name,
            self.lanes,
            self.ledger,
            self.route_limits,
            self.stage,
            self.budgets,
            tracing,
        )
        self._settler = Settler(
            settings,
            self.lanes,
            self.ledger,
            self.gate,
            self.dead_letter_limit,
            self.unloading,
            self.decoded,
            self._outages,
            self.shares,
            domain,
            self.stage,
            self._stop_reason,
            record,
            tracing,
            self.decisions,
        )
        self._intake = Intake(
            settings,
            rules,
            self.lanes,
            self.ledger,
            domain,
            self.shares,
            revoked=self._revoked,
            joined=self._settler.joined,
        )

    async def start(self, *, patient: bool = False) -> None:
        """Subscribe and start working.

        patient: hold the source while its broker is away. Raises: BrokerUnavailable otherwise.
        """
        name = self.settings.name
        self.watch_engines(self.rules.current)
        for part in self.parts:
            part.start()
        options = replace(self.settings.subscribe, paused=self.gate.paused_by_person)
        subscription = await self._subscribe(options, patient=patient)
        if self._stopping:  # drained meanwhile
            await subscription.close()
            return
        self.subscription = subscription
        self.unloading.use(self.subscription)
        self._workers = [
            asyncio.create_task(self._work(), name=f"{name}:worker:{number}")
            for number in range(self.settings.limits.concurrency)
        ]
        self._reading = asyncio.create_task(self._receive(), name=f"{name}:intake")
        self._watches.append(asyncio.create_task(self.dead_letter_limit.run(), name=f"{name}:dead-letter-limit"))
        for part in self.parts:
            self._watches.append(asyncio.create_task(part.watch(), name=f"{name}:{part.name}"))

    async def _subscribe(self, options: SubscribeOptions, *, patient: bool) -> Subscription:
        failures = 0
        while True:
            try:
                return await self.broker.subscribe(options, self)
            except BrokerUnavailable as error:
                if not patient:
                    raise
                failures += 1
                self.gate.hold("broker", str(error))
                await asyncio.sleep(self.rules.current.retry.delay(failures))
                self.gate.release("broker")

    @property
    def tasks(self) -> Collection[asyncio.Task[None]]:
        """Tasks that never end by themselves. One that does has met a bug."""
        return (*self._workers, *self._watches, self._reading) if self._reading else ()

    @property
    def engine_queues(self) -> Mapping[str, EngineQueue]:
        """Queues of the engines that are away while another engine of the source answers, by name."""
        return self._outages.partial

    @property
    def waiting_for_engines(self) -> Mapping[str, int]:
        """Number of lanes that wait for each engine; empty for a source with one engine."""
        return self._outages.waiting

    @property
    def at_work(self) -> int:
        """Number of deliveries that workers are processing."""
        return len(self._running)

    @property
    def retrying(self) -> int:
        """Number of deliveries whose last attempt failed."""
        return sum(lane.items[0].attempt > 1 for lane in self.lanes)

    async def drain(self, deadline: float) -> None:
        """Stop intake, finish running deliveries within `deadline` seconds, abandon the others, and unsubscribe."""
        self._stopping = True
        if self.domain is not None:
            self.domain.close()
        if self._reading is not None:
            self._reading.cancel()
        # Before the first await: messages behind an abandoned one must not be executed before it
        running = self._settler.abandon_queued(lambda item: True, "drain")
        await cancelled(self._reading)
        try:
            async with asyncio.timeout(deadline):
                await self._wait_for(running)
        except TimeoutError:
            name, left = self.settings.name, len(self._running)
            log.warning(
                f"source {name}: {left} messages did not finish within {deadline:g} s of the drain; the broker "
                "delivers them again. If this repeats, raise ops.drain",
                action="drain", source=name, at_work=left,
            )  # fmt: skip
        await cancelled(*self._workers, *self._watches)
        for part in self.parts:
            await part.stop()
        if self.subscription is not None:
            await self.subscription.close()
        self._outages.stop()

    # -- calls of the parts

    @property
    def is_stopping(self) -> bool:
        """True when no delivery may be added."""
        return self._stopping

    @property
    def free_capacity(self) -> int:
        """Number of deliveries that fit into memory now; 0 while intake is closed."""
        if self.gate.closed:
            return 0
        return max(0, self.settings.limits.max_in_flight - self.unloading.in_memory)

    def append(self, items: Sequence[InFlightDelivery]) -> None:
        """Put stored deliveries behind all others of their keys."""
        for item in items:
            self._intake.append_stored(item)
        self._settler.measure()

    def use(self, rules: RuleSet, limits: Mapping[str, RouteLimit], budgets: Mapping[str, BudgetShare]) -> None:
        """Bind the following deliveries to another rule set, without a pause.

        limits, budgets: of the routes that have some, also those of deliveries in flight.
        """
        self.use_limits(limits)
        self.budgets.clear()
        self.budgets.update(budgets)
        self.rules.replace(rules)
        self.watch_engines(self.rules.current)

    def use_limits(self, limits: Mapping[str, RouteLimit]) -> None:
        """Use other limits of routes. limits: of the routes that have some, also those of deliveries in flight."""
        self.route_limits.clear()
        self.route_limits.update(limits)

    def watch_engines(self, rules: RuleSet) -> None:
        """Hold the source during outages of the engines of a rule set."""
        self._outages.watch({name: engine.breaker for name, engine in rules.engines.items()})

    async def prepare(self, rules: RuleSet, messages: Sequence[Message]) -> None:
        """Return when a rule set can decode the messages. Hold the source until then."""
        if rules.prepare is not None:
            readable = [each for each in messages if each.unreadable is None]
            await prepared(rules.prepare, readable, self.settings.name, self.gate, rules.retry)

    def insert_stored(self, key: Hashable, items: Sequence[InFlightDelivery]) -> bool:
        """Put stored deliveries before all others of their key; False, without effect, while one of it is running."""
        if not self.lanes.insert(key, items):
            return False
        for item in items:
            self._intake.bind(item, key, item.rules)
            self.ledger.receive(item)
        self._settler.measure()
        return True

    # -- listener of the subscription

    async def assigned(self, partitions: Sequence[Partition]) -> None:
        self.assignment.update(partitions)
        for part in self.parts:
            part.assigned()

    async def revoked(self, partitions: Sequence[Partition]) -> None:
        gone = set(partitions)
        # The broker marks a partition as revoked only after this returns; until then it is remembered here
        self._revoking = {partition for partition in self._revoking if not partition.revoked} | gone
        self.assignment -= gone
        for partition in gone:
            self.gate.forget(partition)
        lost = sum(partition.lost for partition in gone)
        self.ledger.count_lost_locks(lost)
        reason = LockLost.reason if lost else "revoked"
        running = self._settler.abandon_queued(
            lambda item: item.delivery.partition in gone or any(part.leaves_with(item, gone) for part in self.parts),
            reason,
        )
        await self._wait_for(running)
        for part in self.parts:
            await part.revoked(gone)

    # -- pauses by a person

    @property
    def paused(self) -> str | None:
        """Sentence about the pause by a person; None without one."""
        return self.gate.pause_reasons.get(PERSON)

    def pause(self, sentence: str) -> None:
        """Take in no further message. Messages in flight are finished, and the group keeps its members."""
        self.gate.hold(PERSON, sentence)
        subscription: object = self.subscription
        if isinstance(subscription, PausableSubscription):
            subscription.pause()

    def resume(self) -> None:
        """End the pause."""
        subscription: object = self.subscription
        if isinstance(subscription, PausableSubscription):
            subscription.resume()
        self.gate.release(PERSON)

    async def move(self, moves: Mapping[Place, Move]) -> dict[Place, Moved]:
        """Move the position of partitions that this process has; see `MovableSubscription.move`.

        Raises: BrokerUnavailable.
        """
        subscription: object = self.subscription
        if not isinstance(subscription, MovableSubscription):
            return {}
        moved = await subscription.move(moves)
        self.ledger.seek(sum(each.before is not None for each in moved.values()))
        return moved

    # -- intake

    async def _receive(self) -> None:
        assert self.subscription is not None
        failures = 0
        while True:
            await self.gate.wait()
            at_work = self.unloading.in_memory - (0 if self.shares is None else self.shares.records)
            free_capacity = min(_BATCH, max(1, self.settings.limits.max_in_flight - at_work))
            try:
                deliveries = await self.subscription.receive(free_capacity)
            except (BrokerUnavailable, ClockSkew) as error:
                failures += 1
                cause = "clock" if isinstance(error, ClockSkew) else "broker"
                self.gate.hold(cause, str(error))
                await asyncio.sleep(self.rules.current.retry.delay(failures))
                self.gate.release(cause)
                # Lanes that were held meanwhile wait for the same recovery
                self._outages.resume("broker")
                continue
            failures = 0
            if not deliveries:
                return
            if self.gate.paused_by_person:
                await self.gate.wait()
            rules = self.rules.current
            if rules.prepare is not None:
                await self.prepare(rules, [each.message for each in deliveries])
            for partition in await self._intake.admit(deliveries, time.monotonic(), rules):
                self.gate.fetched(partition)
            self._settler.measure()
            await asyncio.sleep(0)

    # -- work

    async def _work(self) -> None:
        while True:
            lane = await self.lanes.take()
            item = lane.items[0]
            self._running.add(item)
            SUBJECT.set(item)
            try:
                await self._process(lane, item)
            except asyncio.CancelledError:
                self._settler.abandon(item, "drain")
                raise
            finally:
                self._running.discard(item)
                self.decoded.leave(item)
                self.dead_letter_limit.end_attempt(item)
                self._finished.set()
                SUBJECT.set(None)
            if time.monotonic() - self._slice > SLICE:
                await self._pause()

    async def _pause(self) -> None:
        """Yield to the event loop, which the workers have kept for a slice."""
        await asyncio.sleep(0)
        self._slice = time.monotonic()

    async def _process(self, lane: Lane, item: InFlightDelivery) -> None:
        limit = item.waits_for
        if limit is not None and limit.blocks(item):
            self.lanes.hold(lane)  # the end of an outage freed the lane with all others
            return
        # A message that is being redelivered leaves its execution to that delivery
        if item.delivery.lost:
            self._settler.on_lock_lost(lane, item)
            return
        if item.delivery.partition.revoked:
            self._settler.abandon_head(lane, item, "revoked")
            return
        if self.domain is not None and not self.domain.may_go(item):
            if (reason := self._stop_reason(item)) is not None:
                self._settler.abandon_head(lane, item, reason)
                return
            self.lanes.hold(lane)
            self.domain.wait(item, lambda: self.lanes.free(lane))
            return
        if not await self._loaded(lane, item):
            return
        if item.pending is not None:
            await self._settler.settle_again(lane, item)
            return
        if self.stage is not None and not self.stage.ready:
            self.lanes.hold(lane)
            return
        settlement, step = await self.runner.run(lane, item)
        await self._settler.settle(lane, item, settlement, step)

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
            message = await payload_of(item.rules, item.delivery.message)
        except MessageError as failure:
            item.decoded(None, storable(failure))
            return True
        except (BrokerUnavailable, ClaimStoreUnavailable, RegistryUnavailable) as away:
            if (reason := self._stop_reason(item)) is not None:
                self._settler.abandon_head(lane, item, reason)
            else:
                self.lanes.hold(lane)
                self._outages.hold(away)
            return False
        except Exception as failure:
            # A worker that ends would end the daemon, again after each restart: a bug affects its own message only
            item.decoded(None, storable(failure))
            return True
        if (reason := self._stop_reason(item)) is not None:
            self._settler.abandon_head(lane, item, reason)
            return False
        try:
            envelope = item.rules.decode(message, item.delivery.position)
            item.decoded(envelope if item.stored is None else item.stored.identified(envelope), None)
        except Exception as failure:
            item.decoded(None, storable(failure))
        if time.monotonic() - self._slice > SLICE:
            await self._pause()
        return True

    def _admitted(self, lane: Lane, item: InFlightDelivery) -> bool:
        """Make the lane of an item that may be decoded ready. False when the item is not its head any more."""
        self.lanes.free(lane)
        return bool(lane.items) and lane.items[0] is item and lane.state is LaneState.READY

    def _waits(self, lane: Lane) -> bool:
        """True when the head of a lane waits for others of its value. Their end frees the lane."""
        assert self.shares is not None
        item = lane.items[0]
        if self.shares.may_go(item):
            return False
        self.shares.wait(item, lambda: self.lanes.free(lane))
        return True

    def _stop_reason(self, item: InFlightDelivery) -> str | None:
        """Reason why an unsettled item cannot wait here for another attempt; None when it can."""
        if self._stopping:
            return "drain"
        return "revoked" if self._revoked(item.delivery.partition) else None

    def _revoked(self, partition: Partition) -> bool:
        return partition.revoked or partition in self._revoking

    async def _wait_for(self, items: Sequence[InFlightDelivery]) -> None:
        while any(item in self._running for item in items):
            self._finished.clear()
            await self._finished.wait()
