"""Lengths of locks, and trust in the local clock for them. Only this module reads the clock to judge it."""

from __future__ import annotations

import logging
import time

_log = logging.getLogger(__name__)

UNKNOWN_LOCK = 30.0
"""Assumed duration in seconds of a lock whose end the service does not state."""

SOONEST = 0.05
"""Shortest time in seconds between two renewals of one lock."""

BLOCKED = 3.0
"""Seconds without a tick after which the event loop counts as blocked: messages received then may have waited for
long."""

STEP = 0.5
"""Least change of the clock setting, in seconds, that allows another attempt."""

AGAIN_SECONDS = 300.0
"""Seconds after which reading is tried again in any case: the other clock may have been wrong."""

TOLERANCE = 1.0
"""Difference of the clocks in seconds that is not reported."""

LONGEST_LOCK, SHORTEST_LOCK = 300.0, 5.0
"""Longest and shortest lock duration of the service, in seconds."""

CAUTIOUS_SECONDS = 600.0
"""Seconds after the last sign of a slow local clock during which locks count as no longer than the shortest."""


def renew_after(remaining: float, took: float) -> float:
    """Seconds after which a lock with `remaining` seconds left is renewed.

    Renewal is due after half of the time left. A local clock that is behind by less than the lock's length then does no
    harm. Renewal is due earlier where all due renewals recently took `took` seconds, and half would not suffice for
    this twice.
    """
    return max(SOONEST, min(remaining / 2, remaining - 2 * took))


class ClockSkewDetector:
    """Judge of the local clock.

    A fresh message whose lock has expired by the local clock shows that the local clock is ahead: no lock could ever be
    held. With a clock that is behind, locks seem to last too long. Signs of it are a message enqueued in the future, a
    lock longer than the service allows, and a lock that is lost early. Renewals then no longer follow the clock.
    """

    def __init__(self) -> None:
        self.skew = 0.0
        """Least number of seconds by which the local clock is ahead; 0 without a sign of it."""
        self._offset = 0.0
        self._since = 0.0
        self._ticked = time.monotonic()
        self._blocked = 0.0
        self._cautious_until = -1.0

    def tick(self) -> None:
        """Record that the event loop runs. The reading event loop calls this about every second."""
        now = time.monotonic()
        if now - self._ticked > BLOCKED:
            self._blocked = now
        self._ticked = now

    def expired(self, ago: float) -> None:
        """Record a received message whose lock expired `ago` seconds ago by the local clock."""
        self.tick()
        now = time.monotonic()
        if not self._blocked or now - self._blocked > BLOCKED:
            self.skew = max(self.skew, ago, SOONEST)
            self._offset, self._since = time.time() - now, now

    def received(self, enqueued: float | None, remaining: float, wall: float) -> None:
        """Record a received message or session.

        enqueued, wall: seconds since the epoch.
        remaining: apparent seconds left of its lock.
        """
        behind = max(0.0 if enqueued is None else enqueued - wall, remaining - LONGEST_LOCK)
        if behind > TOLERANCE:
            self._report_skew(f"the local clock is behind the service's by {behind:.1f} s and more: correct the clock")

    def lost(self, remaining: float) -> bool:
        """Record the loss of a lock that seemed to last `remaining` more seconds. Returns whether this is a sign of a
        slow clock.
        """
        if remaining <= TOLERANCE:
            return False
        self._report_skew(
            f"a lock was lost {remaining:.1f} s before its end by the local clock, which may be behind the service's"
        )
        return True

    def usable(self, remaining: float) -> float:
        """Reliable seconds of a lock."""
        return min(remaining, SHORTEST_LOCK) if time.monotonic() < self._cautious_until else remaining

    def _report_skew(self, why: str) -> None:
        now = time.monotonic()
        if now >= self._cautious_until:
            _log.warning("%s; locks are renewed every %.1f s for now", why, SHORTEST_LOCK / 2)
        self._cautious_until = now + CAUTIOUS_SECONDS

    def reset_skew(self) -> bool:
        """Return whether reading may be tried (again)."""
        now = time.monotonic()
        if self.skew and (abs(time.time() - now - self._offset) >= STEP or now - self._since >= AGAIN_SECONDS):
            self.skew = 0.0
        return not self.skew

    def __str__(self) -> str:
        return (
            "locks of messages that just came have passed by the local clock, which must be ahead by "
            f"{self.skew:.1f} s and more: set the clock; nothing is read until then"
        )
