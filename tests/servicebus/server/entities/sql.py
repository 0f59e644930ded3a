"""Conditions of SQL filters: comparison, LIKE, IN, IS NULL, EXISTS, AND, OR, NOT, arithmetic, three-valued logic.

Names: `name` and `user.name` are application properties, `sys.Name` system properties.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Any, Protocol


class Facts(Protocol):
    def system(self, name: str) -> Any: ...

    def user(self, name: str) -> Any: ...

    def has(self, name: str) -> bool: ...


Condition = Callable[[Facts], Any]
"""Compiled condition: True, False, or None for unknown."""

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<number>\d+\.\d*(?:[eE][+-]?\d+)?|\.\d+|\d+)
      | (?P<text>'(?:[^']|'')*')
      | (?P<name>[A-Za-z_@][\w$]*(?:\s*\.\s*(?:[A-Za-z_][\w$-]*|\[[^\]]+\]))?|\[[^\]]+\])
      | (?P<sign><>|!=|<=|>=|[=<>()+\-*/%,])
    )""",
    re.VERBOSE,
)
_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "<>": operator.ne,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "%": operator.mod,
}
_WORDS = {"AND", "OR", "NOT", "LIKE", "IN", "IS", "NULL", "EXISTS", "TRUE", "FALSE", "ESCAPE"}


def parse(expression: str) -> Condition:
    """Parse an SQL expression. Raises: ValueError."""
    parser = _Parser(_tokens(expression))
    condition = parser.disjunction()
    if parser.kind != "end":
        raise ValueError(f"SQL filter: {parser.value!r} is not understood in {expression!r}")
    return condition


def _tokens(expression: str) -> list[tuple[str, str]]:
    found, at = [], 0
    expression = expression.rstrip()
    while at < len(expression):
        match = _TOKEN.match(expression, at)
        if match is None:
            raise ValueError(f"SQL filter: {expression[at:]!r} is not understood")
        kind, value = match.lastgroup or "", match[match.lastgroup or 0]
        if kind == "name" and value.upper() in _WORDS:
            kind, value = "word", value.upper()
        found.append((kind, value))
        at = match.end()
    return [*found, ("end", "")]


