"""Settler of deliveries: carries out every settlement, and lets deliveries leave the pipeline."""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

from bridge.brokers.base import Partition
from bridge.core.commands import RoutedCommand
from bridge.core.errors import BrokerUnavailable, LockLost, PartitionRevoked, SettlementRefused
from bridge.core.pace import NO_ROUTE
from bridge.core.provenance import Cause
from bridge.core.settlement import Complete, Hold, Keep, Release, Retry, Settlement, WriteDeadLetter
from bridge.core.states import Outcome
from bridge.pipeline.decisions import DecisionListeners
from bridge.pipeline.decoded import DecodedForms
from bridge.pipeline.flow_control import FlowControl, Outages
from bridge.pipeline.in_flight_delivery import InFlightDelivery
from bridge.pipeline.lanes import Lane, Lanes, LaneState, OrderingDomain
from bridge.pipeline.ledger import Ledger
from bridge.pipeline.limits.dead_letter_limit import DeadLetterLimit, DeadLetterLimited
from bridge.pipeline.limits.per_value import ValueShares
from bridge.pipeline.limits.route_limits import Throttled
from bridge.pipeline.settings import RecordDeadLetter, SourceSettings
from bridge.pipeline.stage import Stage
from bridge.pipeline.tracing import ABANDONED, SourceTracing
from bridge.pipeline.unloading import Unloading

log = structlog.get_logger("bridge.settler")

_SUCCESSES = (Outcome.EXECUTED, Outcome.DUPLICATE, Outcome.IGNORED)

UNKNOWN_SETTLEMENT = "settlement_unknown"
"""Reason of abandoned messages with an unknown settlement. The broker redelivers those that it did not settle."""


