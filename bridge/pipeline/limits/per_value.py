"""Limits per value of `limits.per`: one sender leaves capacity for the others.

A bounded number of values has an account each, all others share one. A delivery beyond the limit of its value keeps its
place in its lane, which preserves order per key, and waits there until earlier deliveries of its value have left. No
delivery waits for a later one: no cycle of waits can arise, neither here nor together with lanes and ordering domains.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from bridge.config.model.sources import LimitsConfig, SourcePerConfig
from bridge.pipeline.in_flight_delivery import InFlightDelivery
from bridge.routing.per import SHARED

KEEP = 60.0
"""Seconds that an unused account keeps its place.

A flood of new values does not displace earlier values that send at least once in this time.
"""

_MOST_CHECKED = 16
"""Accounts that one new value checks for a free place: a constant cost, however many are in use."""


_SHARE = 10
"""Part of a source's limits that one value may have, unless the configuration gives a number.

One value has at most half of the concurrent commands, which leaves some for others when its commands are slow.
"""


class Account(Protocol):
    """Counts of one value."""

    def idle(self, now: float) -> bool:
        """True when nothing is counted and nothing waits: a new account would be equal."""
        ...


A = TypeVar("A", bound=Account)


class ValueAccounts(Generic[A]):
    """Accounts of values, at most `most`, made on first use. Values are digests, never text of messages."""

    def __init__(self, most: int, make: Callable[[], A]) -> None:
        self.most = most
        self.shared = make()
        """Account of messages without a value, and of values without a place of their own."""
        self.overflows = 0
        """Number of times that a value got the shared account for lack of a place."""
        self._make = make
        self._own: dict[str, tuple[A, float]] = {}
        """Own accounts with the time of their last use in monotonic seconds, least recently used first."""

    def __len__(self) -> int:
        """Number of values with an account of their own."""
        return len(self._own)

    def of(self, value: str, now: float) -> A:
        """Account of a value. now: monotonic seconds. An account in use is never replaced."""
        if value == SHARED:
            return self.shared
        known = self._own.pop(value, None)
        if known is None and len(self._own) >= self.most and not self._make_room(now):
            self.overflows += 1
            return self.shared
        account = self._make() if known is None else known[0]
        self._own[value] = account, now
        return account

    def _make_room(self, now: float) -> bool:
        """Remove the first idle account of the least recently used ones; those in use become recent."""
        for _ in range(min(_MOST_CHECKED, len(self._own))):
            value, (account, used_at) = next(iter(self._own.items()))
            if used_at + KEEP > now:
                return False  # all later ones are as recent
            del self._own[value]
            if account.idle(now):
                return True
            self._own[value] = account, now
        return False


class ValueShare:
    """Deliveries of one value: number and bytes of those in work, and the waiting ones, oldest first."""

    __slots__ = ("records", "size", "waiting")

    def __init__(self) -> None:
        self.records = 0
        self.size = 0
        self.waiting: dict[InFlightDelivery, Callable[[], None] | None] = {}

    def begin(self, item: InFlightDelivery) -> None:
        """Count a delivery as in work."""
        self.records += 1
        self.size += item.size

    def end(self, item: InFlightDelivery) -> None:
        """Remove a delivery that was in work."""
        self.records -= 1
        self.size -= item.size

    def idle(self, now: float) -> bool:
        """True when nothing is counted and nothing waits; see `Account.idle`."""
        return not self.records and not self.waiting


class ValueShares:
    """Shares of one source. Not thread-safe: one event loop.

    A delivery joins when it is received, may go when its share has capacity, and leaves when it is settled or
    abandoned.
    records, size: number and bytes of all waiting deliveries.
    """

    def __init__(self, limits: LimitsConfig, per: SourcePerConfig) -> None:
        """Create the shares. per: limits per value; those that it leaves out follow from the limits of the source."""
        self._limits = per
        self._max_in_flight = per.max_in_flight or max(1, min(limits.max_in_flight // _SHARE, limits.concurrency // 2))
        self._max_bytes = per.max_in_flight_bytes or max(1, limits.max_in_flight_bytes // _SHARE)
        self.values = ValueAccounts(per.max_values, ValueShare)
        self.records = 0
        self.size = 0
        self._share_of: dict[InFlightDelivery, ValueShare] = {}

    @property
    def crowded(self) -> bool:
        """True when half of the waiting capacity is used: reading of the source will soon stop."""
        return 2 * self.records >= self._limits.max_waiting or 2 * self.size >= self._limits.max_waiting_bytes

    def join(self, value: str, item: InFlightDelivery) -> None:
        """Count the item for its value."""
        share = self._share_of[item] = self.values.of(value, time.monotonic())
        if not share.waiting and self._fits(share, item):
            share.begin(item)
        else:
            share.waiting[item] = None
            self.records += 1
            self.size += item.size

    def may_go(self, item: InFlightDelivery) -> bool:
        """True when the item is counted in its share and need not wait."""
        share = self._share_of.get(item)
        return share is None or item not in share.waiting

    def wait(self, item: InFlightDelivery, wake: Callable[[], None]) -> None:
        """Call `wake` when the item may go."""
        self._share_of[item].waiting[item] = wake

    def leave(self, item: InFlightDelivery) -> None:
        """Remove an item that is done, and let the next of its value go."""
        share = self._share_of.pop(item, None)
        if share is None:
            return
        if item in share.waiting:
            del share.waiting[item]
            self.records -= 1
            self.size -= item.size
        else:
            share.end(item)
        while share.waiting:
            following, wake = next(iter(share.waiting.items()))
            if not self._fits(share, following):
                break
            del share.waiting[following]
            self.records -= 1
            self.size -= following.size
            share.begin(following)
            if wake is not None:
                wake()

    def _fits(self, share: ValueShare, item: InFlightDelivery) -> bool:
        """True when the share has capacity. A single delivery fits however large it is."""
        return not share.records or (share.records < self._max_in_flight and share.size + item.size <= self._max_bytes)
