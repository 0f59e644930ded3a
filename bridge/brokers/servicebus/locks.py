"""Renewal times of locks. Pure: the caller passes the time."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bridge.brokers.servicebus.delivery import ServiceBusDelivery

UNKNOWN_LOCK = 30.0
"""Assumed duration in seconds of a lock whose end the service does not state."""

SOONEST = 0.05
"""Shortest time in seconds between two renewals of one lock."""


def renew_after(remaining: float, took: float) -> float:
    """Seconds after which a lock with `remaining` seconds left is renewed.

    Renewal is due after half of the time left. A local clock that is behind by less than the lock's length then does no
    harm. Renewal is due earlier where all due renewals recently took `took` seconds, and half would not suffice for
    this twice.
    """
    return max(SOONEST, min(remaining / 2, remaining - 2 * took))


class MessageLocks:
    """Locks of single messages, ordered by renewal time."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, ServiceBusDelivery]] = []
        self._order = count()
        self.took = 0.0
        """Duration in seconds of the slowest recent renewal, decaying."""

    def add(self, delivery: ServiceBusDelivery, remaining: float, now: float) -> None:
        """Schedule the renewal of the delivery's lock, unless it is settled by then.

        remaining: seconds left of the lock. now: monotonic seconds.
        """
        heapq.heappush(self._due, (now + renew_after(remaining, self.took), next(self._order), delivery))

    def again(self, delivery: ServiceBusDelivery, at: float) -> None:
        """Schedule another attempt at `at` (monotonic seconds) after an outage."""
        heapq.heappush(self._due, (at, next(self._order), delivery))

    def renew_all_now(self, at: float) -> None:
        """Make all renewals due at `at` (monotonic seconds) or earlier, since the lock times were wrong."""
        self._due = [(min(due, at), order, delivery) for due, order, delivery in self._due]
        heapq.heapify(self._due)

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
        self.took = max(seconds, self.took * 0.9)

    def __iter__(self) -> Iterator[ServiceBusDelivery]:
        """Deliveries that are not settled."""
        return (delivery for _, _, delivery in self._due if not delivery.over)

    def clear(self) -> None:
        """Remove all locks."""
        self._due.clear()
