"""Intake: makes items of deliveries, and appends each to the lane of its ordering key."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Hashable, Iterable

from bridge.brokers.base import Delivery, Partition
from bridge.core import provenance
from bridge.core.envelope import Envelope
from bridge.core.errors import kept
from bridge.core.message import Message, Position
from bridge.pipeline.decoded import SMALL
from bridge.pipeline.domain import OrderingDomain, domain_key
from bridge.pipeline.execution import SLICE, Routes
from bridge.pipeline.in_flight_delivery import InFlightDelivery
from bridge.pipeline.lanes import Lane, Lanes, LaneState
from bridge.pipeline.ledger import Ledger
from bridge.pipeline.settings import SourceSettings
from bridge.pipeline.shares import Shares
from bridge.routing.per import SHARED

Decode = Callable[[Message, Position], Envelope]
"""Callback that decodes a message. Raises: MessageError."""


class Intake:
    """Puts the deliveries of a source into lanes; decodes the small ones, and those whose value it needs for that.

    revoked: callback, True when a partition has moved to another member.
    crowded: callback, True when too many items wait in a lane whose head fails.
    joined: called with a held lane and the item that was added to it.
    """

    def __init__(
        self,
        settings: SourceSettings,
        decode: Decode,
        routes: Routes,
        lanes: Lanes,
        ledger: Ledger,
        domain: OrderingDomain | None,
        shares: Shares | None,
        *,
        revoked: Callable[[Partition], bool],
        crowded: Callable[[Lane], bool],
        joined: Callable[[Lane, InFlightDelivery], None],
    ) -> None:
        self._settings = settings
        self._decode = decode
        self._routes = routes
        self._lanes = lanes
        self._ledger = ledger
        self._domain = domain
        self._shares = shares
        self._revoked = revoked
        self._crowded = crowded
        self._joined = joined

    async def admit(self, deliveries: Iterable[Delivery], now: float) -> Collection[Partition]:
        """Count each delivery and put it into its lane; return the partitions. now: monotonic seconds.

        Yields to the event loop between two messages when decoding takes long.
        """
        partitions: set[Partition] = set()
        gone: set[Partition] = set()
        by_expression = self._settings.ordering not in ("key", "partition", "none")
        every = by_expression or self._shares is not None
        since = time.monotonic()
        for delivery in deliveries:
            envelope: Envelope | None = None
            error: Exception | None = None
            if (unreadable := delivery.message.unreadable) is not None:
                topic, number = delivery.partition.topic, delivery.partition.number
                self._ledger.unreadable[topic, number, unreadable.fault] += 1
            key = self._place(delivery)
            try:
                if every or delivery.message.size <= SMALL:
                    envelope = self._decode(delivery.message, delivery.position)
                if by_expression:
                    assert envelope is not None
                    if time.monotonic() - since > SLICE:
                        since = await self._pause(partitions, gone)
                    key = self._routes.ordering_key(envelope)
            except Exception as failure:
                # Judged when the item is run; intake continues after any error
                error = kept(failure)
            if time.monotonic() - since > SLICE:
                since = await self._pause(partitions, gone)
            value = SHARED
            if self._shares is not None and envelope is not None:
                value = self._routes.value(envelope)
                if time.monotonic() - since > SLICE:
                    since = await self._pause(partitions, gone)
            partition = delivery.partition
            if partition not in partitions and partition not in gone:
                (gone if self._revoked(partition) else partitions).add(partition)
            item = InFlightDelivery(delivery, envelope, error, now)
            if item.size > SMALL:
                item.envelope = None  # decoded again when a worker takes it
            if self._settings.trusted_replay:
                item.executed = list(provenance.read(delivery.message).executed)
            self._ledger.receive(item)
            if partition in gone:
                # Received before the revocation, processed after it: another member may have it
                self._ledger.abandon(item, "revoked")
                continue
            if self._domain is not None and key is not None:
                key = domain_key(key)
                self._domain.join(key, item)
            if self._shares is not None:
                self._shares.join(value, item)
            lane = self._lanes.push(key, item)
            if lane.state is LaneState.WAITING and self._crowded(lane):
                self._lanes.hurry(lane)
            elif lane.state is LaneState.HELD:
                self._joined(lane, item)
        return partitions

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
