"""Conditions that are constant, never hold, or contain such a part. Found by evaluation, without a message."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from bridge.config.model.bridge import BridgeConfig
from bridge.routing.cel.evaluator import Evaluator, Member, Unknown
from bridge.routing.cel.expression import ROUTE
from bridge.routing.cel.tokens import Token, readings, tokens
from bridge.routing.cel.value import kind_name

ConfigPath = tuple[str | int, ...]
Finding = tuple[str, ConfigPath, str]
"""Code, path and text of a problem."""

_LONGEST = 4000
"""Characters of the longest condition that is judged."""

_MOST = 64
"""Most values of a member that are tried, and most parts of a condition that are compared."""

_OPERATORS: Mapping[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_MIRRORED = {"==": "==", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
TEXTS = ("type", "source", "subject", "id", "topic", "key", "datacontenttype", "dataschema", "message_id", "time")
"""Members of `event` that are text or null."""

_LITERAL = re.compile(r"'(?P<text>[^'\\\n]*)'|(?P<number>-?\d{1,15}(?:\.\d{1,9})?)", re.ASCII)
"""The most common constants, which need no evaluation."""

_OTHER = "\U0010fffd other"
"""Text that no configuration compares with."""


@dataclass(frozen=True, slots=True)
class _Part:
    """An operand of `&&`.

    member: the only member that it reads; None if it reads none or several.
    comparison: operator and constant, of a comparison of the member with a constant.
    """

    source: str
    member: Member | None = None
    comparison: tuple[str, Any] | None = None


def condition_findings(config: BridgeConfig) -> Iterator[Finding]:
    """Findings about the conditions of all rules."""
    judge = _Judge(Evaluator(config.vars))
    for position, route in enumerate(config.routes):
        if route.when is not None:
            path: ConfigPath = ("routes", position, "when")
            for code, what in judge.condition(route.when, route.match):
                yield code, path, what


class _Judge:
    """Judge of conditions of one configuration."""

    def __init__(self, known: Evaluator) -> None:
        self._known = known

    def condition(self, source: str, match: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Findings about one condition: code and text. match: equalities of its rule."""
        if len(source) > _LONGEST:
            return
        reads = {reading.variable for reading in readings(source, ROUTE)}
        if reads <= {"vars"}:
            yield from self._constant(source, bool(reads))
            return
        alternatives = split(source, "||")
        for alternative in alternatives:
            for part in split(alternative, "&&"):
                yield from self._operand(part)
        facts = dict(_facts(match))
        never = [why for each in alternatives[:_MOST] if (why := self._never(each, facts)) is not None]
        if len(never) == len(alternatives):
            yield "R013", f"the condition never holds: {never[0]}"
        else:
            for why in never:
                yield "R013", f"a part of the condition never holds: {why}"
        if len(alternatives) > 1 and not never and self._is_always(alternatives):
            yield "R012", f"the condition always holds: no value makes both sides of `||` false\n  {source}"

    def _constant(self, source: str, reads_vars: bool) -> Iterator[tuple[str, str]]:
        try:
            value = self._known.value(source)
        except Unknown as unknown:
            if not reads_vars and unknown.cause:
                yield "R012", f"the condition always fails: {unknown.cause}"
            return
        if value is not True and value is not False:
            yield "R015", f"the condition is always {kind_name(value)}; compare it, like `payload.total > {source}`"
        elif not reads_vars:
            effect = "remove it" if value else "the rule never matches"
            yield "R012", f"the condition is always {str(value).lower()}; {effect}"

    def _operand(self, part: str) -> Iterator[tuple[str, str]]:
        """Finding about an operand of && or || that is a constant of another type than boolean."""
        if {reading.variable for reading in readings(part, ROUTE)} != {"vars"}:
            return
        try:
            value = self._known.value(part)
        except Unknown:
            return
        if value is not True and value is not False:
            yield "R015", f"`{part}` is always {kind_name(value)}, and no condition; compare it"

    def _never(self, alternative: str, facts: Mapping[Member, tuple[Any, ...]]) -> str | None:
        """Reason for which an operand of `||` never holds; None if it may hold."""
        operands = split(alternative, "&&")[:_MOST]
        by_member: dict[Member, list[_Part]] = {}
        for operand in operands:
            part = self._part(operand)
            if part.member is not None:
                by_member.setdefault(part.member, []).append(part)
            elif not readings(operand, ROUTE) and self._is_false(operand):
                return f"`{operand}` is false"
        negated = {operand[1:].strip() for operand in operands if operand.startswith("!")}
        if both := negated & {*operands}:
            return f"`{min(both)}` cannot be both true and false"
        for member, parts in by_member.items():
            if (why := self._contradiction(member, parts, facts.get(member))) is not None:
                return why
        return None

    def _contradiction(self, member: Member, parts: list[_Part], matched: tuple[Any, ...] | None) -> str | None:
        shown = " && ".join(f"`{part.source}`" for part in parts)
        name = ".".join(member)
        if member[0] == "event" and len(member) == 2 and member[1] in TEXTS:
            for part in parts:
                if part.comparison is not None and part.comparison[0] == "==" and _is_number(part.comparison[1]):
                    return f"{name} is text, and `{part.source}` compares it with {kind_name(part.comparison[1])}"
        values = matched
        for part in parts:
            if part.comparison is not None and part.comparison[0] in ("==", "in"):
                own = part.comparison[1] if part.comparison[0] == "in" else (part.comparison[1],)
                values = own if values is None else tuple(value for value in values if _is_among(value, own))
                if not values:
                    break
        if values is None:
            values = _representatives([part.comparison for part in parts if part.comparison is not None])
            if not values or len(parts) < 2:
                return None
            # Other parts may hold for values that these do not stand for
            parts = [part for part in parts if part.comparison is not None]
        elif len(values) > _MOST:
            return None
        if any(self._may_hold(parts, member, value) for value in values):
            return None
        if matched is not None:
            return f"`match` lets only {_listed(matched)} through for {name}, and {shown} excludes that"
        return f"{shown} cannot hold together" if len(parts) > 1 else f"{shown} excludes every value"

    def _may_hold(self, parts: list[_Part], member: Member, value: Any) -> bool:
        """True unless a part is false for the value of the member."""
        for part in parts:
            if part.comparison is not None:
                if _compared(part.comparison, value) is False:
                    return False
            elif self._is_false(part.source, member, value):
                return False
        return True

    def _is_false(self, source: str, member: Member = (), value: Any = None) -> bool:
        forms = (value, float(value)) if type(value) is int and abs(value) < 2**53 else (value,)
        try:
            return all(self._known.value(source, member, form) is False for form in forms)
        except Unknown:
            return False

    def _is_always(self, alternatives: list[str]) -> bool:
        """True if every value of the one member that all alternatives compare fulfils one of them."""
        parts = [self._part(each) for each in alternatives]
        if len({part.member for part in parts}) != 1 or any(part.comparison is None for part in parts):
            return False
        comparisons = [part.comparison for part in parts if part.comparison is not None]
        if any(sign == "in" for sign, _ in comparisons):
            return False
        values = _representatives(comparisons)
        return bool(values) and all(
            any(_compared(comparison, value) is True for comparison in comparisons) for value in values
        )

    def _part(self, operand: str) -> _Part:
        found = [reading for reading in readings(operand, ROUTE) if reading.variable != "vars"]
        members = {(reading.variable, *reading.path) for reading in found}
        if len(members) != 1 or not found[0].path:
            return _Part(operand)
        (member,) = members
        return _Part(operand, member, self._comparison(operand) if len(found) == 1 else None)

    def _comparison(self, operand: str) -> tuple[str, Any] | None:
        """Operator and constant of a comparison of a member with a constant."""
        found = _comparison_of(operand)
        if found is None:
            return None
        left, sign, right = found
        if _is_member(right) and sign != "in":
            left, sign, right = right, _MIRRORED[sign], left
        if not _is_member(left):
            return None
        if (literal := _LITERAL.fullmatch(right)) is not None and sign != "in":
            return sign, literal["text"] if literal["text"] is not None else float(literal["number"])
        if {reading.variable for reading in readings(right, ROUTE)} - {"vars"}:
            return None
        try:
            value = self._known.value(right)
        except Unknown:
            return None
        if sign == "in":
            return (sign, tuple(value)) if isinstance(value, list) and all(map(_is_scalar, value)) else None
        return (sign, value) if _is_scalar(value) else None


