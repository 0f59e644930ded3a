"""The wall clock, watched: its steps are noticed, and time that ran ahead can be told from time that has passed."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter

logger = logging.getLogger(__name__)

JUMP = 500_000
"""Microseconds from which on a step of the wall clock is logged and counted."""

TRUSTED = 60_000_000
"""Microseconds that the wall clock may run ahead before nothing irreversible is done by it."""

_SLEW = 1000
"""The wall clock may be slewed by one part in so many without having run ahead."""

_BOOT: int | None = getattr(time, "CLOCK_BOOTTIME", None)
"""A monotonic clock that goes on while the machine sleeps, where there is one."""


class Clock:
    """The wall clock beside the monotonic one. Used from any thread.

    A step back ends what the clock had run ahead. One that stays ahead is believed by the next process.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._at = self.steady()
        self._difference = self.wall() - self._at
        self._ahead = 0
        self.jumps: Counter[str] = Counter()
        """Steps of the wall clock, by direction: `forward`, `backward`."""

    def wall(self) -> int:
        """Microseconds since 1970 UTC, as the system has it."""
        return time.time_ns() // 1000

    def steady(self) -> int:
        """Microseconds that nobody sets."""
        return (time.monotonic_ns() if _BOOT is None else time.clock_gettime_ns(_BOOT)) // 1000

    def now(self) -> int:
        """The wall clock's time; its steps are noticed here."""
        with self._lock:
            wall, at = self.wall(), self.steady()
            step = wall - at - self._difference
            slewed = (at - self._at) // _SLEW
            self._difference, self._at = wall - at, at
            self._ahead = max(0, self._ahead + step - max(-slewed, min(slewed, step)))
            if abs(step) < JUMP:
                return wall
            direction = "forward" if step > 0 else "backward"
            self.jumps[direction] += 1
        logger.warning("The wall clock stepped %s by %.1f s", direction, abs(step) / 1_000_000)
        return wall

    def counted(self) -> dict[str, int]:
        """The steps up to now, by direction."""
        self.now()
        return {"forward": 0, "backward": 0, **self.jumps}

    def ahead(self) -> int:
        """Microseconds that the wall clock has run ahead of the time that has passed; 0 up to a minute."""
        self.now()
        return self._ahead if self._ahead > TRUSTED else 0


SYSTEM = Clock()
"""The clock of this process."""


def ahead_seconds() -> float:
    """Seconds that the wall clock has run ahead, of this process's clock."""
    return SYSTEM.ahead() / 1_000_000
