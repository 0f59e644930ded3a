"""What receivers have taken and nobody has asked for yet."""

from __future__ import annotations

import asyncio
from collections import deque

from bridge.brokers.servicebus.delivery import ServiceBusDelivery


class Inbox:
    """Shared by the receivers of a subscription. high: deliveries above which they take no more."""

    def __init__(self, high: int) -> None:
        self.deliveries: deque[ServiceBusDelivery] = deque()
        self.held: dict[tuple[str, int], ServiceBusDelivery] = {}
        """What is locked for us, by path and sequence number."""
        self._high = high
        self._changed = asyncio.Event()

    @property
    def room(self) -> bool:
        """Whether more is wanted."""
        return len(self.deliveries) < self._high

    def tell(self) -> None:
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
            before.lose()
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
        while self.deliveries and len(taken) < limit:
            delivery = self.deliveries.popleft()
            if not delivery.partition.revoked:
                taken.append(delivery)
        return taken