def split(source: str, sign: str) -> list[str]:
    """Operands of `&&` or `||`; the expression itself if it is no such operation. Outer parentheses are removed."""
    found = tokens(source)
    while len(found) > 2 and found[0].text == "(" and _closing(found) == len(found) - 1:
        source = source[found[0].end : found[-1].start]
        found = tokens(source)
    operands, start, depth = [], 0, 0
    for at, token in enumerate(found[:-1]):
        depth += (token.text in "([{") - (token.text in ")]}")
        if depth or token.kind != "mark":
            continue
        if token.text == "?" and found[at - 1].text not in (".", "["):
            return [source.strip()]  # a conditional binds weaker than both
        pair = token.text + found[at + 1].text
        if pair == "||" and sign == "&&" and token.end == found[at + 1].start:
            return [source.strip()]
        if pair == sign and token.end == found[at + 1].start:
            operands.append(source[start : token.start].strip())
            start = found[at + 1].end
    return [*operands, source[start:].strip()]


def _closing(found: Sequence[Token]) -> int:
    depth = 0
    for at, token in enumerate(found):
        depth += (token.text in "([{") - (token.text in ")]}")
        if depth == 0:
            return at
    return -1


def _comparison_of(operand: str) -> tuple[str, str, str] | None:
    """Left side, operator and right side of a comparison outside of brackets."""
    found = tokens(operand)
    depth = 0
    for at, token in enumerate(found):
        depth += (token.text in "([{") - (token.text in ")]}")
        if depth or at == 0:
            continue
        if token.kind == "name" and token.text == "in":
            return operand[: token.start].strip(), "in", operand[token.end :].strip()
        if token.kind == "mark" and token.text in "=!<>":
            end, sign = token.end, token.text
            if at + 1 < len(found) and found[at + 1].text == "=" and found[at + 1].start == end:
                sign, end = sign + "=", found[at + 1].end
            if sign not in _OPERATORS:
                return None
            return operand[: token.start].strip(), sign, operand[end:].strip()
    return None


