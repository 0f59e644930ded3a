"""Time in whole microseconds since 1970 UTC, as the file keeps it."""

from __future__ import annotations

import time

from bridge.engines.embedded.wire import Timestamp

_FIRST_SECOND = -62_135_596_800
_LAST_SECOND = 253_402_300_799


def now() -> int:
    return time.time_ns() // 1000


def timestamp(micros: int) -> Timestamp:
    seconds, rest = divmod(micros, 1_000_000)
    return Timestamp(seconds=seconds, nanos=rest * 1000)


def micros(moment: Timestamp) -> int:
    """Times outside of the years 1 to 9999, which only a broken client sends, count as the nearest inside."""
    seconds = min(_LAST_SECOND, max(_FIRST_SECOND, int(moment.seconds)))
    return seconds * 1_000_000 + min(999_999, max(0, int(moment.nanos) // 1000))
