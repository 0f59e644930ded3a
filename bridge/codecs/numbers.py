"""Conversion of numbers and bytes to JSON, and back without silent loss. Pure."""

from __future__ import annotations

import base64
import math
import struct
from typing import Any

_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_COUNTED = 2.0**53
_SINGLE = struct.Struct("<f")


def float_to_json(value: float) -> float | str:
    """A double as JSON: `NaN`, `Infinity` and `-Infinity` are text, as in protobuf's JSON mapping."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def single_to_json(value: float) -> float | str:
    """A 32-bit float as JSON: the shortest decimal that reads back as the same float (0.1, not 0.10000000149011612).

    Whole numbers are exact up to 2^53, where a double still represents every integer.
    """
    if not math.isfinite(value):
        return float_to_json(value)
    if value.is_integer() and abs(value) <= _COUNTED:
        return value
    short = float(f"{value:.6g}")
    if _single(short) == value:
        return short
    long = float(f"{value:.8g}")
    if _single(long) != value:
        return float(f"{value:.9g}")
    short = float(f"{value:.7g}")
    return short if _single(short) == value else long


def double(value: Any) -> float:
    """A JSON number, or the text of one that is not finite, as a double.

    Raises: TypeError, or OverflowError, for anything else and for integers that a double would round.
    """
    if isinstance(value, str) and value in _FINITE:
        return _FINITE[value]
    if type(value) not in (int, float):
        raise TypeError
    number = float(value)
    if type(value) is int and int(number) != value:
        raise TypeError
    return number


def single(value: Any) -> float:
    """A JSON number as a 32-bit float, like `double`; a fraction becomes the nearest float.

    Raises: TypeError, or OverflowError, also for numbers beyond the range of a float, at either end.
    """
    number = double(value)
    nearest = _single(number)
    if (type(value) is int and single_to_json(nearest) != value) or (nearest == 0) != (number == 0):
        raise TypeError
    return nearest


def _single(value: float) -> float:
    return float(_SINGLE.unpack(_SINGLE.pack(value))[0])


def from_base64(text: str) -> bytes:
    """Bytes of standard base64 with padding. Raises: ValueError for anything else, also where unused bits are set."""
    data = base64.b64decode(text, validate=True)
    if base64.b64encode(data) != text.encode():
        raise ValueError
    return data
