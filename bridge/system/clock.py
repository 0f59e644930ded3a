"""Wall clock with detection of steps: separates time that ran ahead from time that has passed. Text of a time."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from datetime import UTC, datetime

logger = logging.getLogger(__name__)

JUMP = 500_000
"""Least step of the wall clock, in microseconds, that is logged and counted."""

TRUSTED = 60_000_000
"""Microseconds that the wall clock may run ahead before irreversible actions by it are withheld."""

_SLEW = 1000
"""Divisor of the slew rate that does not count as running ahead: one part in this number."""

_BOOT: int | None = getattr(time, "CLOCK_BOOTTIME", None)
"""Id of a monotonic clock that includes the sleep of the machine; None where there is none."""


class Clock:
    """Wall clock compared with the monotonic clock. Used from any thread.

    A step back reduces the time that the clock had run ahead. The next process trusts a clock that stays ahead.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._at = self.steady()
        self._difference = self.wall() - self._at
        self._ahead = 0
        self.jumps: Counter[str] = Counter()
        """Steps of the wall clock, by direction: `forward`, `backward`."""

    def wall(self) -> int:
        """System time in microseconds since 1970 UTC."""
        return time.time_ns() // 1000

    def steady(self) -> int:
        """Monotonic time in microseconds."""
        return (time.monotonic_ns() if _BOOT is None else time.clock_gettime_ns(_BOOT)) // 1000

    def now(self) -> int:
        """Time of the wall clock. Detects steps."""
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
        """Number of steps so far, by direction."""
        self.now()
        return {"forward": 0, "backward": 0, **self.jumps}

    def ahead(self) -> int:
        """Microseconds that the wall clock has run ahead of the time that has passed; 0 up to a minute."""
        self.now()
        return self._ahead if self._ahead > TRUSTED else 0


SYSTEM = Clock()
"""Clock of this process."""


def ahead_seconds() -> float:
    """Seconds that this process's wall clock has run ahead."""
    return SYSTEM.ahead() / 1_000_000


def time_of(seconds: float) -> str:
    """Seconds since the Unix epoch as RFC 3339 in UTC. Raises: OverflowError, ValueError for a time without a date."""
    return stamp(datetime.fromtimestamp(seconds, UTC))


def stamp(moment: datetime) -> str:
    """Format a time as RFC 3339 in UTC. The SDK's naive times are UTC."""
    aware = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return aware.isoformat(timespec="milliseconds").replace("+00:00", "Z")
