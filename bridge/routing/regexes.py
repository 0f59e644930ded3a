"""Regular expressions of `matches` that are not valid, or match no text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence

from bridge.config.model.bridge import BridgeConfig
from bridge.core.errors import ConfigPath
from bridge.routing.cel.evaluator import Evaluator, Unknown
from bridge.routing.cel.expression import ROUTE, Expression
from bridge.routing.cel.pattern import TOKEN, is_optional
from bridge.routing.cel.tokens import Token, bracket_depth, readings, tokens
from bridge.routing.conditions import RuleFinding

_LONGEST = 10_000
_FLAGS = re.compile(r"\(\?[a-zA-Z-]*m")
_CONSUMERS = frozenset(("class", "unicode", "atom"))
_BEGINS = ("^", r"\A")
_ENDS = ("$", r"\z")
_EMPTY = re.compile(r"\\[bBAzQE]")
"""Escapes that match no character, or whose length is not known here."""


def regex_findings(config: BridgeConfig, compiled: Iterable[tuple[ConfigPath, Expression]]) -> Iterator[RuleFinding]:
    """Findings about the constant regular expressions in compiled expressions."""
    known = Evaluator(config.vars)
    judged: dict[str, tuple[str, str] | None] = {}
    for path, expression in compiled:
        if "matches" not in expression.source or len(expression.source) > _LONGEST:
            continue
        for argument in _arguments(expression.source):
            if argument not in judged:
                judged[argument] = _judged(argument, known)
            if (found := judged[argument]) is not None:
                yield found[0], path, f"{found[1]}\n  {expression.source}"


def _judged(argument: str, known: Evaluator) -> tuple[str, str] | None:
    """Code and text of the problem of a constant pattern, given as an expression."""
    try:
        pattern = known.value(argument)
    except Unknown:
        return None
    if not isinstance(pattern, str):
        return None
    try:
        known.value(f"''.matches({json.dumps(pattern, ensure_ascii=False)})")
    except Unknown as unknown:
        is_invalid = "regular expression" in unknown.cause
        return ("R014", f"the regular expression {argument} is not valid (RE2)") if is_invalid else None
    if matches_nothing(pattern):
        return "R013", f"the regular expression {argument} matches no text: it needs a character outside of ^ and $"
    return None


def _arguments(source: str) -> Iterator[str]:
    """Patterns of the calls of `matches` that read no message: `text.matches(P)` and `matches(text, P)`."""
    found = tokens(source)
    for at, token in enumerate(found[:-1]):
        if token.text != "matches" or token.kind != "name" or found[at + 1].text != "(":
            continue
        arguments = _split(source, found, at + 1)
        wanted = 1 if at and found[at - 1].text == "." else 2
        if len(arguments) != wanted:
            continue
        if not {reading.variable for reading in readings(arguments[-1], ROUTE)} - {"vars"}:
            yield arguments[-1]


def _split(source: str, found: Sequence[Token], opening: int) -> list[str]:
    """Arguments of the call whose parenthesis is the token at `opening`."""
    arguments, depth, start = [], 0, found[opening].end
    for token in found[opening:]:
        depth += bracket_depth(token)
        if depth == 0 or (depth == 1 and token.text == ","):
            arguments.append(source[start : token.start].strip())
            start = token.end
        if depth == 0:
            return arguments
    return []


def matches_nothing(pattern: str) -> bool:
    """True for a pattern whose alternatives all need a character before `^` or after `$`. The pattern must be valid."""
    if _FLAGS.search(pattern):
        return False
    depth, impossible = 0, [False]
    before = after = False
    pending: list[tuple[bool, bool]] = []
    items = list(TOKEN.finditer(pattern))
    for at, item in enumerate(items):
        kind, text = item.lastgroup, item.group()
        if kind == "open":
            pending.append((before, after))
            depth += 1
        elif kind == "close":
            depth -= 1
            # A group may be empty: it changes nothing outside
            before, after = pending.pop() if pending else (False, False)
        elif depth:
            continue
        elif kind == "bar":
            impossible.append(False)
            before = after = False
        elif is_optional(items, at):
            continue
        elif text in _BEGINS:
            impossible[-1] = impossible[-1] or before
        elif text in _ENDS:
            after = True
        elif kind in _CONSUMERS or (kind == "escape" and not _EMPTY.match(text)):
            before = True
            impossible[-1] = impossible[-1] or after
    return all(impossible)
