"""Limits on the deliveries in flight of each value of `limits.per`: one sender leaves capacity for the others.

A delivery beyond the limit keeps its place in its lane, which preserves order per key, and waits there until earlier
deliveries of its value have left. No delivery waits for a later one: no cycle of waits can arise, neither here nor
together with lanes and ordering domains.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from bridge.pipeline.in_flight_delivery import InFlightDelivery
from bridge.pipeline.values import Values


@dataclass(frozen=True, slots=True)
class PerValue:
    """Limits of a source per value; see SourcePerConfig."""

    max_in_flight: int
    max_in_flight_bytes: int
    max_waiting: int
    max_waiting_bytes: int
    max_values: int


class Share:
    """Deliveries of one value: number and bytes of those in work, and the waiting ones, oldest first."""

    __slots__ = ("records", "size", "used_at", "waiting")

    def __init__(self) -> None:
        self.records = 0
        self.size = 0
        self.waiting: dict[InFlightDelivery, Callable[[], None] | None] = {}
        self.used_at = 0.0

    def idle(self, now: float) -> bool:
        """True when nothing is counted and nothing waits; see `Account.idle`."""
        return not self.records and not self.waiting


class Shares:
    """Shares of one source. Not thread-safe: one event loop.

    A delivery joins when it is received, may go when its share has capacity, and leaves when it is settled or
    abandoned.
    records, size: number and bytes of all waiting deliveries.
    """

    def __init__(self, bounds: PerValue) -> None:
        self.bounds = bounds
        self.values = Values(bounds.max_values, Share)
        self.records = 0
        self.size = 0

    @property
    def crowded(self) -> bool:
        """True when half of the waiting capacity is used: reading of the source will soon stop."""
        return 2 * self.records >= self.bounds.max_waiting or 2 * self.size >= self.bounds.max_waiting_bytes

    def join(self, value: str, item: InFlightDelivery) -> None:
        """Count the item for its value."""
        share = item.share = self.values.of(value, time.monotonic())
        if not share.waiting and self._fits(share, item):
            share.records += 1
            share.size += item.size
        else:
            share.waiting[item] = None
            self.records += 1
            self.size += item.size

    def may_go(self, item: InFlightDelivery) -> bool:
        """True when the item is counted in its share and need not wait."""
        return item.share is None or item not in item.share.waiting

    def wait(self, item: InFlightDelivery, wake: Callable[[], None]) -> None:
        """Call `wake` when the item may go."""
        assert item.share is not None
        item.share.waiting[item] = wake

    def leave(self, item: InFlightDelivery) -> None:
        """Remove an item that is done, and let the next of its value go."""
        share = item.share
        if share is None:
            return
        item.share = None
        if item in share.waiting:
            del share.waiting[item]
            self.records -= 1
            self.size -= item.size
        else:
            share.records -= 1
            share.size -= item.size
        while share.waiting:
            following, wake = next(iter(share.waiting.items()))
            if not self._fits(share, following):
                break
            del share.waiting[following]
            self.records -= 1
            self.size -= following.size
            share.records += 1
            share.size += following.size
            if wake is not None:
                wake()

    def _fits(self, share: Share, item: InFlightDelivery) -> bool:
        """True when the share has capacity. A single delivery fits however large it is."""
        bounds = self.bounds
        return not share.records or (
            share.records < bounds.max_in_flight and share.size + item.size <= bounds.max_in_flight_bytes
        )
