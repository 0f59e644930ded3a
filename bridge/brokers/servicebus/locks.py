"""Locks of the messages of one receiver, and their renewal."""

from __future__ import annotations

import asyncio
import heapq
import logging
import time
from collections.abc import Container, Iterator
from itertools import count

from azure.servicebus import ServiceBusReceivedMessage

from bridge.brokers.servicebus import sdk_internals
from bridge.brokers.servicebus.amqp import decoding
from bridge.brokers.servicebus.clock import ClockSkewDetector, renew_after
from bridge.brokers.servicebus.connection import SDK_ERRORS, ReceiverLink
from bridge.brokers.servicebus.delivery import ServiceBusDelivery
from bridge.brokers.servicebus.faults import Refused, busy, refused, refuses_message
from bridge.core.errors import BrokerError, LockLost

_log = logging.getLogger(__name__)

BATCH = 100
"""Number of locks renewed in one request."""

AGAIN_SECONDS = 0.5
"""Seconds until a failed renewal is tried again, on the next receiver."""


class RenewalQueue:
    """Deliveries ordered by the renewal time of their locks. Pure: the caller passes the time."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, ServiceBusDelivery]] = []
        self._order = count()
        self._took = 0.0
        """Duration in seconds of the slowest recent renewal, decaying."""

    def add(self, delivery: ServiceBusDelivery, remaining: float, now: float) -> None:
        """Schedule the renewal of the delivery's lock, unless it is settled by then.

        remaining: seconds left of the lock.
        now: monotonic seconds.
        """
        heapq.heappush(self._due, (now + renew_after(remaining, self._took), next(self._order), delivery))

    def reschedule(self, delivery: ServiceBusDelivery, at: float) -> None:
        """Schedule another attempt at `at` (monotonic seconds) after an outage."""
        heapq.heappush(self._due, (at, next(self._order), delivery))

    def renew_all_now(self, at: float) -> None:
        """Make all renewals due at `at` (monotonic seconds) or earlier, since the lock times were wrong."""
        self._due = [(min(due, at), order, delivery) for due, order, delivery in self._due]
        heapq.heapify(self._due)

    def renew_one_now(self, at: float, but: Container[ServiceBusDelivery]) -> bool:
        """Make the renewal of one lock, which is not in `but`, due at `at` (monotonic seconds). False without one."""
        for index, (_, order, delivery) in enumerate(self._due):
            if not delivery.over and delivery not in but:
                self._due[index] = (at, order, delivery)
                heapq.heapify(self._due)
                return True
        return False

    @property
    def next_due(self) -> float | None:
        """Monotonic time of the next renewal in seconds; None without locks."""
        due = self._due
        while due and due[0][2].over:
            heapq.heappop(due)
        return due[0][0] if due else None

    def due(self, now: float, limit: int) -> list[ServiceBusDelivery]:
        """Remove and return deliveries whose renewal is due, at most `limit`."""
        found: list[ServiceBusDelivery] = []
        while len(found) < limit and (at := self.next_due) is not None and at <= now:
            found.append(heapq.heappop(self._due)[2])
        return found

    def renewed(self, seconds: float) -> None:
        """Record the duration of renewing a batch, in seconds."""
        self._took = max(seconds, self._took * 0.9)

    def __iter__(self) -> Iterator[ServiceBusDelivery]:
        """Deliveries that are not settled."""
        return (delivery for _, _, delivery in self._due if not delivery.over)

    def clear(self) -> None:
        """Remove all locks."""
        self._due.clear()


class MessageLocks:
    """Renewal of the locks of one receiver's messages. An error that breaks the connection is recorded in its link."""

    def __init__(self, clock: ClockSkewDetector) -> None:
        self.renewals = 0
        """Number of locks renewed so far."""
        self._clock = clock
        self._queue = RenewalQueue()
        self._nameless: list[ServiceBusDelivery] = []
        """Deliveries whose locks have no token: such a lock cannot be renewed and ends with its link."""
        self._expired: list[ServiceBusReceivedMessage] = []
        """Unsettled messages whose locks had expired on arrival by the local clock."""
        self._batch = BATCH
        self._full = 0
        """Full batches renewed since the batch size last changed."""
        self._grow_after = 1
        """Full batches until the batch size grows: doubled by each refusal, halved by each growth."""
        self._suspects: dict[ServiceBusDelivery, int] = {}
        """Deliveries whose renewal the service refused, each with the number of renewals at its first refusal."""
        self._refused: list[tuple[ServiceBusDelivery, BrokerError, bool]] = []
        """Locks that were refused one by one, each with its error and whether the condition is permanent."""

    @property
    def next_due(self) -> float | None:
        """Monotonic time at which `renew` is due next, in seconds; None when no lock is to be renewed."""
        return self._queue.next_due

    def admit(self, delivery: ServiceBusDelivery, before: ServiceBusDelivery | None, now: float, wall: float) -> None:
        """Keep the lock of a received message from now on. A lock that has already expired is marked as lost.

        before: earlier delivery of the same message.
        now: monotonic seconds.
        wall: seconds since the epoch.
        """
        if before is not None and self._clock.lost(before.remaining(wall)):
            self._queue.renew_all_now(now)
        remaining = delivery.remaining(wall)
        self._clock.received(delivery.message.timestamp, remaining, wall)
        if not decoding.has_token(sdk_internals.delivery_tag(delivery.raw), sdk_internals.received(delivery.raw)):
            self._nameless.append(delivery)
        elif remaining > 0:
            self._queue.add(delivery, self._clock.usable(remaining), now)
        else:
            self._clock.expired(-remaining)
            delivery.mark_lock_lost()
            self._expired.append(delivery.raw)

    def trust_clock(self) -> None:
        """Forget messages whose locks seemed to have expired: the clock is right, and they have."""
        self._expired.clear()

    async def close(self, link: ReceiverLink, *, final: bool) -> None:
        """Give back the messages that end with the link. final: all messages end, because nothing follows."""
        if final:
            for delivery in list(self._queue):
                await sdk_internals.release(link.sdk, delivery.raw)
                delivery.finish()
            self._queue.clear()
        nameless, self._nameless = self._nameless, []
        for delivery in nameless:
            delivery.mark_lock_lost()
        expired, self._expired = self._expired, []
        if self._clock.skew:
            for raw in expired:
                await sdk_internals.release(link.sdk, raw)

    async def renew(self, link: ReceiverLink) -> None:
        """Renew all due locks, as long as the connection holds."""
        now = time.monotonic()
        while due := self._queue.due(now, self._batch):
            # A lock that was refused would cause the refusal of the others
            alone = [delivery for delivery in due if delivery in self._suspects]
            if together := [delivery for delivery in due if delivery not in self._suspects]:
                await self._renew(link, together)
            for delivery in alone:
                await self._renew(link, [delivery])
            self._judge(link)
            self._queue.renewed(time.monotonic() - now)
            if link.broken is not None:
                return
            now = time.monotonic()

    async def _renew(self, link: ReceiverLink, deliveries: list[ServiceBusDelivery]) -> None:
        """Renew locks in one request. After a lost lock or a refusal, halves are tried, down to single locks."""
        if link.broken is not None:
            self._later(deliveries)
            return
        try:
            async with asyncio.timeout(link.timeout):
                ends = await sdk_internals.renew(link.sdk, [delivery.raw for delivery in deliveries], link.timeout)
        except SDK_ERRORS as error:
            await self._unrenewed(link, deliveries, error)
        else:
            self.renewals += len(deliveries)
            self._grow(len(deliveries))
            now, wall = time.monotonic(), time.time()
            for delivery, end in zip(deliveries, ends, strict=True):
                self._suspects.pop(delivery, None)
                self._queue.add(delivery, self._clock.usable(end - wall), now)

    async def _unrenewed(self, link: ReceiverLink, deliveries: list[ServiceBusDelivery], error: BaseException) -> None:
        found = link.translate(error, "renew locks of")
        half = len(deliveries) // 2
        if isinstance(found, LockLost):
            if half:
                await self._renew(link, deliveries[:half])
                await self._renew(link, deliveries[half:])
                return
            # No sign of clock skew after a settlement: the settlement may be done, and its answer lost
            lost = deliveries[0]
            if not lost.over and self._clock.lost(lost.remaining(time.time())):
                self._queue.renew_all_now(time.monotonic())
            lost.mark_lock_lost()
            return
        if busy(error):
            _log.debug("%s", found)
        else:
            # The service may refuse their number, or need too long for it
            self._batch, self._full = max(1, half), 0
            self._grow_after = min(BATCH, 2 * self._grow_after)
            if refused(error) and half:
                await self._renew(link, deliveries[:half])
                await self._renew(link, deliveries[half:])
                return
            if refused(error) and not isinstance(found, Refused):
                self._suspects.setdefault(deliveries[0], self.renewals)
                self._refused.append((deliveries[0], found, refuses_message(error)))
                return
            link.break_off(found)
        self._later(deliveries)

    def _grow(self, renewed: int) -> None:
        """Let the batch size grow by one. After repeated refusals growth is rare: every refusal costs two requests."""
        if renewed < self._batch:
            return
        self._full += 1
        if self._full >= self._grow_after:
            self._batch, self._full = min(BATCH, self._batch + 1), 0
            self._grow_after = max(1, self._grow_after // 2)

    def _later(self, deliveries: list[ServiceBusDelivery]) -> None:
        at = time.monotonic() + AGAIN_SECONDS
        for delivery in deliveries:
            self._queue.reschedule(delivery, at)

    def _judge(self, link: ReceiverLink) -> None:
        """Distinguish refusals of single locks from an outage: by their condition, or by other locks renewed since.

        Before a single refusal counts as an outage, one other lock is renewed, if there is one.
        """
        refused, self._refused = self._refused, []
        now = time.monotonic()
        for delivery, found, for_good in refused:
            if for_good or self.renewals > self._suspects[delivery]:
                self._batch, self._grow_after = BATCH, 1  # their number was not the cause
                self._leave(delivery, found)
            elif len(self._suspects) == 1 and self._queue.renew_one_now(now, self._suspects):
                self._queue.reschedule(delivery, now)
            else:
                link.break_off(found)
                self._later([delivery])
        if self._suspects:
            self._suspects = {delivery: before for delivery, before in self._suspects.items() if not delivery.over}

    def _leave(self, delivery: ServiceBusDelivery, found: BrokerError) -> None:
        """Ask again, fewer than ten times, until the lock has expired; then the message comes again."""
        remaining = delivery.remaining(time.time())
        if remaining > 0:
            _log.debug("%s: %s", delivery.position, found)
            self._queue.reschedule(delivery, time.monotonic() + max(AGAIN_SECONDS, remaining / 2))
            return
        _log.error(
            "%s: the service refused to renew the lock of this message: %s. It delivers the message again",
            delivery.position, found,
        )  # fmt: skip
        delivery.mark_lock_lost()
