"""Clock of the server, which may be skewed, and timers, which run in real seconds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

_TICKS_AT_EPOCH = 621_355_968_000_000_000
"""Year 1970 in .NET ticks of 100 ns."""


class Clock:
    """Clock of one server. skew: seconds ahead of the machine's clock."""

    def __init__(self, skew: float = 0.0) -> None:
        self.skew = skew

    def now(self) -> int:
        """Return the server's time in milliseconds since 1970."""
        return int((time.time() + self.skew) * 1000)

    def at(self, moment: int, callback: Callable[..., object], *arguments: Any) -> asyncio.TimerHandle:
        """Schedule a callback for when the server's clock, with its present skew, shows `moment` (milliseconds)."""
        delay = max(0.0, moment / 1000 - (time.time() + self.skew))
        return asyncio.get_running_loop().call_later(delay, callback, *arguments)


def is_due(timer: asyncio.TimerHandle) -> bool:
    """Return whether the moment of a timer has come, even if the loop has not run it yet."""
    return timer.when() <= asyncio.get_running_loop().time()


def ticks(moment: int) -> int:
    """Convert milliseconds since 1970 to .NET ticks since the year 1."""
    return _TICKS_AT_EPOCH + moment * 10_000
