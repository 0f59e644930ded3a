"""Time in whole microseconds since 1970 UTC, as the file stores it, and conversion of times that clients send."""

from __future__ import annotations

import time

from bridge.sqlite_engine.model.wire import Duration, Timestamp

_FIRST_SECOND = -62_135_596_800
_LAST_SECOND = 253_402_300_799


def now() -> int:
    return time.time_ns() // 1000


def timestamp(micros: int) -> Timestamp:
    seconds, rest = divmod(micros, 1_000_000)
    return Timestamp(seconds=seconds, nanos=rest * 1000)


def micros(moment: Timestamp) -> int:
    """Convert a protobuf timestamp to microseconds.

    Times outside the years 1 to 9999, which only broken clients send, become the nearest limit.
    """
    seconds = min(_LAST_SECOND, max(_FIRST_SECOND, int(moment.seconds)))
    return seconds * 1_000_000 + min(999_999, max(0, int(moment.nanos) // 1000))


def due(moment: Timestamp) -> int:
    """First microsecond that is not before the moment."""
    nanos = int(moment.nanos)
    return micros(moment) + (1 if 0 < nanos < 1_000_000_000 and nanos % 1000 else 0)


def seconds(span: Duration) -> float:
    """Length in seconds of any span, including spans beyond the range of timedelta and of protobuf's 10000 years."""
    return int(span.seconds) + int(span.nanos) / 1_000_000_000