class _Parser:
    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self._tokens, self._at = tokens, 0

    @property
    def kind(self) -> str:
        return self._tokens[self._at][0]

    @property
    def value(self) -> str:
        return self._tokens[self._at][1]

    def _take(self, *values: str) -> str | None:
        if self.kind in ("word", "sign") and self.value in values:
            taken = self.value
            self._at += 1
            return taken
        return None

    def _need(self, value: str) -> None:
        if self._take(value) is None:
            raise ValueError(f"SQL filter: {value} is missing before {self.value!r}")

    def disjunction(self) -> Condition:
        left = self._conjunction()
        while self._take("OR"):
            left = _or(left, self._conjunction())
        return left

    def _conjunction(self) -> Condition:
        left = self._negation()
        while self._take("AND"):
            left = _and(left, self._negation())
        return left

    def _negation(self) -> Condition:
        if self._take("NOT"):
            return _not(self._negation())
        return self._predicate()

    def _predicate(self) -> Condition:
        if self._take("EXISTS"):
            self._need("(")
            name = _bare(self._name())
            self._need(")")
            return lambda facts: facts.has(name)
        left = self._sum()
        if sign := self._take(*_COMPARISONS):
            return _apply(_COMPARISONS[sign], left, self._sum())
        if self._take("IS"):
            negated = self._take("NOT") is not None
            self._need("NULL")
            return lambda facts: (left(facts) is None) is not negated
        negated = self._take("NOT") is not None
        if self._take("LIKE"):
            found = self._like(left)
        elif self._take("IN"):
            found = self._in(left)
        elif negated:
            raise ValueError(f"SQL filter: LIKE or IN is missing before {self.value!r}")
        else:
            return left
        return _not(found) if negated else found

    def _like(self, left: Condition) -> Condition:
        pattern = self._text()
        escape = self._text() if self._take("ESCAPE") else None
        expression = _like_expression(pattern, escape)
        return _apply(lambda text, _: isinstance(text, str) and bool(expression.fullmatch(text)), left, _constant(0))

    def _in(self, left: Condition) -> Condition:
        self._need("(")
        choices = [self._sum()]
        while self._take(","):
            choices.append(self._sum())
        self._need(")")
        equal = [_apply(operator.eq, left, choice) for choice in choices]
        found = equal[0]
        for one in equal[1:]:
            found = _or(found, one)
        return found

    def _sum(self) -> Condition:
        left = self._product()
        while sign := self._take("+", "-"):
            left = _apply(_ARITHMETIC[sign], left, self._product())
        return left

    def _product(self) -> Condition:
        left = self._operand()
        while sign := self._take("*", "/", "%"):
            left = _apply(_ARITHMETIC[sign], left, self._operand())
        return left

    def _operand(self) -> Condition:
        if self._take("("):
            inner = self.disjunction()
            self._need(")")
            return inner
        if self._take("-"):
            return _apply(operator.sub, _constant(0), self._operand())
        if word := self._take("TRUE", "FALSE", "NULL"):
            return _constant({"TRUE": True, "FALSE": False, "NULL": None}[word])
        if self.kind == "number":
            number = self.value
            self._at += 1
            return _constant(int(number) if number.isdecimal() else float(number))
        if self.kind == "text":
            return _constant(self._text())
        return _property(self._name())

    def _text(self) -> str:
        if self.kind != "text":
            raise ValueError(f"SQL filter: a text is missing before {self.value!r}")
        text = self.value[1:-1].replace("''", "'")
        self._at += 1
        return text

    def _name(self) -> str:
        if self.kind != "name":
            raise ValueError(f"SQL filter: a value is missing before {self.value!r}")
        name = self.value
        self._at += 1
        return name


def _constant(value: Any) -> Condition:
    return lambda facts: value


def _bare(name: str) -> str:
    scope, dot, rest = name.partition(".")
    name = rest if dot and scope.strip().lower() == "user" else name
    return name.strip().removeprefix("[").removesuffix("]")


def _property(name: str) -> Condition:
    scope, dot, rest = name.partition(".")
    if dot and scope.strip().lower() == "sys":
        system = rest.strip().removeprefix("[").removesuffix("]")
        return lambda facts: facts.system(system)
    user = _bare(name)
    return lambda facts: facts.user(user)


def _apply(operation: Callable[[Any, Any], Any], left: Condition, right: Condition) -> Condition:
    """Apply a binary operation; unknown when a side is unknown or the operation does not support the types."""

    def condition(facts: Facts) -> Any:
        one, other = left(facts), right(facts)
        if one is None or other is None:
            return None
        try:
            return operation(one, other)
        except (TypeError, ZeroDivisionError):
            return None

    return condition


def _and(left: Condition, right: Condition) -> Condition:
    def condition(facts: Facts) -> Any:
        one, other = left(facts), right(facts)
        if one is False or other is False:
            return False
        return None if one is None or other is None else True

    return condition


def _or(left: Condition, right: Condition) -> Condition:
    def condition(facts: Facts) -> Any:
        one, other = left(facts), right(facts)
        if one is True or other is True:
            return True
        return None if one is None or other is None else False

    return condition


def _not(inner: Condition) -> Condition:
    def condition(facts: Facts) -> Any:
        value = inner(facts)
        return None if value is None else value is not True

    return condition


def _like_expression(pattern: str, escape: str | None) -> re.Pattern[str]:
    parts, characters = [], iter(pattern)
    for character in characters:
        if character == escape:
            parts.append(re.escape(next(characters, "")))
        else:
            parts.append({"%": ".*", "_": "."}.get(character) or re.escape(character))
    return re.compile("".join(parts), re.DOTALL)
