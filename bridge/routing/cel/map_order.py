"""Deterministic order for `map` and `filter` over a map: by its sorted keys.

The CEL library iterates over a map in an order that differs between processes, and a redelivered message could lead
to other commands. Lists keep their order, at a fraction of a microsecond.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cel_expr_python import cel

from bridge.routing.cel.nulls import LOSES_NULLS, recount
from bridge.routing.cel.tokens import Token, opening_bracket, tokens

_MACROS = ("map", "filter")
"""Macros whose result has the order of their range. `all`, `exists` and `exists_one` return the same in any order."""

_BEFORE = "cel.bind(range_, dyn("
_BEHIND = "), type(range_) == map ? sorted_keys_(range_) : range_)"
_CLOSING = frozenset(")]}")


def _sorted_keys(found: dict[Any, Any]) -> list[Any]:
    keys = sorted(found, key=lambda key: (key.__class__.__name__, key))
    if LOSES_NULLS:
        recount(found)
    found.clear()  # the library never releases its reference to this copy; clear it to release at least the values
    return keys


def functions() -> list[cel.FunctionDecl]:
    """Function declarations that an environment needs for `in_order`."""
    of_map = cel.Overload("sorted_keys_", cel.Type.DYN, [cel.Type.Map(cel.Type.DYN, cel.Type.DYN)], False, _sorted_keys)
    return [cel.FunctionDecl("sorted_keys_", [of_map])]


def in_order(text: str) -> str:
    """Rewrite an expression with every `map` and `filter` in a fixed order. The text must compile."""
    found = tokens(text)
    pieces: list[tuple[int, str]] = []
    for at in range(1, len(found) - 2):
        if _is_macro(found, at) and not _gives_list(found, at - 1):
            pieces += (found[_start(found, at - 1)].start, _BEFORE), (found[at - 1].end, _BEHIND)
    for position, piece in sorted(pieces, reverse=True):
        text = text[:position] + piece + text[position:]
    return text


def _is_macro(found: Sequence[Token], dot: int) -> bool:
    return found[dot].text == "." and found[dot + 1].text in _MACROS and found[dot + 2].text == "("


def _gives_list(found: Sequence[Token], last: int) -> bool:
    """True if the operand is itself the result of a macro. A chain of macros then nests no deeper."""
    return found[last].text == ")" and (opening := opening_bracket(found, last)) > 2 and _is_macro(found, opening - 2)


def _start(found: Sequence[Token], last: int) -> int:
    """Index of the first token of the operand that ends with the token `last`."""
    at = last
    while True:
        mark = found[at].text
        if mark in _CLOSING:
            at = opening_bracket(found, at)
            if at > 0 and _ends_operand(found[at - 1]):  # a call or an index: the tokens before it belong to it
                at -= 1
                continue
        elif mark == "`":
            at = next(before for before in range(at - 1, -1, -1) if found[before].text == "`")
        dot = at - 1 - (at > 1 and found[at - 1].text == "?" and found[at - 2].text == ".")
        if at == 0 or found[dot].text != ".":
            return at
        if dot == 0 or not _ends_operand(found[dot - 1]):
            return dot
        at = dot - 1


def _ends_operand(token: Token) -> bool:
    if token.kind == "name":
        return token.text != "in"
    return token.kind in ("string", "number") or token.text in _CLOSING or token.text == "`"
