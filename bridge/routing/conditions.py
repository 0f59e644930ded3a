"""Conditions that are constant, never hold, or contain such a part. Found by evaluation, without a message."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from bridge.config.model.bridge import BridgeConfig
from bridge.config.model.routes import RouteConfig
from bridge.core.errors import ConfigPath
from bridge.routing.call_results import Results, Texts, call_of, disjoint, results_of, spelling
from bridge.routing.cel.comparison import SIGNS
from bridge.routing.cel.evaluator import Evaluator, MemberPath, Unknown
from bridge.routing.cel.expression import ROUTE
from bridge.routing.cel.pattern import required
from bridge.routing.cel.tokens import bracket_depth, closing_bracket, readings, tokens
from bridge.routing.cel.value import kind_name

RuleFinding = tuple[str, ConfigPath, str]
"""Code, path and text of a problem."""

_LONGEST = 4000
"""Characters of the longest condition that is judged."""

_MOST = 64
"""Most values of a member that are tried, and most parts of a condition that are compared."""

_MIRRORED = {"==": "==", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
TEXTS = ("type", "source", "subject", "id", "topic", "key", "datacontenttype", "dataschema", "message_id", "time")
"""Members of `event` that are text or null."""

_TESTS = ("startsWith", "endsWith", "contains", "matches")

_TOPIC = ("event", "topic")

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
    member: MemberPath | None = None
    comparison: tuple[str, Any] | None = None


def condition_findings(config: BridgeConfig) -> Iterator[RuleFinding]:
    """Findings about the conditions of all rules."""
    judge = _Judge(Evaluator(config.vars))
    for position, route in enumerate(config.routes):
        if route.when is not None:
            path: ConfigPath = ("routes", position, "when")
            for code, what in judge.condition(route.when, route.match, topics_of(config, route)):
                yield code, path, what


def topics_of(config: BridgeConfig, route: RouteConfig) -> tuple[str, ...]:
    """Topics of the messages of a rule, sorted; empty if a pattern chooses them."""
    sources = [config.sources[name] for name in route.from_ if name in config.sources]
    if not all(source.origins and (source.kafka is None or source.kafka.pattern is None) for source in sources):
        return ()
    return tuple(sorted({topic for source in sources for topic in source.origins}))


class _Judge:
    """Judge of conditions of one configuration."""

    def __init__(self, known: Evaluator) -> None:
        self._known = known

    def condition(self, source: str, match: Mapping[str, Any], topics: tuple[str, ...]) -> Iterator[tuple[str, str]]:
        """Findings about one condition: code and text.

        match, topics: equalities of its rule, and topics of its messages (empty: unknown).
        """
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
                if (why := self._always_of_call(part)) is not None:
                    yield "R012", f"`{part}` always holds; {why}"
        facts = dict(_facts(match))
        if topics:
            facts.setdefault(_TOPIC, topics)
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

    def _never(self, alternative: str, facts: Mapping[MemberPath, tuple[Any, ...]]) -> str | None:
        """Reason for which an operand of `||` never holds; None if it may hold."""
        operands = split(alternative, "&&")[:_MOST]
        by_member: dict[MemberPath, list[_Part]] = {}
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
        return self._never_of_calls(operands)

    def _never_of_calls(self, operands: Sequence[str]) -> str | None:
        """Reason for which operands of `&&` never hold, by the results that their calls can have."""
        compared: dict[str, list[tuple[str, tuple[str, Any]]]] = {}
        fixed: dict[tuple[str, str], dict[str, str]] = {}
        for operand in operands:
            if (found := self._comparison(operand, results_of)) is not None:
                compared.setdefault(spelling(found[0]), []).append((operand, found[1:]))
            elif (test := self._test(operand)) is not None:
                method, receiver, text = test
                if (why := self._excluded(receiver, method, text)) is not None:
                    return f"`{operand}`; {why}"
                fixed.setdefault((method, spelling(receiver)), {})[text] = operand
        for side, parts in compared.items():
            known = results_of(side)
            values = None if known is None else _results(known, [part for _, part in parts])
            if known is None or values is None:
                continue
            if not any(all(_compared(part, value) for _, part in parts) for value in values):
                return f"{' && '.join(f'`{operand}`' for operand, _ in parts)}; {known.what}"
        for (method, _), texts in fixed.items():
            begins = {"startsWith": str.startswith, "endsWith": str.endswith}.get(method)
            if begins is not None and (pair := disjoint(texts, begins)) is not None:
                return f"`{texts[pair[0]]}` && `{texts[pair[1]]}` cannot hold together"
        return None

    def _always_of_call(self, operand: str) -> str | None:
        """Reason for which a comparison holds for all results of a call, or a test for every text."""
        if (found := self._comparison(operand, results_of)) is not None:
            known = results_of(found[0])
            values = None if known is None else _results(known, [found[1:]])
            if known is not None and values and all(_compared(found[1:], value) for value in values):
                return known.what
        if (test := self._test(operand)) is not None and test[0] != "matches" and not test[2]:
            return "every text begins and ends with the empty text"
        return None

    def _test(self, operand: str) -> tuple[str, str, str] | None:
        """Method, receiver and constant text of a test like `payload.a.startsWith('x')`."""
        call = call_of(operand)
        if call is None or call.name not in _TESTS or not call.receiver:
            return None
        if {reading.variable for reading in readings(call.argument, ROUTE)} - {"vars"}:
            return None
        try:
            text = self._known.value(call.argument)
        except Unknown:
            return None
        return (call.name, call.receiver, text) if isinstance(text, str) else None

    def _excluded(self, receiver: str, method: str, text: str) -> str | None:
        """Reason for which no result of a call passes a test."""
        known = results_of(receiver)
        if not isinstance(known, Texts):
            return None
        if method != "matches":
            return known.what if known.excludes(method, text) else None
        for item in required(text) if known.lacks else ():
            # A class with other than ASCII characters may match some of them
            if item.isascii() and "\\" not in item and "[:" not in item and not item.startswith("[^"):
                matches = (self._is_found(item, characters) for characters in (known.lacks, known.characters))
                if [*matches] == [True, False]:
                    return known.what
        return None

    def _is_found(self, pattern: str, text: str) -> bool:
        return not self._is_false(f"{json.dumps(text)}.matches({json.dumps(pattern)})")

    def _contradiction(self, member: MemberPath, parts: list[_Part], matched: tuple[Any, ...] | None) -> str | None:
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
        if matched is not None and member == _TOPIC:
            return f"this rule gets only messages of the topic {_listed(matched)}, and {shown} excludes that"
        if matched is not None:
            return f"`match` lets only {_listed(matched)} through for {name}, and {shown} excludes that"
        return f"{shown} cannot hold together" if len(parts) > 1 else f"{shown} excludes every value"

    def _may_hold(self, parts: list[_Part], member: MemberPath, value: Any) -> bool:
        """True unless a part is false for the value of the member."""
        for part in parts:
            if part.comparison is not None:
                if _compared(part.comparison, value) is False:
                    return False
            elif self._is_false(part.source, member, value):
                return False
        return True

    def _is_false(self, source: str, member: MemberPath = (), value: Any = None) -> bool:
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
        compared = self._comparison(operand, _is_member) if len(found) == 1 else None
        return _Part(operand, member, None if compared is None else compared[1:])

    def _comparison(self, operand: str, is_side: Callable[[str], object]) -> tuple[str, str, Any] | None:
        """Side, operator and constant of a comparison with a constant. is_side: true for a side of interest."""
        found = _comparison_of(operand)
        if found is None:
            return None
        left, sign, right = found
        if sign != "in" and is_side(right):
            left, sign, right = right, _MIRRORED[sign], left
        if not is_side(left):
            return None
        if (literal := _LITERAL.fullmatch(right)) is not None and sign != "in":
            return left, sign, literal["text"] if literal["text"] is not None else float(literal["number"])
        if {reading.variable for reading in readings(right, ROUTE)} - {"vars"}:
            return None
        try:
            value = self._known.value(right)
        except Unknown:
            return None
        if sign == "in":
            return (left, sign, tuple(value)) if isinstance(value, list) and all(map(_is_scalar, value)) else None
        return (left, sign, value) if _is_scalar(value) else None


def split(source: str, sign: str) -> list[str]:
    """Operands of `&&` or `||`; the expression itself if it is no such operation. Outer parentheses are removed."""
    found = tokens(source)
    while len(found) > 2 and found[0].text == "(" and closing_bracket(found, 0) == len(found) - 1:
        source = source[found[0].end : found[-1].start]
        found = tokens(source)
    operands, start, depth = [], 0, 0
    for at, token in enumerate(found[:-1]):
        depth += bracket_depth(token)
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


def _comparison_of(operand: str) -> tuple[str, str, str] | None:
    """Left side, operator and right side of a comparison outside of brackets."""
    found = tokens(operand)
    depth = 0
    for at, token in enumerate(found):
        depth += bracket_depth(token)
        if depth or at == 0:
            continue
        if token.kind == "name" and token.text == "in":
            return operand[: token.start].strip(), "in", operand[token.end :].strip()
        if token.kind == "mark" and token.text in "=!<>":
            end, sign = token.end, token.text
            if at + 1 < len(found) and found[at + 1].text == "=" and found[at + 1].start == end:
                sign, end = sign + "=", found[at + 1].end
            if sign not in SIGNS:
                return None
            return operand[: token.start].strip(), sign, operand[end:].strip()
    return None


def _is_member(source: str) -> bool:
    found = readings(source, ROUTE)
    return len(found) == 1 and found[0].alone and found[0].variable in ("payload", "event") and bool(found[0].path)


def _facts(match: Mapping[str, Any]) -> Iterator[tuple[MemberPath, tuple[Any, ...]]]:
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
    return bool(SIGNS[sign](value, wanted)) if same and _kind(value) in ("text", "number") else None


def _results(known: Results, comparisons: Sequence[tuple[str, Any]]) -> tuple[Any, ...] | None:
    """Results of a call that stand for all others in comparisons; None if unsure."""
    if isinstance(known, Texts) and any(sign not in ("==", "!=", "in") for sign, _ in comparisons):
        return None
    constants = [
        each for sign, wanted in comparisons for each in (wanted if sign == "in" else (wanted,)) if each is not None
    ]
    return known.values(constants) or None


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
