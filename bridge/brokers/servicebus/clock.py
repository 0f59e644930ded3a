"""Whether the local clock can be trusted with locks. The clock is read here and nowhere else to judge it."""

from __future__ import annotations

import time

from bridge.brokers.servicebus.locks import SOONEST

BLOCKED = 3.0
"""Seconds without a tick after which the event loop was blocked: what comes in then may have waited for long."""

STEP = 0.5
"""Seconds by which the clock must be set to be worth another try."""

AGAIN_SECONDS = 300.0
"""After this time it is tried again all the same: the other clock may have been wrong."""


class Clock:
    """A fresh message whose lock has passed by our clock means that our clock is ahead: no lock could ever be held."""

    def __init__(self) -> None:
        self.skew = 0.0
        """Seconds by which the local clock is ahead at least; 0 while nothing speaks against it."""
        self._offset = 0.0
        self._since = 0.0
        self._ticked = time.monotonic()
        self._blocked = 0.0

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

    def forgive(self) -> bool:
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
