"""Values of the protocol and of the file: protobuf's well-known types, optional texts, times and new ids.

The file stores times in whole microseconds since 1970 UTC.
"""

from __future__ import annotations

import random

from google.protobuf.duration_pb2 import Duration
from google.protobuf.empty_pb2 import Empty
from google.protobuf.timestamp_pb2 import Timestamp
from google.protobuf.wrappers_pb2 import BoolValue, StringValue

__all__ = ["BoolValue", "Duration", "Empty", "StringValue", "Timestamp"]

_FIRST_SECOND = -62_135_596_800
_LAST_SECOND = 253_402_300_799
_random = random.Random()  # noqa: S311 -- ids must differ, not be unguessable; seeded by the system at start


def new_id() -> str:
    """Create an id of 128 random bits in hex.

    Unlike uuid4 it makes no system call, which would let a busy process lose its time slice.
    """
    return f"{_random.getrandbits(128):032x}"


def text(value: str | None) -> StringValue | None:
    return None if value is None else StringValue(value=value)


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
