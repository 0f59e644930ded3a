"""Time in whole microseconds since 1970 UTC, as the file keeps it; what clients send as times is read here alone."""

from __future__ import annotations

import time

from bridge.engines.embedded.wire import Duration, Timestamp

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


def due(moment: Timestamp) -> int:
    """The first microsecond that is not before the moment."""
    nanos = int(moment.nanos)
    return micros(moment) + (1 if 0 < nanos < 1_000_000_000 and nanos % 1000 else 0)


def seconds(span: Duration) -> float:
    """Any span has a length, also one that neither timedelta nor protobuf's own 10000 years can hold."""
    return int(span.seconds) + int(span.nanos) / 1_000_000_000
