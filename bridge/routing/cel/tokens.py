"""CEL tokenizer, for finding the variables that an expression reads. The CEL library parses the actual grammar."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

_TOKEN = re.compile(
    r"""
      (?P<space>\s+|//[^\n]*)
    | (?P<string>[rRbB]{0,2}(?:
          (?:(?<=[rR])|(?<=[rR][bB]))(?:'''(?s:.*?)'''|\"{3}(?s:.*?)\"{3}|'[^'\n]*'|"[^"\n]*")
        | '''(?s:\\.|[^\\])*?'''|\"{3}(?s:\\.|[^\\])*?\"{3}|'(?:\\.|[^\\'\n])*'|"(?:\\.|[^\\"\n])*"))
    | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
    | (?P<number>\d[\dA-Za-z_]*)
    | (?P<mark>.)
    """,
    re.VERBOSE,
)
_PLAIN_STRING = re.compile(r"""'[^'"\\\n]*'|"[^'"\\\n]*\"""")


@dataclass(frozen=True, slots=True)
class Token:
    """A token of CEL.

    kind: string, name, number or mark (one character).
    start, end: offsets in the text.
    """

    kind: str
    text: str
    start: int
    end: int

    @property
    def key(self) -> str | None:
        """Value of a string literal without prefix and escapes, else None."""
        return self.text[1:-1] if self.kind == "string" and _PLAIN_STRING.fullmatch(self.text) else None


@lru_cache(maxsize=512)
def tokens(text: str) -> tuple[Token, ...]:
    """Tokens without white space and comments. Never fails: an unclosed quote is a mark."""
    return tuple(
        Token(found.lastgroup or "mark", found.group(), found.start(), found.end())
        for found in _TOKEN.finditer(text)
        if found.lastgroup != "space"
    )


def closing_bracket(found: Sequence[Token], at: int) -> int:
    """Position of the token that closes the bracket at a position; -1 without."""
    depth = 0
    for position in range(at, len(found)):
        depth += bracket_depth(found[position])
        if depth == 0:
            return position
    return -1


def opening_bracket(found: Sequence[Token], at: int) -> int:
    """Position of the token that opens the bracket closed at a position; -1 without."""
    depth = 0
    for position in range(at, -1, -1):
        depth += bracket_depth(found[position])
        if depth == 0:
            return position
    return -1


def bracket_depth(token: Token) -> int:
    """Change of the depth of brackets by a token: 1, -1 or 0."""
    return (token.text in "([{") - (token.text in ")]}")


def closing_braces(text: str, start: int) -> int:
    """Offset of the `}}` that ends the expression beginning at `start`, or -1.

    Braces in string literals and comments do not count. Braces of CEL maps are matched.
    """
    depth = 0
    position = start
    while found := _TOKEN.match(text, position):
        position = found.end()
        if found.group() == "{":
            depth += 1
        elif found.group() == "}":
            if depth == 0:
                return found.start() if text.startswith("}}", found.start()) else -1
            depth -= 1
    return -1


@dataclass(frozen=True, slots=True)
class VariableRead:
    """One place where an expression reads a variable.

    variable: name of the variable.
    path: members that are selected from it.
    indexed: for each member, True for `['x']`.
    alone: True if the expression contains nothing else. Plain access then returns the same value.
    """

    variable: str
    path: tuple[str, ...]
    indexed: tuple[bool, ...]
    alone: bool


@lru_cache(maxsize=512)
def readings(text: str, variables: frozenset[str]) -> tuple[VariableRead, ...]:
    """Places where the expression may read one of the variables.

    The result never misses a read. A name after a dot counts as a read of the whole variable, and a name bound by a
    macro as a read of the variable.
    """
    found = tokens(text)
    result: list[VariableRead] = []
    for start, token in enumerate(found):
        if token.kind != "name" or token.text not in variables:
            continue
        path: list[str] = []
        indexed: list[bool] = []
        position = start + 1
        plain = True
        behind_dot = start > 0 and found[start - 1].text == "."
        while not behind_dot:
            member, width, strict = _member(found, position)
            if member is None:
                break
            path.append(member)
            indexed.append(found[position].text == "[")
            plain = plain and strict
            position += width
        alone = start == 0 and position == len(found) and plain
        result.append(VariableRead(token.text, tuple(path), tuple(indexed), alone))
    return tuple(result)


def _member(found: Sequence[Token], position: int) -> tuple[str | None, int, bool]:
    """Member selected at `position` (`.x`, `.?x`, `['x']`, `[?'x']`), its number of tokens, and True without `?`."""
    mark = found[position].text if position < len(found) else ""
    if mark not in (".", "["):
        return None, 0, False
    optional = position + 1 < len(found) and found[position + 1].text == "?"
    at = position + 1 + optional
    if at >= len(found):
        return None, 0, False
    if mark == ".":
        called = at + 1 < len(found) and found[at + 1].text == "("
        if found[at].kind != "name" or called:
            return None, 0, False
        return found[at].text, 2 + optional, not optional
    key = found[at].key
    if key is None or at + 1 >= len(found) or found[at + 1].text != "]":
        return None, 0, False
    return key, 3 + optional, not optional
