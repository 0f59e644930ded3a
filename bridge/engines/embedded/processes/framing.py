"""Frames of the channel between the daemon and a worker process. Pure.

A frame is its length in 4 bytes, then items. An item is its kind in 1 byte, the length of its body in 4 bytes, and the
body. Numbers are little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

MAX_FRAME = 1 << 30
"""Bytes of the largest frame that a reader accepts. A larger length means that the peer does not write frames."""

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


class FrameReader:
    """Reader that splits a stream of bytes into items."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._needed = _LENGTH.size
        """Bytes from which on the buffer may contain a whole frame."""

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
