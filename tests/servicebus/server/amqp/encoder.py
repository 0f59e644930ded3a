"""Encoder of AMQP values.

Python types do not determine an AMQP type; therefore each AMQP type has a function. None becomes null.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Iterable, Sequence

NULL, TRUE, FALSE, EMPTY_LIST = b"\x40", b"\x41", b"\x42", b"\x45"

_U16, _U32, _U64 = struct.Struct(">H"), struct.Struct(">I"), struct.Struct(">Q")
_I32, _I64 = struct.Struct(">i"), struct.Struct(">q")
_SIZES = struct.Struct(">II")


def boolean(value: bool | None) -> bytes:
    return NULL if value is None else TRUE if value else FALSE


def ubyte(value: int | None) -> bytes:
    return NULL if value is None else bytes((0x50, value))


def ushort(value: int | None) -> bytes:
    return NULL if value is None else b"\x60" + _U16.pack(value)


def uint(value: int | None) -> bytes:
    if value is None:
        return NULL
    if value == 0:
        return b"\x43"
    return bytes((0x52, value)) if value < 256 else b"\x70" + _U32.pack(value)


def full_uint(value: int) -> bytes:
    """Encode a uint always in four bytes; some clients read the fields of a header by width."""
    return b"\x70" + _U32.pack(value)


def ulong(value: int | None) -> bytes:
    if value is None:
        return NULL
    if value == 0:
        return b"\x44"
    return bytes((0x53, value)) if value < 256 else b"\x80" + _U64.pack(value)


def int32(value: int | None) -> bytes:
    return NULL if value is None else b"\x71" + _I32.pack(value)


def int64(value: int | None) -> bytes:
    return NULL if value is None else b"\x81" + _I64.pack(value)


def timestamp(milliseconds: int | None) -> bytes:
    return NULL if milliseconds is None else b"\x83" + _I64.pack(milliseconds)


def guid(value: uuid.UUID | None) -> bytes:
    return NULL if value is None else b"\x98" + value.bytes


def _sized(narrow: int, wide: int, data: bytes) -> bytes:
    size = len(data)
    return bytes((narrow, size)) + data if size < 256 else bytes((wide,)) + _U32.pack(size) + data


def binary(value: bytes | None) -> bytes:
    return NULL if value is None else _sized(0xA0, 0xB0, value)


def string(value: str | None) -> bytes:
    return NULL if value is None else _sized(0xA1, 0xB1, value.encode())


def symbol(value: str | None) -> bytes:
    return NULL if value is None else _sized(0xA3, 0xB3, value.encode("ascii"))


def _compound(narrow: int, wide: int, items: Sequence[bytes]) -> bytes:
    body = b"".join(items)
    if len(body) < 255 and len(items) < 256:
        return bytes((narrow, len(body) + 1, len(items))) + body
    return bytes((wide,)) + _SIZES.pack(len(body) + 4, len(items)) + body


def sequence(items: Sequence[bytes]) -> bytes:
    """Encode a list of encoded values."""
    return _compound(0xC0, 0xD0, items)


def mapping(pairs: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Encode a map of encoded keys and values."""
    return _compound(0xC1, 0xD1, [part for pair in pairs for part in pair])


def _array(constructor: int, bodies: Sequence[bytes]) -> bytes:
    body = bytes((constructor,)) + b"".join(bodies)
    return b"\xf0" + _SIZES.pack(len(body) + 4, len(bodies)) + body


def int64_array(values: Sequence[int]) -> bytes:
    return _array(0x81, [_I64.pack(value) for value in values])


def timestamp_array(values: Sequence[int]) -> bytes:
    return _array(0x83, [_I64.pack(value) for value in values])


def string_array(values: Sequence[str]) -> bytes:
    texts = [value.encode() for value in values]
    return _array(0xB1, [_U32.pack(len(text)) + text for text in texts])


def symbol_array(values: Sequence[str]) -> bytes:
    texts = [value.encode("ascii") for value in values]
    body = b"\xa3" + b"".join(bytes((len(text),)) + text for text in texts)
    return b"\xe0" + bytes((len(body) + 1, len(texts))) + body


def described(code: int, value: bytes) -> bytes:
    """Encode a value with a numeric descriptor, as a smallulong where it fits: pyamqp reads only that byte."""
    return b"\x00" + ulong(code) + value
