"""Whether the local clock can be trusted with locks. The clock is read here and nowhere else to judge it."""

from __future__ import annotations

import logging
import time

from bridge.brokers.servicebus.locks import SOONEST

_log = logging.getLogger(__name__)

BLOCKED = 3.0
"""Seconds without a tick after which the event loop was blocked: what comes in then may have waited for long."""

STEP = 0.5
"""Seconds by which the clock must be set to be worth another try."""

AGAIN_SECONDS = 300.0
"""After this time it is tried again all the same: the other clock may have been wrong."""

TOLERANCE = 1.0
"""Seconds by which clocks may differ without a word."""

LONGEST_LOCK, SHORTEST_LOCK = 300.0, 5.0
"""Seconds: what the service lets locks last."""

CAUTIOUS_SECONDS = 600.0
"""How long no lock is taken to last longer than the shortest, after the last sign that our clock is behind."""


class Clock:
    """A fresh message whose lock has passed by our clock means that our clock is ahead: no lock could ever be held.

    Behind, locks seem to last longer than they do. Signs of that are a message that was enqueued in our future, a lock
    longer than the service has any, and a lock that is lost early; then renewals no longer go by the clock.
    """

    def __init__(self) -> None:
        self.skew = 0.0
        """Seconds by which the local clock is ahead at least; 0 while nothing speaks against it."""
        self._offset = 0.0
        self._since = 0.0
        self._ticked = time.monotonic()
        self._blocked = 0.0
        self._cautious_until = -1.0

    def tick(self) -> None:
        """Called every second or so, by the event loop that reads."""
        now = time.monotonic()
        if now - self._ticked > BLOCKED:
            self._blocked = now
        self._ticked = now

    def expired(self, ago: float) -> None:
        """A message came in whose lock passed `ago` seconds ago by the local clock."""
        self.tick()
        now = time.monotonic()
        if not self._blocked or now - self._blocked > BLOCKED:
            self.skew = max(self.skew, ago, SOONEST)
            self._offset, self._since = time.time() - now, now

    def received(self, enqueued: float | None, remaining: float, wall: float) -> None:
        """A message or session came in. enqueued, wall: seconds since the epoch. remaining: of its lock, it seems."""
        behind = max(0.0 if enqueued is None else enqueued - wall, remaining - LONGEST_LOCK)
        if behind > TOLERANCE:
            self._report_skew(f"the local clock is behind the service's by {behind:.1f} s and more: set it")

    def lost(self, remaining: float) -> bool:
        """A lock was lost that seemed to last for `remaining` seconds more. Returns whether that is a sign."""
        if remaining <= TOLERANCE:
            return False
        self._report_skew(
            f"a lock was lost {remaining:.1f} s before its end by the local clock, which may be behind the service's"
        )
        return True

    def usable(self, remaining: float) -> float:
        """Seconds of a lock that can be counted on."""
        return min(remaining, SHORTEST_LOCK) if time.monotonic() < self._cautious_until else remaining

    def _report_skew(self, why: str) -> None:
        now = time.monotonic()
        if now >= self._cautious_until:
            _log.warning("%s; locks are renewed every %.1f s for now", why, SHORTEST_LOCK / 2)
        self._cautious_until = now + CAUTIOUS_SECONDS

    def reset_skew(self) -> bool:
        """Whether reading may be tried (again)."""
        now = time.monotonic()
        if self.skew and (abs(time.time() - now - self._offset) >= STEP or now - self._since >= AGAIN_SECONDS):
            self.skew = 0.0
        return not self.skew

    def __str__(self) -> str:
        return (
            "locks of messages that just came have passed by the local clock, which must be ahead by "
            f"{self.skew:.1f} s and more: set the clock; nothing is read until then"
        )
