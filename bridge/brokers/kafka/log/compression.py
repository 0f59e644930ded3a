"""Decompression within limits per batch and per consumer: small batches cannot fill the memory. Pure.

Codec numbers: https://kafka.apache.org/documentation/#recordbatch (attributes, bits 0 to 2).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from weakref import WeakKeyDictionary

import cramjam

_XERIAL = b"\x82SNAPPY\0"
_XERIAL_HEADER = 16
_NO_ROOM = "failed to write whole buffer"
"""Text of cramjam's error when the output buffer is too small."""

_MEMBERS = 1_000
"""Most members of gzip data; each costs time, even an empty one."""

_FIRST_GUESS = 1 << 16


class CodecError(Exception):
    """Failed decompression. `fault` is `codec`, or `inflated_size` when the limit is exceeded."""

    def __init__(self, fault: str, detail: str) -> None:
        super().__init__(detail)
        self.fault = fault
        self.detail = detail


def decompress(codec: int, data: bytes, limit: int) -> bytes | bytearray:
    """Decompress the records of one batch to at most `limit` bytes. Raises: CodecError."""
    match codec:
        case 1:
            return _gzip(data, limit)
        case 2:
            return _snappy(data, limit)
        case 3:
            return _into("lz4", cramjam.lz4.decompress_into, data, limit)
        case 4:
            return _into("zstd", cramjam.zstd.decompress_into, data, limit)
    raise CodecError("codec", f"the batch is compressed with the unknown codec {codec}")


def _gzip(data: bytes, limit: int) -> bytes:
    parts: list[bytes] = []
    room = limit
    while data:
        member = zlib.decompressobj(wbits=31)
        try:
            part = member.decompress(data, room + 1)
        except zlib.error:
            raise _corrupt("gzip") from None
        room -= len(part)
        if room < 0:
            raise _too_large(limit)
        if not member.eof:
            raise _corrupt("gzip")
        parts.append(part)
        if len(parts) > _MEMBERS:
            raise CodecError("inflated_size", f"the gzip data of the batch has more than {_MEMBERS} members")
        data = member.unused_data.lstrip(b"\0")  # padding, which gzip allows
    return b"".join(parts)


def _snappy(data: bytes, limit: int) -> bytes:
    """Decompress raw snappy, or the blocks of xerial's stream format that most Kafka producers write."""
    if not data.startswith(_XERIAL) or len(data) < _XERIAL_HEADER:
        return _snappy_block(data, limit, limit)
    parts: list[bytes] = []
    room, at = limit, _XERIAL_HEADER
    while at < len(data):
        if at + 4 > len(data):
            raise _corrupt("snappy")
        (size,) = struct.unpack_from(">i", data, at)
        at += 4
        if size < 0 or at + size > len(data):
            raise _corrupt("snappy")
        parts.append(_snappy_block(data[at : at + size], room, limit))
        room -= len(parts[-1])
        at += size
    return b"".join(parts)


def _snappy_block(block: bytes, room: int, limit: int) -> bytes:
    try:
        # The data begins with its length; the limit is checked before anything is allocated
        if cramjam.snappy.decompress_raw_len(block) > room:
            raise _too_large(limit)
        return bytes(cramjam.snappy.decompress_raw(block))
    except cramjam.DecompressionError:
        raise _corrupt("snappy") from None


def _into(name: str, decompress_into: Callable[[bytes, bytearray], int], data: bytes, limit: int) -> bytearray:
    """Decompress into buffers of growing size: the frame header may lack the size, or state a wrong one."""
    size = min(limit, max(_FIRST_GUESS, 8 * len(data)))
    while True:
        buffer = bytearray(size)
        try:
            written = decompress_into(data, buffer)
        except cramjam.DecompressionError as error:
            if _NO_ROOM not in str(error):
                raise _corrupt(name) from None
            if size >= limit:
                raise _too_large(limit) from None
            size = min(limit, size * 8)
        else:
            del buffer[written:]
            return buffer


def _corrupt(name: str) -> CodecError:
    return CodecError("codec", f"the {name} data of the batch is damaged")


def _too_large(limit: int) -> CodecError:
    return CodecError("inflated_size", f"the batch holds more than {limit} bytes when decompressed (`max_batch`)")


TAKE_BYTES = 8 << 20
"""Bytes of messages after which one call hands out no more."""


class TakeBudget:
    """Bytes that one call may still hand out."""

    __slots__ = ("left",)

    def __init__(self, size: int = TAKE_BYTES) -> None:
        self.left = size

    def spend(self, size: int) -> None:
        """Record bytes that were handed out."""
        self.left -= size


class OpenBatches:
    """Decompressed batches that are being handed out, by reader.

    A reader may open a batch while all open batches together are below the limit. The total therefore never exceeds the
    limit by more than one batch. Readers that no longer exist do not count.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: WeakKeyDictionary[object, int] = WeakKeyDictionary()
        self.refused = False
        """True when a reader had to wait since the last reset."""

    @property
    def bytes(self) -> int:
        """Size of all open batches in bytes."""
        return sum(self._open.values())

    def reset(self) -> None:
        """Forget that readers had to wait."""
        self.refused = False

    def admits(self, reader: object) -> bool:
        """Return whether the reader may open a batch now."""
        if not self._open or reader in self._open or self.bytes < self._limit:
            return True
        self.refused = True
        return False

    def note(self, reader: object, size: int) -> None:
        """Record the size in bytes of the reader's open batch; 0: none."""
        if size:
            self._open[reader] = size
        else:
            self._open.pop(reader, None)
