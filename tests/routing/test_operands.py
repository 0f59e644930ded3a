"""Operand trees of expressions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.routing.cel.operands import Operand, operands


def shape(operand: Operand) -> object:
    return (operand.sign, *map(shape, operand.parts)) if operand.parts else operand.source


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a", "a"),
        ("", ""),
        ("((a))", "a"),
        ("a && b && c", ("&&", "a", "b", "c")),
        ("a || b && c", ("||", "a", ("&&", "b", "c"))),
        ("(a || b) && !(c || d)", ("&&", ("||", "a", "b"), "!(c || d)")),
        ("a ? b : c", ("?", "a", "b", "c")),
        ("a && b ? (c ? d : e) : f ? g : h", ("?", ("&&", "a", "b"), ("?", "c", "d", "e"), ("?", "f", "g", "h"))),
        ("a ? b ? c : d : e", ("?", "a", ("?", "b", "c", "d"), "e")),
        ("x.?a.orValue(0) > 1 && y[?'b'] == '&& || ? :'", ("&&", "x.?a.orValue(0) > 1", "y[?'b'] == '&& || ? :'")),
        ("{'a': 1, 'b': x ? 1 : 2}", "{'a': 1, 'b': x ? 1 : 2}"),
        ("x.exists(i, i > 1 || i < 0)", "x.exists(i, i > 1 || i < 0)"),
        ("(a) && (b)", ("&&", "a", "b")),
        ("a // || b\n&& c", ("&&", "a", "c")),
    ],
)
def test_shape(source: str, expected: object) -> None:
    assert shape(operands(source)) == expected


TREES = st.recursive(
    st.sampled_from(["a", "b.c", "'&& ('", "f(x && y)", "d[0]", "!e", "g.?h"]),
    lambda inner: (
        st.builds("({} {} {})".format, inner, st.sampled_from(["&&", "||"]), inner)
        | st.builds("({} ? {} : {})".format, inner, inner, inner)
    ),
)


@given(source=TREES, before=st.sampled_from(["", " ", "( "]))
def test_every_operand_stands_where_it_says(source: str, before: str) -> None:
    text = before + source + (")" if "(" in before else "")
    waiting = [operands(text)]
    while waiting:
        operand = waiting.pop()
        assert text[operand.start : operand.start + len(operand.source)] == operand.source
        waiting += operand.parts
