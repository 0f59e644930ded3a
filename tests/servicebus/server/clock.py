"""The server's time, which may differ from everybody else's, and its timers, which run in true seconds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

_TICKS_AT_EPOCH = 621_355_968_000_000_000
"""1970 in .NET's ticks of 100 ns."""


class Clock:
    """skew: seconds that this server is ahead of the machine's clock."""

    def __init__(self, skew: float = 0.0) -> None:
        self.skew = skew

    def now(self) -> int:
        """Milliseconds since 1970, as the server sees it."""
        return int((time.time() + self.skew) * 1000)

    def at(self, moment: int, callback: Callable[..., object], *arguments: Any) -> asyncio.TimerHandle:
        """Call when the server's clock, as it goes now, shows `moment` (milliseconds)."""
        delay = max(0.0, moment / 1000 - (time.time() + self.skew))
        return asyncio.get_running_loop().call_later(delay, callback, *arguments)


def is_due(timer: asyncio.TimerHandle) -> bool:
    """True once the timer's moment has come, even if the loop has not called it yet."""
    return timer.when() <= asyncio.get_running_loop().time()


def ticks(moment: int) -> int:
    """Milliseconds since 1970 in .NET's ticks since the year 1."""
    return _TICKS_AT_EPOCH + moment * 10_000
