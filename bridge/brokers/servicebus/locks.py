"""When locks are renewed, and which have passed. Pure: clocks are passed in."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bridge.brokers.servicebus.delivery import ServiceBusDelivery

UNKNOWN_LOCK = 30.0
"""Seconds of a lock of which the service does not say how long it lasts."""

SOONEST = 0.05
"""Least seconds between two renewals of one lock, however little of it is left."""


def renew_after(remaining: float, took: float) -> float:
    """Seconds after which a lock is renewed that has `remaining` seconds left.

    At half of it, so that a local clock that is behind by less than the lock's length does no harm; sooner where
    renewing everything that was due `took` so long of late that half would not be enough for it twice.
    """
    return max(SOONEST, min(remaining / 2, remaining - 2 * took))


class MessageLocks:
    """Locks of single messages, by when they are due."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, ServiceBusDelivery]] = []
        self._order = count()
        self.took = 0.0
        """Seconds that the slowest of the last renewals took, fading."""

    def add(self, delivery: ServiceBusDelivery, remaining: float, now: float) -> None:
        """Renew the delivery's lock in time, unless it is settled by then. now: monotonic seconds."""
        heapq.heappush(self._due, (now + renew_after(remaining, self.took), next(self._order), delivery))

    def again(self, delivery: ServiceBusDelivery, at: float) -> None:
        """Try once more at `at`: the renewal met an outage."""
        heapq.heappush(self._due, (at, next(self._order), delivery))

    def renew_all_now(self, at: float) -> None:
        """Everything is due at `at`, or sooner: the times were wrong."""
        self._due = [(min(due, at), order, delivery) for due, order, delivery in self._due]
        heapq.heapify(self._due)

    @property
    def next_due(self) -> float | None:
        """Monotonic seconds of the next renewal."""
        due = self._due
        while due and due[0][2].over:
            heapq.heappop(due)
        return due[0][0] if due else None

    def due(self, now: float, limit: int) -> list[ServiceBusDelivery]:
        """Take out those that are due, at most `limit`."""
        found: list[ServiceBusDelivery] = []
        while len(found) < limit and (at := self.next_due) is not None and at <= now:
            found.append(heapq.heappop(self._due)[2])
        return found

    def renewed(self, seconds: float) -> None:
        """Note how long renewing a batch took."""
        self.took = max(seconds, self.took * 0.9)

    def __iter__(self) -> Iterator[ServiceBusDelivery]:
        """Everything that is not settled."""
        return (delivery for _, _, delivery in self._due if not delivery.over)

    def clear(self) -> None:
        """Forget everything."""
        self._due.clear()
