"""Frames of the channel between the daemon and a worker process. Pure.

A frame is its length in 4 bytes, then items. An item is its kind in 1 byte, the length of its body in 4 bytes, and the
body. Numbers are little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

MAX_FRAME = 1 << 30
"""Bytes of the largest frame that a reader accepts. A larger length means that the peer does not write frames."""

LARGE = 1 << 20
"""Bytes of a body from which on a reader reports the body before its end, and a writer makes no copy of it."""

HEAD = 512
"""Bytes of the beginning of a body that a reader reports: they contain the tokens of an item."""

Item = tuple[int, bytes]
"""Kind and body."""

_LENGTH = struct.Struct("<I")
_ITEM = struct.Struct("<BI")


class BrokenFrame(Exception):
    """Raised for bytes that are no frame."""


def frame(items: Iterable[Item]) -> bytes:
    """Join items into one frame."""
    parts = [b""]
    for kind, body in items:
        parts.append(_ITEM.pack(kind, len(body)))
        parts.append(body)
    parts[0] = _LENGTH.pack(sum(map(len, parts)))
    return b"".join(parts)


def pieces(items: Iterable[Item]) -> list[bytes]:
    """Parts of the frame of these items: one, or more where large items are not copied into it."""
    parts: list[bytes] = []
    small = [b""]
    for kind, body in items:
        small.append(_ITEM.pack(kind, len(body)))
        if len(body) < LARGE:
            small.append(body)
        else:
            parts += (b"".join(small), body)
            small = []
    if not parts:
        small[0] = _LENGTH.pack(sum(map(len, small)))
        return [b"".join(small)]
    parts.append(b"".join(small))
    parts[0] = _LENGTH.pack(sum(map(len, parts))) + parts[0]
    return parts


class FrameReader:
    """Reader that splits a stream of bytes into items."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._needed = _LENGTH.size
        """Bytes from which on the buffer may contain a whole frame."""

    @property
    def arriving(self) -> Item | None:
        """Kind and beginning of a large item of which the rest has not arrived; None without one."""
        if self._needed < LARGE:
            return None
        buffer, at = self._buffer, _LENGTH.size
        while at + _ITEM.size + HEAD <= len(buffer):
            kind, length = _ITEM.unpack_from(buffer, at)
            at += _ITEM.size
            if length >= LARGE and at + length > len(buffer):
                return kind, bytes(buffer[at : at + HEAD])
            at += length
        return None

    def feed(self, data: bytes | memoryview) -> list[Item]:
        """Add bytes, and return the items of all frames that are complete now. Raises: BrokenFrame."""
        buffer = self._buffer
        buffer += data
        if len(buffer) < self._needed:
            return []
        items: list[Item] = []
        at = 0
        while len(buffer) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(buffer, at)
            if length > MAX_FRAME:
                raise BrokenFrame(f"a frame of {length} bytes")
            end = at + _LENGTH.size + length
            if end > len(buffer):
                self._needed = end - at
                break
            _split(buffer, at + _LENGTH.size, end, items)
            at = end
        else:
            self._needed = _LENGTH.size
        del buffer[:at]
        return items


def _split(buffer: bytearray, at: int, end: int, items: list[Item]) -> None:
    """Append the items between two positions. Raises: BrokenFrame."""
    with memoryview(buffer) as view:
        while at < end:
            if at + _ITEM.size > end:
                raise BrokenFrame("a frame that ends within an item")
            kind, length = _ITEM.unpack_from(view, at)
            at += _ITEM.size
            if at + length > end:
                raise BrokenFrame("an item that is longer than its frame")
            items.append((kind, bytes(view[at : at + length])))
            at += length
