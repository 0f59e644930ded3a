"""Frames and protocol headers (AMQP 1.0 part 2, sections 2.2 and 2.3)."""

from __future__ import annotations

import struct
from typing import NamedTuple

from tests.servicebus.server.amqp.encoder import sequence
from tests.servicebus.server.amqp.values import Malformed

AMQP_HEADER, SASL_HEADER = b"AMQP\x00\x01\x00\x00", b"AMQP\x03\x01\x00\x00"
AMQP, SASL = 0, 1
_HEAD = struct.Struct(">IBBH")
EMPTY = _HEAD.pack(8, 2, AMQP, 0)
"""Empty frame, sent as keep-alive."""


class Frame(NamedTuple):
    """AMQP frame. body: empty in a keep-alive."""

    kind: int
    channel: int
    body: bytes


def frame(channel: int, code: int, fields: list[bytes], payload: bytes = b"", kind: int = AMQP) -> bytes:
    """Encode a frame: a performative with encoded fields, followed by the payload."""
    body = b"\x00\x53" + bytes((code,)) + sequence(fields)
    return _HEAD.pack(8 + len(body) + len(payload), 2, kind, channel) + body + payload


class FrameReader:
    """Reader that splits a byte stream into headers and frames. limit: largest accepted frame, in bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._data = bytearray()
        self._at = 0

    def feed(self, data: bytes) -> None:
        if self._at:
            del self._data[: self._at]
            self._at = 0
        self._data += data

    def header(self) -> bytes | None:
        """Return the next eight bytes, None when incomplete. Raises: Malformed when they are not an AMQP header."""
        if len(self._data) - self._at < 8:
            return None
        header = bytes(self._data[self._at : self._at + 8])
        if header[:4] != b"AMQP":
            raise Malformed("the stream does not begin with AMQP")
        self._at += 8
        return header

    def frame(self) -> Frame | None:
        """Return the next frame, None when incomplete. Raises: Malformed for an impossible size."""
        ready = len(self._data) - self._at
        if ready < 8:
            return None
        size, offset, kind, channel = _HEAD.unpack_from(self._data, self._at)
        if not 8 <= size <= self._limit:
            raise Malformed(f"a frame of {size} bytes; {self._limit} is the limit")
        if not 8 <= offset * 4 <= size:
            raise Malformed(f"a frame of {size} bytes whose body begins at {offset * 4}")
        if kind not in (AMQP, SASL):
            raise Malformed(f"frame type {kind}")
        if ready < size:
            return None
        start, self._at = self._at, self._at + size
        return Frame(kind, channel, bytes(self._data[start + offset * 4 : self._at]))
