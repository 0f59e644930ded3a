"""Headers and committed positions in the form in which the log stores them. Pure."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

import orjson

from bridge.core.message import Headers

_LENGTHS = struct.Struct(">II")
_NULL = 0xFFFFFFFF


def encode_headers(headers: Headers) -> bytes:
    """Bytes for the log: per header two lengths, then name and value; empty for no headers.

    Order and repeated names are kept. A null value has the length 2^32 - 1 and no bytes.
    """
    parts: list[bytes] = []
    for name, value in headers:
        # Surrogates cannot come from a broker, but a caller's name must be returned unchanged
        encoded = name.encode("utf-8", "surrogatepass")
        parts += (_LENGTHS.pack(len(encoded), _NULL if value is None else len(value)), encoded, value or b"")
    return b"".join(parts)


def decode_headers(data: bytes) -> Headers:
    """Headers that were given to `encode_headers`. Raises: ValueError for data of any other origin."""
    headers: list[tuple[str, bytes | None]] = []
    at, end = 0, len(data)
    while at < end:
        if at + 8 > end:
            raise ValueError("a length is cut off")
        name_size, value_size = _LENGTHS.unpack_from(data, at)
        at += 8
        value_at = at + name_size
        name = data[at:value_at].decode("utf-8", "surrogatepass")
        at = value_at
        if value_at + (0 if value_size == _NULL else value_size) > end:
            raise ValueError("a length points past the end")
        if value_size == _NULL:
            headers.append((name, None))
            continue
        at += value_size
        headers.append((name, data[value_at:at]))
    return tuple(headers)


@dataclass(frozen=True, slots=True)
class CommittedPosition:
    """Position of a group in one partition: all offsets below `next` are completed, and those in `done` (ascending)."""

    next: int
    done: tuple[int, ...] = ()

    def merge(self, other: CommittedPosition) -> CommittedPosition:
        """Union of both positions. Completed offsets stay completed, and commits may arrive in any order."""
        start = max(self.next, other.next)
        if not self.done and not other.done:
            return CommittedPosition(start)
        done = sorted(offset for offset in {*self.done, *other.done} if offset >= start)
        return CommittedPosition(start, tuple(done))


def encode_offsets(offsets: Iterable[int]) -> str:
    """Ascending offsets as JSON pairs of first and last: `[[3,3],[7,9]]`."""
    ranges: list[list[int]] = []
    for offset in offsets:
        if ranges and ranges[-1][1] == offset - 1:
            ranges[-1][1] = offset
        else:
            ranges.append([offset, offset])
    return orjson.dumps(ranges).decode()


def decode_offsets(text: str) -> tuple[int, ...]:
    """Offsets that were given to `encode_offsets`."""
    if text == "[]":
        return ()
    return tuple(offset for first, last in orjson.loads(text) for offset in range(first, last + 1))
