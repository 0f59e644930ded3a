"""Accounts by value of `limits.per`: a bounded number of values has one each, all others share one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from bridge.routing.per import SHARED

KEEP = 60.0
"""Seconds that an unused account keeps its place.

A flood of new values does not displace earlier values that send at least once in this time.
"""

_LOOKS = 16
"""Accounts that one new value checks for a free place: a constant cost, however many are in use."""


class Account(Protocol):
    """Counts of one value."""

    used_at: float
    """Time of the last use, in monotonic seconds."""

    def idle(self, now: float) -> bool:
        """True when nothing is counted and nothing waits: a new account would be equal."""
        ...


A = TypeVar("A", bound=Account)


class Values(Generic[A]):
    """Accounts of at most `most` values, made on first use. Values are digests, never text of messages."""

    def __init__(self, most: int, make: Callable[[], A]) -> None:
        self.most = most
        self.shared = make()
        """Account of messages without a value, and of values without a place of their own."""
        self.overflows = 0
        """Number of times that a value got the shared account for lack of a place."""
        self._make = make
        self._own: dict[str, A] = {}
        """Own accounts, least recently used first."""

    def __len__(self) -> int:
        """Number of values with an account of their own."""
        return len(self._own)

    def of(self, value: str, now: float) -> A:
        """Account of a value. now: monotonic seconds. An account in use is never replaced."""
        if value == SHARED:
            return self.shared
        account = self._own.pop(value, None)
        if account is None:
            if len(self._own) >= self.most and not self._make_room(now):
                self.overflows += 1
                return self.shared
            account = self._make()
        account.used_at = now
        self._own[value] = account
        return account

    def _make_room(self, now: float) -> bool:
        """Remove the first idle account of the least recently used ones; those in use become recent."""
        for _ in range(min(_LOOKS, len(self._own))):
            value, account = next(iter(self._own.items()))
            if account.used_at + KEEP > now:
                return False  # all later ones are as recent
            del self._own[value]
            if account.idle(now):
                return True
            account.used_at = now
            self._own[value] = account
        return False
