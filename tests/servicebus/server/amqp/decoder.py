"""Decoder of AMQP values (AMQP 1.0 part 1, section 1.6); also skips values without decoding them.

Every function raises `Malformed` for bytes that end early, unknown constructors, contradictory sizes and too deep
nesting.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable
from typing import Any

from tests.servicebus.server.amqp.values import Described, Malformed, Symbol

_Step = Callable[[bytes, int], tuple[Any, int]]
_U32 = struct.Struct(">I")

_BROKEN = (IndexError, struct.error, UnicodeDecodeError, RecursionError, TypeError, OverflowError)
"""Exceptions that the decoding steps raise for invalid bytes; TypeError comes from a list as a map key."""


def decode(data: bytes, at: int = 0) -> tuple[Any, int]:
    """Decode the value at `at`.

    Returns the value and the offset after it; null is None, and number widths are dropped.
    """
    try:
        return _STEPS[data[at]](data, at + 1)
    except _BROKEN as problem:
        raise Malformed(f"no AMQP value at offset {at}: {type(problem).__name__}") from None


def skip(data: bytes, at: int = 0) -> int:
    """Return the offset after the value at `at`."""
    try:
        end = _skip(data, at)
    except _BROKEN as problem:
        raise Malformed(f"no AMQP value at offset {at}: {type(problem).__name__}") from None
    if end > len(data):
        raise Malformed(f"the value at offset {at} ends after the data")
    return end


def elements(data: bytes, at: int = 0) -> list[bytes]:
    """Return the encoded elements of the list or map at `at`."""
    try:
        code = data[at]
        if code == 0x45:
            return []
        if code in (0xC0, 0xC1):
            count, at = data[at + 2], at + 3
        elif code in (0xD0, 0xD1):
            count, at = _U32.unpack_from(data, at + 5)[0], at + 9
        else:
            raise Malformed(f"constructor 0x{code:02x} is neither list nor map")
    except _BROKEN:
        raise Malformed("a list without an end") from None
    if count > len(data):
        raise Malformed(f"{count} elements in {len(data)} bytes")
    found = []
    for _ in range(count):
        end = skip(data, at)
        found.append(data[at:end])
        at = end
    return found


def pairs(data: bytes, at: int = 0) -> list[tuple[bytes, bytes]]:
    """Return the encoded keys and values of the map at `at`."""
    flat = elements(data, at)
    if len(flat) % 2:
        raise Malformed("a map with a key too many")
    return list(zip(flat[0::2], flat[1::2], strict=True))


_WIDTHS = {0x4: 0, 0x5: 1, 0x6: 2, 0x7: 4, 0x8: 8, 0x9: 16}
"""Number of bytes after the constructor, by its upper half."""


def _skip(data: bytes, at: int) -> int:
    code = data[at]
    at += 1
    if code == 0:
        return _skip(data, _skip(data, at))
    kind = code >> 4
    width = _WIDTHS.get(kind)
    if width is not None:
        return at + width
    if kind in (0xA, 0xC, 0xE):
        return at + 1 + int(data[at])
    if kind in (0xB, 0xD, 0xF):
        return at + 4 + int(_U32.unpack_from(data, at)[0])
    raise Malformed(f"unknown constructor 0x{code:02x}")


def _number(layout: str) -> _Step:
    shape = struct.Struct(layout)
    width = shape.size

    def step(data: bytes, at: int) -> tuple[Any, int]:
        return shape.unpack_from(data, at)[0], at + width

    return step


def _constant(value: Any) -> _Step:
    return lambda data, at: (value, at)


def _octet(data: bytes, at: int) -> tuple[int, int]:
    return data[at], at + 1


def _boolean(data: bytes, at: int) -> tuple[bool, int]:
    if data[at] > 1:
        raise Malformed(f"boolean {data[at]}")
    return data[at] == 1, at + 1


def _fixed(width: int, convert: Callable[[bytes], Any]) -> _Step:
    def step(data: bytes, at: int) -> tuple[Any, int]:
        end = at + width
        if end > len(data):
            raise Malformed("a fixed-width value without an end")
        return convert(bytes(data[at:end])), end

    return step


def _variable(narrow: bool, convert: Callable[[bytes], Any]) -> _Step:
    def step(data: bytes, at: int) -> tuple[Any, int]:
        if narrow:
            size, at = data[at], at + 1
        else:
            size, at = _U32.unpack_from(data, at)[0], at + 4
        end = at + size
        if end > len(data):
            raise Malformed(f"a value of {size} bytes in {len(data) - at}")
        return convert(bytes(data[at:end])), end

    return step


def _bounds(narrow: bool, data: bytes, at: int) -> tuple[int, int, int]:
    """Return the end of a compound value, its element count, and the offset of its first element."""
    if narrow:
        end, count, first = at + 1 + data[at], data[at + 1], at + 2
    else:
        size, count = struct.unpack_from(">II", data, at)
        end, first = at + 4 + size, at + 8
    if end > len(data) or end < first:
        raise Malformed("a compound value with a wrong size")
    if count > len(data):
        # Elements of width 0 take no bytes: a small array could claim four billion of them
        raise Malformed(f"{count} elements in {len(data)} bytes")
    return end, count, first


def _list(narrow: bool) -> _Step:
    def step(data: bytes, at: int) -> tuple[list[Any], int]:
        end, count, at = _bounds(narrow, data, at)
        found = []
        for _ in range(count):
            value, at = _STEPS[data[at]](data, at + 1)
            found.append(value)
        if at != end:
            raise Malformed("a list whose elements do not fill its size")
        return found, end

    return step


def _map(narrow: bool) -> _Step:
    plain = _list(narrow)

    def step(data: bytes, at: int) -> tuple[dict[Any, Any], int]:
        flat, at = plain(data, at)
        if len(flat) % 2:
            raise Malformed("a map with a key too many")
        return dict(zip(flat[0::2], flat[1::2], strict=True)), at

    return step


def _array(narrow: bool) -> _Step:
    def step(data: bytes, at: int) -> tuple[list[Any], int]:
        end, count, at = _bounds(narrow, data, at)
        if not count:
            return [], end
        descriptor, code = None, data[at]
        at += 1
        if code == 0:
            descriptor, at = _STEPS[data[at]](data, at + 1)
            code, at = data[at], at + 1
        element = _STEPS[code]
        found = []
        for _ in range(count):
            value, at = element(data, at)
            found.append(value if descriptor is None else Described(descriptor, value))
        if at != end:
            raise Malformed("an array whose elements do not fill its size")
        return found, end

    return step


def _described(data: bytes, at: int) -> tuple[Described, int]:
    descriptor, at = _STEPS[data[at]](data, at + 1)
    value, at = _STEPS[data[at]](data, at + 1)
    return Described(descriptor, value), at


def _unknown(data: bytes, at: int) -> tuple[Any, int]:
    raise Malformed(f"unknown constructor 0x{data[at - 1]:02x}")


def _text(data: bytes) -> str:
    return data.decode("utf-8")


def _symbol(data: bytes) -> Symbol:
    return Symbol(data.decode("ascii"))


_STEPS: list[_Step] = [_unknown] * 256
for _code, _step in {
    0x00: _described,
    0x40: _constant(None),
    0x41: _constant(True),
    0x42: _constant(False),
    0x43: _constant(0),  # uint0
    0x44: _constant(0),  # ulong0
    0x45: lambda data, at: ([], at),  # list0
    0x50: _octet,  # ubyte
    0x51: _number(">b"),
    0x52: _octet,  # smalluint
    0x53: _octet,  # smallulong
    0x54: _number(">b"),  # smallint
    0x55: _number(">b"),  # smalllong
    0x56: _boolean,
    0x60: _number(">H"),
    0x61: _number(">h"),
    0x70: _number(">I"),
    0x71: _number(">i"),
    0x72: _number(">f"),
    0x73: _fixed(4, lambda data: data.decode("utf-32-be")),  # char
    0x74: _fixed(4, bytes),  # decimal32, kept as its bytes
    0x80: _number(">Q"),
    0x81: _number(">q"),
    0x82: _number(">d"),
    0x83: _number(">q"),  # timestamp, milliseconds
    0x84: _fixed(8, bytes),  # decimal64
    0x94: _fixed(16, bytes),  # decimal128
    0x98: _fixed(16, lambda data: uuid.UUID(bytes=data)),
    0xA0: _variable(True, bytes),
    0xA1: _variable(True, _text),
    0xA3: _variable(True, _symbol),
    0xB0: _variable(False, bytes),
    0xB1: _variable(False, _text),
    0xB3: _variable(False, _symbol),
    0xC0: _list(True),
    0xC1: _map(True),
    0xD0: _list(False),
    0xD1: _map(False),
    0xE0: _array(True),
    0xF0: _array(False),
}.items():
    _STEPS[_code] = _step
