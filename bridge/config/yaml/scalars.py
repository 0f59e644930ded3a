"""Values of unquoted YAML scalars, according to the core schema of YAML 1.2 without its traps.

`yes`, `no`, `on`, `off`, dates, times, `0x1f`, `0o17`, `007` and `1_000` are text. `.nan`, `.inf` and numbers beyond
64 bits are refused, because no JSON payload and no expression could equal them.
"""

from __future__ import annotations

import math
import re

_NULL = frozenset(("", "~", "null", "Null", "NULL"))
_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")


def resolve(text: str) -> str | int | float | bool | None:
    """Value of a plain scalar. Raises: ValueError for numbers that are not finite or do not fit 64 bits."""
    if text in _NULL:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if text[0] not in "0123456789.+-":
        return text
    if _INTEGER.fullmatch(text):
        if len(text) > 20 or not -(2**63) <= int(text) < 2**63:
            raise ValueError("the number does not fit 64 bits; put it in quotes if it is meant as text")
        return int(text)
    if _FLOAT.fullmatch(text):
        number = float(text)
        if not math.isfinite(number):
            raise ValueError("the number is too large; put it in quotes if it is meant as text")
        return number
    if _NOT_FINITE.fullmatch(text):
        raise ValueError(f"{text} is not a number that can be used here; put it in quotes if it is meant as text")
    return text
