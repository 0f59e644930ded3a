"""Values of AMQP: their extent in encoded form, and decoders of types that the SDK lacks or loses. Pure.

The SDK's decoder has no `char` and no `decimal32`, takes a wrong value for other decimals, turns timestamps into
integers, and strings and binary alike into bytes. `extend_decoders` enters decoders for them into its table, and a
limit for arrays of values without bytes. Where the table is not the known one, messages with such values are
unreadable, the `time` of a CloudEvent is recognized by its name, and binary by not being UTF-8.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any, NamedTuple

from bridge.brokers.servicebus import sdk_internals

CUT = "a value that ends after the message"

_EMPTY_ELEMENTS = 16
"""Most elements of an array whose elements take no bytes. Without this limit ten bytes become half a megabyte."""

_EMPTY_CODES = range(0x40, 0x46)

_CHAR, _TIMESTAMP, _BINARY = 0x73, 0x83, (0xA0, 0xB0)
_PROPERTIES_LIMIT = 65_536
"""Most bytes of a property; longer binary is a body, which needs no mark."""

_decoders: Any = sdk_internals.decoders() or [None] * 256


class Malformed(ValueError):
    """The encoding itself is broken."""


def value_of(buffer: memoryview) -> Any:
    """Decode the one value in the buffer. Raises: any error of the SDK's decoders."""
    decoder = _decoders[buffer[0]]
    if decoder is None:
        raise Malformed(f"there is no AMQP type 0x{buffer[0]:02x}")
    rest, value = decoder(buffer[1:])
    if rest:
        raise Malformed("a size and a count that contradict each other")
    return value


def elements(buffer: memoryview) -> Iterator[memoryview]:
    """Encoded elements of a list or map. Raises: ValueError where the structure is broken."""
    code = buffer[0]
    if code == 0x45:
        return
    if code not in (0xC0, 0xC1, 0xD0, 0xD1):
        raise Malformed("neither a list nor a map")
    at = 3 if code < 0xD0 else 9
    while at < len(buffer):
        end = skip(buffer, at)
        yield buffer[at:end]
        at = end


_FIXED = {0x4: 0, 0x5: 1, 0x6: 2, 0x7: 4, 0x8: 8, 0x9: 16}
_SHORT, _LONG = (0xA, 0xC, 0xE), (0xB, 0xD, 0xF)


def skip(buffer: memoryview, at: int) -> int:
    """Offset of the end of the value that begins at `at`. Not recursive: a described value adds one value to skip."""
    pending = 1
    length = len(buffer)
    try:
        while pending:
            code = buffer[at]
            at += 1
            if code == 0:
                pending += 1
                continue
            kind = code >> 4
            if kind in _FIXED:
                at += _FIXED[kind]
            elif kind in _SHORT:
                at += 1 + buffer[at]
            elif kind in _LONG:
                at += 4 + int.from_bytes(buffer[at : at + 4])
            else:
                raise Malformed(f"there is no AMQP type 0x{code:02x}")
            if at > length:
                raise Malformed(CUT)
            pending -= 1
    except IndexError:
        raise Malformed(CUT) from None
    return at


class Timestamp(int):
    """AMQP timestamp in milliseconds since the epoch."""


class Binary(bytes):
    """AMQP binary, not a string."""


class _Format(NamedTuple):
    """One interchange format of IEEE 754-2008: bits of the exponent, its bias, and digits of the coefficient."""

    exponent: int
    bias: int
    digits: int


_FORMATS = {4: _Format(8, 101, 7), 8: _Format(10, 398, 16), 16: _Format(14, 6176, 34)}


def char(raw: bytes) -> str:
    """Text of one character. Raises: ValueError when the code is not a Unicode scalar value."""
    code = int.from_bytes(raw)
    if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
        raise ValueError("an AMQP char that is not a Unicode character")
    return chr(code)


def decimal(raw: bytes) -> Decimal:
    """Value of 4, 8 or 16 bytes in the binary integer encoding, which AMQP prescribes."""
    form = _FORMATS[len(raw)]
    bits = int.from_bytes(raw)
    width = len(raw) * 8 - 1
    sign, bits = bits >> width, bits & ((1 << width) - 1)
    leading = bits >> (width - 5)
    if leading == 0b11111:
        return Decimal("NaN")
    if leading == 0b11110:
        return Decimal("-Infinity" if sign else "Infinity")
    trailing = width - form.exponent
    if leading >> 3 == 0b11:
        # Two bits fewer remain for a coefficient that begins with 0b100
        trailing -= 2
        exponent = (bits >> trailing) & ((1 << form.exponent) - 1)
        coefficient = (0b100 << trailing) | (bits & ((1 << trailing) - 1))
    else:
        exponent = bits >> trailing
        coefficient = bits & ((1 << trailing) - 1)
    if coefficient >= 10**form.digits:
        coefficient = 0  # as the standard requires
    return Decimal((sign, tuple(map(int, str(coefficient))), exponent - form.bias))


# -- the SDK's table of decoders


def _fixed(width: int, convert: Callable[[bytes], Any]) -> Callable[..., tuple[memoryview, Any]]:
    def decoder(buffer: memoryview, _depth: int = 0) -> tuple[memoryview, Any]:
        raw = buffer[:width].tobytes()
        if len(raw) < width:
            raise Malformed(CUT)
        return buffer[width:], convert(raw)

    return decoder


_char_decoder = _fixed(4, char)


def _bounded(original: Callable[..., Any], number: struct.Struct) -> Callable[..., Any]:
    """Wrap the SDK's decoder of an array with a limit for elements without bytes.

    The SDK's decoder leaves the constructor of an empty array in the buffer, where it is taken for the next value.
    """
    begin = 2 * number.size

    def decoder(buffer: memoryview, depth: int = 0) -> Any:
        size, count = number.unpack_from(buffer)[0], number.unpack_from(buffer, number.size)[0]
        if not count:
            return buffer[number.size + size :], []
        if count > _EMPTY_ELEMENTS:
            at = begin
            while buffer[at] == 0:  # described
                at = skip(buffer, at + 1)
            if buffer[at] in _EMPTY_CODES:
                raise ValueError(f"AMQP array of more than {_EMPTY_ELEMENTS} elements without bytes")
        return original(buffer, depth)

    return decoder


def _marked(original: Callable[..., Any], kind: Callable[[Any], Any]) -> Callable[..., Any]:
    def decoder(buffer: memoryview, depth: int = 0) -> Any:
        rest, value = original(buffer, depth)
        return rest, kind(value)

    return decoder


def _binary(value: bytes) -> bytes:
    return Binary(value) if len(value) <= _PROPERTIES_LIMIT else value


def extend_decoders() -> bool:
    """Enter the decoders into the SDK's table; False when the table has an unknown form. Repeatable."""
    table: Any = sdk_internals.decoders()
    if table is None:
        return False
    if table[_CHAR] is _char_decoder:
        return True
    table[_CHAR] = _char_decoder
    # The SDK's own decoder of decimal128 takes the coefficient for decimal digits
    table[0x74], table[0x84], table[0x94] = _fixed(4, decimal), _fixed(8, decimal), _fixed(16, decimal)
    for code, number in ((0xE0, struct.Struct(">B")), (0xF0, struct.Struct(">I"))):
        table[code] = _bounded(table[code], number)
    for code in _BINARY:
        table[code] = _marked(table[code], _binary)
    table[_TIMESTAMP] = _marked(table[_TIMESTAMP], Timestamp)
    return True


extend_decoders()
