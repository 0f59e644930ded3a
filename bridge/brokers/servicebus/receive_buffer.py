"""Deliveries that receivers have received and the subscription has not handed out yet."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Collection, Sequence

from bridge.brokers.servicebus.delivery import ServiceBusDelivery, ServiceBusPartition

STUCK_SECONDS = 1.0
"""Seconds without a `take` from a full buffer after which the buffer counts as stuck."""

GROWTH = 8
"""Most credit per measured message. The sizes of measured messages then limit further credit. Each step costs a round
trip."""

_FADING = 0.99
"""Factor that every smaller message applies to the assumed message size."""


class ReceiveBuffer:
    """Buffer that the receivers of a subscription share.

    high, high_bytes: messages and encoded bytes above which the receivers take no more.
    receivers: number of receivers.
    """

    def __init__(self, high: int, high_bytes: int, receivers: int, *, paused: bool = False) -> None:
        self.deliveries: deque[ServiceBusDelivery] = deque()
        self._held: dict[tuple[str, int], ServiceBusDelivery] = {}
        """Deliveries whose messages are locked for this process, by path and sequence number."""
        self.bytes = 0
        """Encoded size of the deliveries."""
        self._unnumbered = 0
        """Number of messages that came without a sequence number."""
        self._high = high
        self._high_bytes = high_bytes
        self._receivers = receivers
        self._size = 0.0
        self._measured = 0
        self._taken = 0.0
        self._changed = asyncio.Event()
        self.paused = paused
        """True while nothing is taken from the buffer, and nothing is to be put in."""

    @property
    def room(self) -> bool:
        """True when the buffer accepts more messages."""
        return not self.paused and len(self.deliveries) < self._high and self.bytes < self._high_bytes

    @property
    def stuck(self) -> bool:
        """True when the buffer is full and nothing is taken from it."""
        return not (self.room or self.paused) and time.monotonic() - self._taken >= STUCK_SECONDS

    def credit(self, most: int) -> int:
        """Number of messages that one receiver may be sent, by the largest recent size; small while few messages have
        come.
        """
        if not self._size:
            return 1
        share = (self._high_bytes - self.bytes) / self._receivers
        return max(1, min(most, int(share / self._size), GROWTH * self._measured))

    def measure(self, length: int) -> None:
        """Record the encoded size of a received message, in bytes."""
        self._size = max(length, self._size * _FADING, 1.0)
        self._measured += 1

    def put(self, deliveries: Sequence[ServiceBusDelivery]) -> None:
        """Add received deliveries."""
        self.deliveries.extend(deliveries)
        self.bytes += sum(each.size for each in deliveries)
        self.notify()

    def drop(self, partition: ServiceBusPartition) -> list[ServiceBusDelivery]:
        """Remove the buffered deliveries of a partition, and return them."""
        dropped = [each for each in self.deliveries if each.partition is partition]
        if dropped:
            self.deliveries = deque(each for each in self.deliveries if each.partition is not partition)
            self.bytes = sum(each.size for each in self.deliveries)
        return dropped

    def pause(self) -> None:
        """Hand out nothing, and accept no more messages."""
        self.paused = True

    def resume(self) -> None:
        """End the pause."""
        self.paused = False
        self.notify()

    def notify(self) -> None:
        """Wake `wait` because deliveries came or the state of a receiver changed."""
        self._changed.set()

    async def wait(self) -> None:
        """Wait until `notify` is called."""
        self._changed.clear()
        await self._changed.wait()

    def hold(self, delivery: ServiceBusDelivery) -> ServiceBusDelivery | None:
        """Register a delivery as locked.

        An earlier delivery of the same message has lost its lock; it is marked so and returned.
        """
        key = delivery.position.topic, delivery.position.offset
        before = self._held.get(key)
        self._held[key] = delivery
        if before is not None:
            before.mark_lock_lost()
        return before

    def forget(self, delivery: ServiceBusDelivery) -> None:
        """Remove a delivery that is settled, given back or lost."""
        key = delivery.position.topic, delivery.position.offset
        if self._held.get(key) is delivery:
            del self._held[key]

    def last_held(self, path: str) -> int:
        """Highest sequence number of the messages of an entity that are locked for this process; 0 without one."""
        return max((number for held_path, number in self._held if held_path == path), default=0)

    def held(self) -> Collection[ServiceBusDelivery]:
        """Deliveries whose messages are locked for this process."""
        return self._held.values()

    def substitute_number(self) -> int:
        """Number for a message that came without a sequence number: another one for each such message."""
        self._unnumbered += 1
        return -self._unnumbered

    def take(self, limit: int) -> list[ServiceBusDelivery]:
        """Take at most `limit` deliveries, without those of revoked sessions.

        Deliveries whose own lock has expired meanwhile are included, since the caller counts their loss.
        """
        taken: list[ServiceBusDelivery] = []
        self._taken = time.monotonic()
        while self.deliveries and not self.paused and len(taken) < limit:
            delivery = self.deliveries.popleft()
            self.bytes -= delivery.size
            if not delivery.partition.revoked:
                taken.append(delivery)
        return taken
