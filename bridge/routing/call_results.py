"""Results that a call can have whatever its arguments are: a size is not negative, a lower-case text has no `A`."""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from bridge.routing.cel.tokens import Token, bracket_depth, opening_bracket, tokens

_UPPER, _LOWER = string.ascii_uppercase, string.ascii_lowercase
_ASCII = "".join(map(chr, range(1, 128)))
_SPACE = " \t\r\n"


@dataclass(frozen=True, slots=True)
class Numbers:
    """Numbers from `low` to `high`. what: for messages. whole: True for whole numbers."""

    what: str
    low: float
    high: float = math.inf
    whole: bool = True

    def values(self, constants: Sequence[Any]) -> tuple[Any, ...]:
        """Values that stand for all results in comparisons with these constants; empty for other constants."""
        if not constants or any(isinstance(each, bool) or not isinstance(each, int | float) for each in constants):
            return ()
        near = {self.low, self.high}
        for each in map(float, constants):
            near |= {math.floor(each), math.ceil(each), math.floor(each) + 1, math.ceil(each) - 1}
            near |= set() if self.whole else {each, *((each + float(other)) / 2 for other in constants)}
        return tuple(sorted(each for each in near if self.low <= each <= self.high and math.isfinite(each)))


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts without some characters.

    what: for messages. lacks: ASCII characters that no result has.
    rim: True if no result begins or ends with white space.
    """

    what: str
    lacks: str = ""
    rim: bool = False

    @property
    def characters(self) -> str:
        """ASCII characters of results, except NUL."""
        return "".join(each for each in _ASCII if each not in self.lacks)

    def values(self, constants: Sequence[Any]) -> tuple[Any, ...]:
        """Values that stand for all results in comparisons of equality; empty for constants that are not text."""
        if not constants or not all(isinstance(each, str) for each in constants):
            return ()
        return (*(each for each in constants if not self.excludes("==", each)), "".join(constants).casefold() + "0\x01")

    def excludes(self, method: str, text: str) -> bool:
        """True if no result is equal to a text (`==`), begins or ends with it, or contains it."""
        if set(self.lacks) & {*text}:
            return True
        if not self.rim:
            return False
        begins, ends = text[:1] in (*_SPACE,), text[-1:] in (*_SPACE,)
        return {"==": begins or ends, "startsWith": begins, "endsWith": ends}.get(method, False)


Results = Numbers | Texts

_GLOBAL: dict[str, Results] = {
    "size": Numbers("a size is a whole number from 0", 0),
    "math.abs": Numbers("an absolute value is at least 0", 0, whole=False),
}
_METHODS: dict[str, Results] = {
    "size": _GLOBAL["size"],
    "indexOf": Numbers("a position is a whole number from -1", -1),
    "lastIndexOf": Numbers("a position is a whole number from -1", -1),
    "lowerAscii": Texts("the text has no upper-case letters", _UPPER),
    "upperAscii": Texts("the text has no lower-case letters", _LOWER),
    "trim": Texts("the text has no white space at its ends", rim=True),
    "getMonth": Numbers("a month is a whole number from 0 to 11", 0, 11),
    "getDate": Numbers("this day is a whole number from 1 to 31", 1, 31),
    "getDayOfMonth": Numbers("this day is a whole number from 0 to 30", 0, 30),
    "getDayOfWeek": Numbers("a day of the week is a whole number from 0 (Sunday) to 6", 0, 6),
    "getDayOfYear": Numbers("this day is a whole number from 0 to 365", 0, 365),
}
_OF_TIMESTAMPS: dict[str, Results] = {
    "getHours": Numbers("an hour is a whole number from 0 to 23", 0, 23),
    "getMinutes": Numbers("a minute is a whole number from 0 to 59", 0, 59),
    "getSeconds": Numbers("a second is a whole number from 0 to 59", 0, 59),
}
"""Methods of timestamps. Durations have them too, and return totals."""


@dataclass(frozen=True, slots=True)
class CallExpression:
    """A call that is a whole expression.

    receiver: expression before the dot; empty for a function.
    argument: text between the parentheses.
    """

    name: str
    receiver: str
    argument: str


def call_of(source: str) -> CallExpression | None:
    """The call that an expression is; None for another expression."""
    found = tokens(source)
    opening = opening_bracket(found, len(found) - 1) if found and found[-1].text == ")" else -1
    if opening < 1 or found[opening].text != "(" or found[opening - 1].kind != "name":
        return None
    argument = source[found[opening].end : found[-1].start].strip()
    if opening == 1:
        return CallExpression(found[0].text, "", argument)
    receiver = found[: opening - 2]
    if found[opening - 2].text != "." or not receiver or not _is_primary(receiver):
        return None
    return CallExpression(found[opening - 1].text, source[receiver[0].start : receiver[-1].end], argument)


def results_of(source: str) -> Results | None:
    """Results that an expression can have; None if this is not known."""
    call = call_of(source)
    if call is None:
        return None
    if not call.receiver:
        return _GLOBAL.get(call.name)
    if call.receiver == "math":
        return _GLOBAL.get(f"math.{call.name}")
    if call.name in _OF_TIMESTAMPS:
        inner = call_of(call.receiver)
        is_timestamp = bool(call.argument) or (inner is not None and inner.name == "timestamp" and not inner.receiver)
        return _OF_TIMESTAMPS[call.name] if is_timestamp else None
    return _METHODS.get(call.name)


def spelling(source: str) -> str:
    """Expression without white space, to compare it."""
    return " ".join(token.text for token in tokens(source))


def disjoint(texts: Iterable[str], begins: Callable[[str, str], bool]) -> tuple[str, str] | None:
    """Two texts of which none begins (or ends) with the other; None without."""
    known = sorted(set(texts), key=len)
    for short, long in pairwise(known):
        if not begins(long, short):
            return short, long
    return None


def _is_primary(found: Sequence[Token]) -> bool:
    """True for members and calls without operators around them."""
    depth = 0
    for at, token in enumerate(found):
        depth += bracket_depth(token)
        optional = token.text == "?" and at > 0 and found[at - 1].text in ".["
        if depth == 0 and token.kind == "mark" and token.text not in ".)]}" and not optional:
            return False
    return True
