"""Operands of `&&`, `||` and `? :` in an expression, with their places in its text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bridge.routing.cel.tokens import Token, bracket_depth, closing_bracket, tokens


@dataclass(frozen=True, slots=True)
class Operand:
    """An expression, or an operand in one.

    start: offset of its text in the whole expression.
    sign: `&&`, `||` or `?`, by which it joins its parts; empty for an operand without parts.
    """

    source: str
    start: int = 0
    sign: str = ""
    parts: tuple[Operand, ...] = ()


def operands(source: str, start: int = 0) -> Operand:
    """Operand tree of an expression. Operators in brackets of calls, lists, maps and macros are not split."""
    found = tokens(source)
    if not found:
        return Operand(source, start)
    first, last = 0, len(found)
    while last - first > 2 and found[first].text == "(" and closing_bracket(found, first) == last - 1:
        first, last = first + 1, last - 1
    inside = found[first:last]
    offset, end = inside[0].start, inside[-1].end
    marks = _marks(inside)
    shape = Operand(source[offset:end], start + offset)
    questions = [mark for mark in marks if mark[0] == "?"]
    if questions:
        colon = _colon(marks)
        if colon is None:
            return shape
        return _joined(source, shape, "?", [questions[0], colon], start)
    for sign in ("||", "&&"):
        if cuts := [mark for mark in marks if mark[0] == sign]:
            return _joined(source, shape, sign, cuts, start)
    return shape


def _joined(source: str, shape: Operand, sign: str, cuts: Sequence[tuple[str, int, int]], start: int) -> Operand:
    begins = [shape.start - start, *(end for _, _, end in cuts)]
    ends = [*(at for _, at, _ in cuts), shape.start - start + len(shape.source)]
    parts = tuple(operands(source[begin:end], start + begin) for begin, end in zip(begins, ends, strict=True))
    return Operand(shape.source, shape.start, sign, parts)


def _marks(found: Sequence[Token]) -> list[tuple[str, int, int]]:
    """Operators outside of brackets: text, begin and end."""
    marks = []
    depth = 0
    for at, token in enumerate(found):
        if token.kind != "mark":
            continue
        depth += bracket_depth(token)
        if depth:
            continue
        following = found[at + 1] if at + 1 < len(found) else None
        if token.text in "&|" and following is not None and following.text == token.text:
            if following.start == token.end:
                marks.append((token.text * 2, token.start, following.end))
        elif token.text == ":" or (token.text == "?" and (at == 0 or found[at - 1].text not in (".", "["))):
            marks.append((token.text, token.start, token.end))
    return marks


def _colon(marks: Sequence[tuple[str, int, int]]) -> tuple[str, int, int] | None:
    """Colon of the first `?`."""
    depth = 0
    for mark in marks:
        depth += (mark[0] == "?") - (mark[0] == ":")
        if mark[0] == ":" and depth == 0:
            return mark
    return None
