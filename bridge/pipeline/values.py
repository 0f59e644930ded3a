"""Accounts by value of `limits.per`: a bounded number of values has one each, all others share one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from bridge.routing.per import SHARED

KEEP = 60.0
"""Seconds that an unused account keeps its place. A flood of new values does not take the places of those who were
there before and send at least once in this time."""

_LOOKS = 16
"""Accounts that one newcomer looks at for a place, so that its cost stays the same however many are in use."""


class Account(Protocol):
    """What is counted for one value."""

    used_at: float
    """Monotonic seconds of the last use."""

    def idle(self, now: float) -> bool:
        """True when a new account would be the same: nothing is counted, nothing waits."""
        ...


A = TypeVar("A", bound=Account)


class Values(Generic[A]):
    """Accounts of at most `most` values, made when first asked for. Values are digests, never text of messages."""

    def __init__(self, most: int, make: Callable[[], A]) -> None:
        self.most = most
        self.shared = make()
        """Account of messages without a value, and of values for which there was no place."""
        self.overflows = 0
        """Times that a value got the shared account since there was no place for one of its own."""
        self._make = make
        self._own: dict[str, A] = {}
        """Least recently used first."""

    def __len__(self) -> int:
        """Values with an account of their own."""
        return len(self._own)

    def of(self, value: str, now: float) -> A:
        """The account of a value at a time (monotonic seconds). An account in use is never replaced by a new one."""
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
        """Forget the first of the least recently used accounts that is idle; those in use become recent."""
        for _ in range(min(_LOOKS, len(self._own))):
            value, account = next(iter(self._own.items()))
            if account.used_at + KEEP > now:
                return False  # so are all after it
            del self._own[value]
            if account.idle(now):
                return True
            account.used_at = now
            self._own[value] = account
        return False
