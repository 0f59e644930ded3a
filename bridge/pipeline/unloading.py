"""Unloading of messages whose wait may be long: some stay in memory, the others are read again."""

from __future__ import annotations

import asyncio
from collections import defaultdict

from bridge.brokers.base import Partition, RereadableSubscription, Subscription, UnloadableDelivery
from bridge.core.message import Message, Unreadable
from bridge.pipeline.in_flight_delivery import InFlightDelivery
from bridge.pipeline.ledger import Ledger

_SHARE = 4
"""Divisor of the source's limits that gives the share of blocked messages in memory."""

UNLOADED = 10
"""Most messages of a source without their bodies, in multiples of `max_in_flight`."""

_READ_BYTES = 4 * 1024 * 1024
_READ_RECORDS = 64
"""Limits of one read, in bytes and records. A read includes following messages, which are needed next."""


class Unloading:
    """Blocked messages of one source. Not thread-safe: one event loop.

    A message is blocked while it, or an earlier one in its lane, waits for a limit or an engine. Blocked messages would
    fill the limits of the source and stop all its routes. Beyond a share of the limits they are unloaded: body and
    headers are dropped, and read from the log again before the message is processed. Brokers without a log cannot do
    that.
    """

    def __init__(self, ledger: Ledger, max_records: int, max_bytes: int) -> None:
        self._ledger = ledger
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._subscription: RereadableSubscription | None = None
        self._blocked: dict[InFlightDelivery, int] = {}
        self._blocked_bytes = 0
        self._unloaded: dict[Partition, dict[int, InFlightDelivery]] = defaultdict(dict)
        self._reading = asyncio.Lock()
        self.count = 0
        """Number of messages without their bodies."""
        self._saved = 0

    def use(self, subscription: Subscription) -> None:
        """Use this subscription to read messages again, where it can."""
        if isinstance(subscription, RereadableSubscription):
            self._subscription = subscription

    @property
    def in_memory(self) -> int:
        """Number of messages in flight with their bodies."""
        return self._ledger.in_flight - self.count

    @property
    def bytes_in_memory(self) -> int:
        """Bytes of all messages in flight, without the bodies and headers of unloaded ones."""
        return self._ledger.in_flight_bytes - self._saved

    @property
    def has_blocked(self) -> bool:
        """True while messages are blocked."""
        return bool(self._blocked or self.count)

    @property
    def crowded(self) -> bool:
        """True when half of the capacity is used: soon no message could be received behind the blocked ones."""
        return (
            2 * self.count >= UNLOADED * self._max_records
            or 2 * len(self._blocked) >= self._max_records
            or 2 * self._blocked_bytes >= self._max_bytes
        )

    def block(self, item: InFlightDelivery) -> None:
        """Note that the item is blocked: keep its message in memory while there is capacity, else unload it.

        The decoded form is dropped in both cases: it may be many times larger, as may be the traceback of an error.
        """
        if item in self._blocked or self.unloaded(item):
            return
        item.drop_decoded()
        records, size = len(self._blocked) + 1, self._blocked_bytes + item.size
        full = records * _SHARE > self._max_records or size * _SHARE > self._max_bytes
        delivery = item.delivery
        if (
            full
            and self._subscription is not None
            and self.count < UNLOADED * self._max_records
            and isinstance(delivery, UnloadableDelivery)
            and delivery.message.unreadable is None
            and item.pending is None
        ):
            delivery.unload()
            self._unloaded[delivery.partition][delivery.position.offset] = item
            self.count += 1
            self._saved += item.size - delivery.message.size
        else:
            self._keep(item)

    def _keep(self, item: InFlightDelivery) -> None:
        self._blocked[item] = item.size
        self._blocked_bytes += item.size

    def leave(self, item: InFlightDelivery) -> None:
        """Remove an item that is processed or gone."""
        self._blocked_bytes -= self._blocked.pop(item, 0)
        if self.count and self.unloaded(item):
            self._forget(item)

    def unloaded(self, item: InFlightDelivery) -> bool:
        """True when the item must be loaded before it is processed."""
        if not self.count:
            return False
        known = self._unloaded.get(item.delivery.partition)
        return known is not None and known.get(item.delivery.position.offset) is item

    async def load(self, item: InFlightDelivery) -> None:
        """Read the message of an unloaded item again, and following messages while there is capacity.

        A message that the log no longer has becomes an unreadable one. Raises: BrokerUnavailable.
        """
        async with self._reading:
            if not self.unloaded(item):
                return  # loaded with another one, or gone
            assert self._subscription is not None
            partition, first = item.delivery.partition, item.delivery.position.offset
            waiting = self._unloaded[partition]
            wanted = sorted(offset for offset in waiting if offset >= first)[:_READ_RECORDS]
            # One and a half times the share of blocked messages
            room = min(_READ_BYTES, 3 * self._max_bytes // (2 * _SHARE) - self._blocked_bytes)
            records = max(1, 3 * self._max_records // (2 * _SHARE) - len(self._blocked))
            for offset, message in await self._subscription.reread(partition, wanted[:records], room):
                found = waiting.get(offset)
                if found is None:
                    continue  # abandoned meanwhile
                self._forget(found)
                _load(found, message)
                if found is not item:
                    self._keep(found)

    def _forget(self, item: InFlightDelivery) -> None:
        partition = item.delivery.partition
        known = self._unloaded[partition]
        del known[item.delivery.position.offset]
        if not known:
            del self._unloaded[partition]
        self.count -= 1
        self._saved -= item.size - item.delivery.message.size


def _load(item: InFlightDelivery, message: Message | None) -> None:
    delivery = item.delivery
    assert isinstance(delivery, UnloadableDelivery)
    if message is None:
        key = delivery.message.key
        detail = "the log no longer has it, or it cannot be read any more"
        message = Message(None, key, unreadable=Unreadable("deleted", detail, key_known=True))
    delivery.load(message)
