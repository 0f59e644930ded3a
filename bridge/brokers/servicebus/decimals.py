"""Values of the AMQP types `char`, `decimal32`, `decimal64` and `decimal128`, from their bytes. Pure."""

from __future__ import annotations

from decimal import Decimal
from typing import NamedTuple


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
