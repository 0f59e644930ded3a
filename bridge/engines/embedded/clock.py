"""Time in whole microseconds since 1970 UTC, as the file keeps it."""

from __future__ import annotations

import time

from bridge.engines.embedded.wire import Timestamp


def now() -> int:
    return time.time_ns() // 1000


def timestamp(micros: int) -> Timestamp:
    seconds, rest = divmod(micros, 1_000_000)
    return Timestamp(seconds=seconds, nanos=rest * 1000)


def micros(moment: Timestamp) -> int:
    return int(moment.seconds) * 1_000_000 + int(moment.nanos) // 1000
