"""Fast evaluation of conditions that compare one member with a literal, the most common ones.

Results equal those of CEL.

Conversion of the variables for CEL and its evaluation cost several times as much as the rest of routing. Every other
value (a missing member, another type, a large integer, a NUL) is left to CEL, with its errors.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

_COMPARISON = re.compile(
    r"\s*[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+\s*(?P<sign>==|!=|<=|>=|<|>)\s*"
    r"""(?:(?P<number>-?\d+(?:\.\d+)?)|'(?P<single>[^'\\\n]*)'|"(?P<double>[^"\\\n]*)")\s*""",
    re.ASCII,
)
SIGNS: Mapping[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_EXACT = 2**53
"""Largest integer that is compared with doubles without loss."""

Comparison = Callable[[Any], bool | None]
"""Function from the member's value to the condition's result; None if CEL must evaluate it."""


def comparison(source: str) -> Comparison | None:
    """Answer function of a condition; None if it is not such a comparison."""
    found = _COMPARISON.fullmatch(source)
    if found is None:
        return None
    sign = SIGNS[found["sign"]]
    if found["number"] is not None:
        return _numbers(sign, float(found["number"]) if "." in found["number"] else int(found["number"]))
    text = found["single"] if found["single"] is not None else found["double"]
    return _texts(sign, text) if found["sign"] in ("==", "!=") and "\0" not in text else None


def _numbers(sign: Callable[[Any, Any], bool], wanted: int | float) -> Comparison | None:
    if abs(wanted) > _EXACT:
        return None

    def answer(value: Any) -> bool | None:
        kind = value.__class__
        if kind is float or (kind is int and -_EXACT <= value <= _EXACT):
            return sign(value, wanted)
        return None

    return answer


def _texts(sign: Callable[[Any, Any], bool], wanted: str) -> Comparison:
    def answer(value: Any) -> bool | None:
        return sign(value, wanted) if value.__class__ is str and "\0" not in value else None

    return answer
