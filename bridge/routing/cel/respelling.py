"""Corrections of expressions in the spelling of other languages."""

from __future__ import annotations

from bridge.routing.cel.expression import ROUTE, compile_error
from bridge.routing.cel.failure import misspelling
from bridge.routing.cel.tokens import closing_braces

_MOST = 20
"""Most corrections of one expression."""


def respelled(source: str) -> str | None:
    """Expression with the operators and words of CEL (`==` for `=`, `&&` for `and`); None if that does not suffice."""
    changed = source
    for _ in range(_MOST):
        error = compile_error(changed, ROUTE | {"item", "index"})
        if error is None:
            return changed if changed != source else None
        found = misspelling(error, changed)
        if found is None:
            return None
        start, end, right = found
        changed = changed[:start] + right + changed[end:]
    return None


def inner_expression(source: str) -> str | None:
    """Expression in the braces that surround a whole text; None if there are none or it does not compile."""
    text = source.strip()
    if not text.startswith("{{") or closing_braces(text, 2) != len(text) - 2:
        return None
    inner = text[2:-2].strip()
    return inner if inner and compile_error(inner, ROUTE | {"item", "index"}) is None else None
