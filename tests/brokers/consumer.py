"""Consumer helpers of the broker suites."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from bridge.brokers.base import Broker, Delivery, Partition, SubscribeOptions, Subscription
from bridge.core.message import Message
from bridge.core.provenance import Cause
from tests.kit.waiting import TIMEOUT

CAUSE = Cause("no_route", "no rule matched", "NoRoute", source="orders", attempts=2, config="abc", message_id="m-1")

ORDERS = SubscribeOptions(("orders",), "bridge")
DEAD = SubscribeOptions(("orders.dlq",), "operators")


@dataclass(frozen=True)
class Capabilities:
    """Differences between brokers that the suites take into account; the defaults are those of a log.

    commits: settlement is a contiguous prefix (otherwise each message is settled alone).
    bytes_keys: a key may be any bytes (otherwise text).
    repeated_headers: a header name may occur more than once.
    timestamps: a publisher may set the time.
    ordered: an abandoned message comes again in its old place.
    max_message: size of the largest message in bytes.
    """

    commits: bool = True
    bytes_keys: bool = True
    repeated_headers: bool = True
    timestamps: bool = True
    ordered: bool = True
    max_message: int = 4 * 1024 * 1024


class Harness(Protocol):
    """Log (cluster, namespace) for one test, and clients of it."""

    @property
    def capabilities(self) -> Capabilities: ...

    async def broker(self) -> Broker:
        """Start another client, stopped at the end of the test.

        The client commits only on flush, revocation or close.
        """
        ...

    async def crash(self) -> None:
        """End all clients as a power failure would; new clients find only durable state."""
        ...

    async def create_topic(self, name: str, partitions: int) -> None: ...


@dataclass
class Assignments:
    """Listener that records assignments and calls `on_revoked` before a revocation."""

    assigned_now: list[Partition] = field(default_factory=list)
    revoked_ever: list[Partition] = field(default_factory=list)
    on_revoked: Callable[[Sequence[Partition]], Awaitable[None]] | None = None
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def assigned(self, partitions: Sequence[Partition]) -> None:
        async with self.changed:
            self.assigned_now += partitions
            self.changed.notify_all()

    async def revoked(self, partitions: Sequence[Partition]) -> None:
        if self.on_revoked is not None:
            await self.on_revoked(partitions)
        async with self.changed:
            for partition in partitions:
                self.assigned_now.remove(partition)
                self.revoked_ever.append(partition)
            self.changed.notify_all()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(TIMEOUT), self.changed:
            await self.changed.wait_for(condition)


async def take(subscription: Subscription, count: int, limit: int = 100) -> list[Delivery]:
    """Receive exactly `count` deliveries."""
    taken: list[Delivery] = []
    async with asyncio.timeout(TIMEOUT):
        while len(taken) < count:
            taken += await subscription.receive(min(limit, count - len(taken)))
    return taken


async def nothing_more(subscription: Subscription, seconds: float = 0.3) -> None:
    """Fail when a delivery arrives within the time."""
    try:
        async with asyncio.timeout(seconds):
            extra = await subscription.receive(10)
    except TimeoutError:
        return
    raise AssertionError(f"unexpected: {[(str(each.position), each.message) for each in extra]}")


def numbered(count: int, start: int = 0, key: bytes | None = None) -> list[Message]:
    """Create messages whose body is their number."""
    return [Message(b"%d" % number, key) for number in range(start, start + count)]


def numbers(deliveries: Sequence[Delivery]) -> list[int]:
    """Return the numbers of deliveries of `numbered` messages."""
    return [int(delivery.message.body or b"-1") for delivery in deliveries]


async def consume(harness: Harness, options: SubscribeOptions = ORDERS) -> Subscription:
    """Subscribe with a new client."""
    return await (await harness.broker()).subscribe(options, Assignments())
