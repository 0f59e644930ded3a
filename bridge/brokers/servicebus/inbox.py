"""What receivers have taken and nobody has asked for yet."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bridge.brokers.servicebus.delivery import ServiceBusDelivery

if TYPE_CHECKING:
    from bridge.brokers.servicebus.partition import ServiceBusPartition

STUCK_SECONDS = 1.0
"""Nothing was taken for so long though there was something: nobody wants it for now."""

GROWTH = 8
"""Messages that may come for each that has come, by whose sizes they are judged. Each step costs a round trip."""

_FADING = 0.99
"""What remains of the size that is reckoned with, by every smaller message that comes."""


class Inbox:
    """Shared by the receivers of a subscription. high, high_bytes: messages and encoded bytes above which they take no
    more. receivers: how many share it.
    """

    def __init__(self, high: int, high_bytes: int, receivers: int) -> None:
        self.deliveries: deque[ServiceBusDelivery] = deque()
        self.held: dict[tuple[str, int], ServiceBusDelivery] = {}
        """What is locked for us, by path and sequence number."""
        self.bytes = 0
        """Encoded, of the deliveries."""
        self.unnumbered = 0
        """Messages that came without a sequence number."""
        self._high = high
        self._high_bytes = high_bytes
        self._receivers = receivers
        self._size = 0.0
        self._measured = 0
        self._taken = 0.0
        self._changed = asyncio.Event()

    @property
    def room(self) -> bool:
        """Whether more is wanted."""
        return len(self.deliveries) < self._high and self.bytes < self._high_bytes

    @property
    def stuck(self) -> bool:
        """Whether it is full and nothing is taken from it."""
        return not self.room and time.monotonic() - self._taken >= STUCK_SECONDS

    def credit(self, most: int) -> int:
        """Messages that one receiver may be sent, by the largest size of late; few as long as few have come."""
        if not self._size:
            return 1
        share = (self._high_bytes - self.bytes) / self._receivers
        return max(1, min(most, int(share / self._size), GROWTH * self._measured))

    def measure(self, length: int) -> None:
        """A message of so many bytes came in."""
        self._size = max(length, self._size * _FADING, 1.0)
        self._measured += 1

    def put(self, deliveries: Sequence[ServiceBusDelivery]) -> None:
        """They came in."""
        self.deliveries.extend(deliveries)
        self.bytes += sum(each.size for each in deliveries)
        self.notify()

    def drop(self, partition: ServiceBusPartition) -> None:
        """A session is no longer ours: what nobody asked for goes with it."""
        kept = [each for each in self.deliveries if each.partition is not partition]
        if len(kept) < len(self.deliveries):
            self.deliveries = deque(kept)
            self.bytes = sum(each.size for each in kept)

    def notify(self) -> None:
        """Something came, or a receiver's state has changed."""
        self._changed.set()

    async def wait(self) -> None:
        """Until `tell` is called."""
        self._changed.clear()
        await self._changed.wait()

    def hold(self, delivery: ServiceBusDelivery) -> ServiceBusDelivery | None:
        """A delivery of a message of which we have one already means that the lock of that one, which is returned, has
        passed.
        """
        key = delivery.position.topic, delivery.position.offset
        before = self.held.get(key)
        self.held[key] = delivery
        if before is not None:
            before.mark_lock_lost()
        return before

    def forget(self, delivery: ServiceBusDelivery) -> None:
        """It is settled, given back, or lost."""
        key = delivery.position.topic, delivery.position.offset
        if self.held.get(key) is delivery:
            del self.held[key]

    def take(self, limit: int) -> list[ServiceBusDelivery]:
        """At most `limit`, without those that went with their session. Those whose own lock has passed meanwhile are
        among them, since their loss is counted there.
        """
        taken: list[ServiceBusDelivery] = []
        self._taken = time.monotonic()
        while self.deliveries and len(taken) < limit:
            delivery = self.deliveries.popleft()
            self.bytes -= delivery.size
            if not delivery.partition.revoked:
                taken.append(delivery)
        return taken
