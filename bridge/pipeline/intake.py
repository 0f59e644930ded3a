"""Intake of a source: prepares and decodes deliveries, and appends each to the lane of its ordering key."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence

import structlog

from bridge.brokers.base import Delivery, Partition
from bridge.core import provenance
from bridge.core.errors import RegistryUnavailable, storable
from bridge.core.message import Envelope, Message
from bridge.core.settlement import RetryPolicy
from bridge.pipeline.decoded import SMALL
from bridge.pipeline.flow_control import REGISTRY, FlowControl
from bridge.pipeline.in_flight_delivery import InFlightDelivery
from bridge.pipeline.lanes import Lane, Lanes, LaneState, OrderingDomain, domain_key
from bridge.pipeline.ledger import Ledger
from bridge.pipeline.limits.per_value import ValueShares
from bridge.pipeline.rule_set import RuleChooser, RuleSet, refers
from bridge.pipeline.settings import SLICE, Prepare, SourceSettings
from bridge.routing.per import SHARED

log = structlog.get_logger("bridge.source")


async def prepared(
    prepare: Prepare, messages: Sequence[Message], source: str, gate: FlowControl, retry: RetryPolicy
) -> None:
    """Return when the messages can be decoded. Hold the source until then.

    The caller must not take in later messages meanwhile: they may have the same key.
    """
    failures = 0
    while True:
        try:
            await prepare(messages)
        except RegistryUnavailable as error:
            failures += 1
            if failures == 1:
                log.warning(f"the {REGISTRY} does not answer", action="hold", source=source, detail=str(error))
            gate.hold(REGISTRY, str(error))
            await asyncio.sleep(retry.delay(failures))
        else:
            if failures:
                gate.release(REGISTRY)
            return


class Intake:
    """Intake of deliveries into lanes. Decodes the small ones, and those whose value the lane depends on.

    revoked: callback, True when a partition has moved to another member.
    joined: called with a held lane and the item that was added to it.
    """

    def __init__(
        self,
        settings: SourceSettings,
        rules: RuleChooser,
        lanes: Lanes,
        ledger: Ledger,
        domain: OrderingDomain | None,
        shares: ValueShares | None,
        *,
        revoked: Callable[[Partition], bool],
        joined: Callable[[Lane, InFlightDelivery], None],
    ) -> None:
        self._settings = settings
        self._rules = rules
        self._lanes = lanes
        self._ledger = ledger
        self._domain = domain
        self._shares = shares
        self._revoked = revoked
        self._joined = joined
        self._by_expression = settings.ordering not in ("key", "partition", "none")

    async def admit(self, deliveries: Iterable[Delivery], now: float, rules: RuleSet) -> Collection[Partition]:
        """Count each delivery, bind it to its rule set, and put it into its lane; return the partitions.

        now: monotonic seconds. rules: rule set for which the deliveries are prepared.
        Yields to the event loop between two messages when decoding takes long.
        """
        partitions: set[Partition] = set()
        gone: set[Partition] = set()
        by_expression = self._by_expression
        every = by_expression or self._shares is not None
        since = time.monotonic()
        for delivery in deliveries:
            envelope: Envelope | None = None
            error: Exception | None = None
            key = self._place(delivery)
            size = delivery.message.size
            try:
                if (every or size <= SMALL) and not refers(rules, delivery.message):
                    envelope = rules.decode(delivery.message, delivery.position)
                if by_expression:
                    assert envelope is not None
                    if time.monotonic() - since > SLICE:
                        since = await self._pause(partitions, gone)
                    key = rules.routes.ordering_key(envelope)
            except Exception as failure:
                # Judged when the item is run; intake continues after any error
                error = storable(failure)
            if time.monotonic() - since > SLICE:
                since = await self._pause(partitions, gone)
            value = SHARED
            if self._shares is not None and envelope is not None:
                value = rules.routes.value(envelope)
                if time.monotonic() - since > SLICE:
                    since = await self._pause(partitions, gone)
            partition = delivery.partition
            if partition not in partitions and partition not in gone:
                (gone if self._revoked(partition) else partitions).add(partition)
            executed = provenance.read(delivery.message).executed if self._settings.trusted_replay else ()
            if size > SMALL:
                envelope = None  # decoded again when a worker takes the delivery
            item = InFlightDelivery(delivery, envelope, error, now, executed, size=size)
            self.bind(item, key, rules)
            self._ledger.receive(item)
            if partition in gone:
                # Received before the revocation, processed after it: another member may have it
                self._ledger.abandon(item, "revoked")
                continue
            self._enter(key, value, item)
        return partitions

    def append_stored(self, item: InFlightDelivery) -> None:
        """Count a stored delivery, which is bound and decoded already, and put it behind the others of its key."""
        key, value = self._place(item.delivery), SHARED
        if item.envelope is not None:
            try:
                if self._by_expression:
                    key = item.rules.routes.ordering_key(item.envelope)
                if self._shares is not None:
                    value = item.rules.routes.value(item.envelope)
            except Exception as failure:
                item.decoded(None, storable(failure))
        self.bind(item, key, item.rules)
        if item.decoded_limit > SMALL:
            item.drop_decoded()  # decoded again when a worker takes it
        self._ledger.receive(item)
        self._enter(key, value, item)

    def bind(self, item: InFlightDelivery, key: Hashable | None, rules: RuleSet) -> None:
        """Bind an item to the rule set of its key. rules: rule set that has decoded it."""
        chosen = self._rules.choose(key)
        item.bind(chosen)
        if chosen is not rules and chosen.decode is not rules.decode:
            item.drop_decoded()  # a worker decodes it with its own rule set

    def _enter(self, key: Hashable | None, value: str, item: InFlightDelivery) -> None:
        """Put an item behind the others of its key. value: of `limits.per`."""
        if self._domain is not None and key is not None:
            key = domain_key(key)
            self._domain.join(key, item)
        if self._shares is not None:
            self._shares.join(value, item)
        lane = self._lanes.push(key, item)
        if lane.state is LaneState.WAITING and self._lanes.is_crowded(lane):
            self._lanes.end_wait(lane)
        elif lane.state is LaneState.HELD:
            self._joined(lane, item)

    async def _pause(self, partitions: set[Partition], gone: set[Partition]) -> float:
        """Yield to the event loop, and update the sets: partitions may be revoked meanwhile."""
        await asyncio.sleep(0)
        for partition in [each for each in partitions if self._revoked(each)]:
            partitions.discard(partition)
            gone.add(partition)
        return time.monotonic()

    def _place(self, delivery: Delivery) -> Hashable | None:
        """Ordering key before decoding. An ordering expression has no value yet: the message key replaces it."""
        match self._settings.ordering:
            case "none":
                return None
            case "partition":
                return (delivery.position.topic, delivery.position.partition)
            case _:
                return delivery.message.key