class Settler:
    """Settler of the deliveries of one source. Each leaves its lane here, settled or abandoned, or waits in it."""

    def __init__(
        self,
        settings: SourceSettings,
        lanes: Lanes,
        ledger: Ledger,
        gate: FlowControl,
        limit: DeadLetterLimit,
        unloading: Unloading,
        decoded: DecodedForms,
        outages: Outages,
        shares: ValueShares | None,
        domain: OrderingDomain | None,
        stage: Stage | None,
        stop_reason: Callable[[InFlightDelivery], str | None],
        record: RecordDeadLetter | None = None,
        tracing: SourceTracing | None = None,
        decisions: DecisionListeners | None = None,
    ) -> None:
        """Create a settler.

        stop_reason: reason why an unsettled delivery cannot wait here for another attempt; None when it can.
        tracing: None where traces are off.
        decisions: listeners of settled deliveries; None: there never are any.
        """
        self._tracing = tracing
        self._decisions = decisions
        self._settings = settings
        self._lanes = lanes
        self._ledger = ledger
        self._gate = gate
        self._limit = limit
        self._unloading = unloading
        self._decoded = decoded
        self._outages = outages
        self._shares = shares
        self._domain = domain
        self._stage = stage
        self._stop_reason = stop_reason
        self._record = record

    async def settle(
        self, lane: Lane, item: InFlightDelivery, settlement: Settlement | Throttled, step: RoutedCommand | None
    ) -> None:
        """Carry out the settlement of the head of a RUNNING lane."""
        if isinstance(settlement, Keep):
            assert self._stage is not None
            try:
                settlement = await self._stage.keep(lane, item, settlement, step)
            except DeadLetterLimited as limited:
                self._wait_for_limit(lane, item, limited.route)
                return
        if isinstance(settlement, Complete | WriteDeadLetter):
            await self._end(lane, item, settlement, step.route if step else item.failed_route)
        elif isinstance(settlement, Release):
            self.abandon_head(lane, item, settlement.reason)
        elif (reason := self._stop_reason(item)) is not None:
            self.abandon_head(lane, item, reason)
        elif isinstance(settlement, Throttled):
            assert step is not None
            self._throttle(lane, item, step, settlement)
        elif isinstance(settlement, Hold):
            self._hold(lane, item, settlement.engine)
        else:
            assert isinstance(settlement, Retry)  # a stage keeps what is to be kept
            if settlement.failed:
                self._ledger.retry()
                item.fail()
            else:
                item.wait_for_others()
            self._lanes.wait(lane, settlement.delay)

    async def settle_again(self, lane: Lane, item: InFlightDelivery) -> None:
        """Carry out the decided settlement of the head of a RUNNING lane, which the broker did not accept before."""
        assert item.pending is not None
        await self._end(lane, item, item.pending, item.pending_route)

    async def _end(
        self, lane: Lane, item: InFlightDelivery, end: Complete | WriteDeadLetter, route: str | None
    ) -> None:
        item.free_slot()  # a delivery that ends without its start, as a dead letter does, takes no slot
        try:
            if isinstance(end, Complete):
                await item.delivery.complete()
            else:
                await self._write_dead_letter(item, end, route)
        except LockLost:
            self.on_lock_lost(lane, item)
        except (PartitionRevoked, SettlementRefused) as error:
            self.abandon_head(lane, item, error.reason)
        except DeadLetterLimited as limited:
            self._wait_for_limit(lane, item, limited.route)
        except BrokerUnavailable as error:
            if (reason := self._stop_reason(item)) is not None:
                self.abandon_head(lane, item, reason)
            else:
                item.settle_as(end, route)
                self._lanes.hold(lane)
                self._outages.hold(error)
        else:
            if isinstance(end, Complete):
                if self._limit.active and end.outcome in _SUCCESSES:
                    self._limit.succeeded(set(item.executed), stops_others=self._stops_others(item.delivery.partition))
                now = time.monotonic()
                self._ledger.settle(item, end.outcome, now, time.time())
                if self._tracing is not None:
                    self._tracing.end(item, end.outcome, route=route)
                if self._decisions:
                    self._decisions.offer(self._settings.name, item, end, route, now)
            self._outages.broker_recovered()
            self._lanes.settled(lane)
            self._leave(item)
            if self._gate.paused:
                self._gate.settled(item.delivery.partition)
            if self._gate.full:
                self.measure()

    async def _write_dead_letter(self, item: InFlightDelivery, end: WriteDeadLetter, route: str | None) -> None:
        limited = NO_ROUTE if route is None else route
        # A replay must not slow the source: its job stops after failures
        is_paced = item.pending is None and (item.stored is None or item.stored.replay is None)
        paced = is_paced and await self._limit.allow(limited, item.delivery.position)
        item.settle_as(end, route)
        cause = self._cause(item, end, route)
        await item.delivery.dead_letter(cause)
        if self._record is not None and item.stored is None:
            await self._record(cause, item.delivery.position)
        if paced:
            await self._limit.wrote(limited)
        now = time.monotonic()
        self._ledger.dead_letter(item, end.reason, now, time.time())
        if self._tracing is not None:
            self._tracing.end(item, Outcome.DEAD_LETTERED, end.reason, route)
        if self._decisions:
            self._decisions.offer(self._settings.name, item, end, route, now)
        log.warning(
            "dead-lettered",
            action="dead_letter",
            source=self._settings.name,
            reason=end.reason,
            detail=end.detail,
            route=route,
            expression=item.failed_expression,
            position=str(item.delivery.position),
            attempts=item.attempt,
            deliveries=item.delivery.attempt,
            config=item.rules.version,
            at=time.time(),
        )

    def _cause(self, item: InFlightDelivery, end: WriteDeadLetter, route: str | None) -> Cause:
        return Cause(
            reason=end.reason,
            detail=end.detail,
            error=item.error_class,
            source=self._settings.name,
            route=route,
            expression=item.failed_expression,
            executed=tuple(dict.fromkeys(item.executed)),
            attempts=item.attempt,
            config=item.rules.version,
            message_id=item.envelope.message_id if item.envelope else None,
            replayed=self._settings.trusted_replay,
            deliveries=item.delivery.attempt,
            at=time.time(),
        )

    # -- waits

    def _hold(self, lane: Lane, item: InFlightDelivery, engine: str | None) -> None:
        """Make the item wait for the end of an outage. engine: the one that does not answer."""
        item.excuse()
        self._lanes.hold(lane)
        queue = None if engine is None else self._outages.partial.get(engine)
        if queue is not None:
            queue.add(item)
            self._unload(lane)

    def _unload(self, lane: Lane) -> None:
        """Unload the messages of a lane whose wait may be long, so that others can be received."""
        for each in lane.items:
            self._block(each)
        self.measure()

    def _throttle(self, lane: Lane, item: InFlightDelivery, step: RoutedCommand, throttled: Throttled) -> None:
        """Make the item wait for a limit of its route."""
        if throttled.delay is not None:
            self._lanes.wait(lane, throttled.delay)
            throttled.limit.retry_early(item, lambda: self._retry_now(lane, item))
            return
        item.excuse()
        self._lanes.hold(lane)
        throttled.limit.queue(item, step.command, step.value, lambda: self._lanes.free(lane))
        if throttled.limit.unloads:
            self._unload(lane)

    def _wait_for_limit(self, lane: Lane, item: InFlightDelivery, route: str) -> None:
        """Make the item wait until its dead letter may be written."""
        item.free_slot()
        if (reason := self._stop_reason(item)) is not None:
            self.abandon_head(lane, item, reason)
            return
        self._lanes.hold(lane)
        self._limit.wait(route, item, lambda: self._retry_when_allowed(lane, item))
        self._unload(lane)

    def _retry_when_allowed(self, lane: Lane, item: InFlightDelivery) -> None:
        """Let the item try again, at once unless quarantined messages of its key now come before it."""
        self._lanes.free(lane)
        if lane.items[0] is not item or lane.state is not LaneState.READY:
            self._limit.end_attempt(item)

    def _retry_now(self, lane: Lane, item: InFlightDelivery) -> None:
        """Let an item that waits for a time try again at once."""
        if lane.state is LaneState.WAITING and lane.items[0] is item:
            self._lanes.end_wait(lane)

    def joined(self, lane: Lane, item: InFlightDelivery) -> None:
        """Unload an item that joined a lane held by a limit that unloads."""
        limit = lane.items[0].waits_for
        if limit is not None and limit.unloads:
            self._block(item)

    def _block(self, item: InFlightDelivery) -> None:
        # Items that wait for others of their value are bounded already
        if self._shares is None or self._shares.may_go(item):
            self._unloading.block(item)

    def _stops_others(self, partition: Partition) -> bool:
        """True when messages that wait for the dead-letter limit would soon stop the others."""
        if self._unloading.crowded:
            return True
        shares_crowded = self._shares is not None and self._shares.crowded
        return self._unloading.has_blocked and (2 * partition.gap >= self._settings.limits.max_gap or shares_crowded)

    # -- deliveries that leave unsettled

    def on_lock_lost(self, lane: Lane, item: InFlightDelivery) -> None:
        """Abandon the item: its lock was lost, or its settlement has an unknown outcome."""
        if item.delivery.settlement_unknown:
            self.abandon_head(lane, item, UNKNOWN_SETTLEMENT)
        else:
            self._ledger.count_lost_locks()
            self.abandon_head(lane, item, LockLost.reason)

    def abandon_head(self, lane: Lane, item: InFlightDelivery, reason: str) -> None:
        """Abandon the head of a RUNNING lane."""
        self._lanes.settled(lane)
        self.abandon(item, reason)
        self.measure()

    def abandon_queued(self, gone: Callable[[InFlightDelivery], bool], reason: str) -> list[InFlightDelivery]:
        """Abandon queued items; return the matching items that are still being processed."""
        removed, running = self._lanes.drop(gone)
        for item in removed:
            self.abandon(item, reason)
        self.measure()
        return running

    def abandon(self, item: InFlightDelivery, reason: str) -> None:
        """Abandon an item that is in no lane any more: the broker redelivers it."""
        if item.waits_for is not None:
            item.waits_for.forget(item)
        self._unloading.leave(item)
        self._decoded.forget(item)
        self._limit.end_attempt(item)
        item.free_slot()
        self._ledger.abandon(item, reason)
        if self._tracing is not None and item.trace is not None:
            self._tracing.end(item, ABANDONED, reason)
        self._leave(item)

    def _leave(self, item: InFlightDelivery) -> None:
        """Let the next item of the same key and of the same value go."""
        if item.waits_for is not None:
            item.waits_for.forget(item)
        if self._domain is not None:
            self._domain.leave(item)
        if self._shares is not None:
            self._shares.leave(item)

    def measure(self) -> None:
        """Update the flow control with the messages in flight."""
        waiting = (0, 0) if self._shares is None else (self._shares.records, self._shares.size)
        self._gate.measure(self._unloading.in_memory, self._unloading.bytes_in_memory, waiting)