def _is_member(source: str) -> bool:
    found = readings(source, ROUTE)
    return len(found) == 1 and found[0].alone and found[0].variable in ("payload", "event") and bool(found[0].path)


def _facts(match: Mapping[str, Any]) -> Iterator[tuple[Member, tuple[Any, ...]]]:
    """Members that `match` fixes, with the values that it lets through."""
    for key, wanted in match.items():
        values = tuple(wanted) if isinstance(wanted, tuple | list) else (wanted,)
        room, _, name = key.partition(".")
        if not name:
            yield ("event", key), values
        elif room == "payload":
            yield ("payload", *name.split(".")), values
        else:
            yield ("event", room, name), values


def _compared(comparison: tuple[str, Any], value: Any) -> bool | None:
    """Result of a comparison; None if it fails for the type of the value."""
    sign, wanted = comparison
    if sign == "in":
        return _is_among(value, wanted)
    same = _kind(value) == _kind(wanted)
    if sign in ("==", "!="):
        return (same and bool(value == wanted)) is (sign == "==")
    return bool(_OPERATORS[sign](value, wanted)) if same and _kind(value) in ("text", "number") else None


def _is_among(value: Any, several: tuple[Any, ...]) -> bool:
    return any(_kind(value) == _kind(each) and value == each for each in several)


def _representatives(comparisons: list[tuple[str, Any]]) -> tuple[Any, ...]:
    """Values for which every combination of results of the comparisons occurs.

    Empty if the constants have several types or types without order.
    """
    constants = [wanted for sign, wanted in comparisons if sign != "in"]
    kinds = {_kind(each) for each in constants}
    if kinds == {"number"}:
        ordered = sorted({float(each) for each in constants})
        between = [(low + high) / 2 for low, high in pairwise(ordered)]
        return (*ordered, *between, ordered[0] - 1, ordered[-1] + 1)
    if kinds == {"text"}:
        return (*constants, *(f"{each}\x01" for each in constants), "", _OTHER)
    if kinds == {"boolean"}:
        return (True, False)
    return ()


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    return "text" if isinstance(value, str) else "null" if value is None else "other"


def _is_number(value: Any) -> bool:
    return _kind(value) in ("number", "boolean")


def _is_scalar(value: Any) -> bool:
    return _kind(value) != "other"


def _listed(values: tuple[Any, ...]) -> str:
    return " or ".join(f"`{value}`" for value in values[:3]) + (" or others" if len(values) > 3 else "")
