"""Conditions evaluated without CEL have the results of CEL."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.core.errors import ExpressionError
from bridge.routing.cel.comparison import comparison
from bridge.routing.cel.expression import ComparedExpression, Expression
from tests.kit.examples import examples
from tests.routing.test_expression import compiled, scope

SIGNS = ["==", "!=", "<", "<=", ">", ">="]
NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70),
    st.sampled_from([2**53, 2**53 + 1, -(2**53) - 1, 2**63, 0, 1, -1]),
    st.floats(allow_nan=False),
    st.sampled_from([0.0, -0.0, 0.5, 1.0, 9007199254740993.0]),
)
TEXTS = st.text(alphabet="ab'\" \0é", max_size=4)
VALUES = st.one_of(NUMBERS, TEXTS, st.booleans(), st.none(), st.just([]), st.just({"a": 1}))
NUMBER_LITERALS = st.one_of(
    st.integers(-(2**54), 2**54).map(str),
    st.sampled_from(["0", "0.0", "1", "1.0", "-1", "0.5", "-0.0", "9007199254740993", "9007199254740992.0"]),
)
TEXT_LITERALS = st.text(alphabet="ab é", max_size=3).flatmap(lambda text: st.sampled_from([f"'{text}'", f'"{text}"']))


def outcome(condition: Any, *arguments: Any) -> Any:
    try:
        return condition(*arguments)
    except ExpressionError as error:
        return str(error)


@settings(max_examples=examples(600), deadline=None)
@given(st.sampled_from(SIGNS), st.one_of(NUMBER_LITERALS, TEXT_LITERALS), VALUES, st.booleans())
def test_it_is_what_cel_says(sign: str, literal: str, value: Any, there: bool) -> None:
    expression = compiled(f"payload.a.b {sign} {literal}", "condition")
    data = {"a": {"b": value} if there else {}}
    assert outcome(expression.condition, scope(data)) == outcome(Expression.condition, expression, scope(data))


@pytest.mark.parametrize("data", [None, {}, {"a": 5}, {"a": []}, [1], "x", {"a": {"b": 1}, "b": 1}])
def test_other_payloads_too(data: Any) -> None:
    expression = compiled("payload.a.b > 0", "condition")
    assert outcome(expression.condition, scope(data)) == outcome(Expression.condition, expression, scope(data))


@pytest.mark.parametrize(
    ("text", "data", "expected"),
    [
        ("payload.total > 0.0", {"total": 5}, True),
        ("payload.total > 0.0", {"total": 0.0}, False),
        ("payload.state == 'paid'", {"state": "paid"}, True),
        ('payload.state != "paid"', {"state": "new"}, True),
        ("event.type == 'order.created'", None, True),
        ("event.partition >= 4", None, False),
        ("vars.currency == 'EUR'", None, True),
    ],
)
def test_it_is_used_for_the_commonest_conditions(text: str, data: Any, expected: bool) -> None:
    expression = compiled(text, "condition")
    assert isinstance(expression, ComparedExpression)
    assert expression.condition(scope(data)) is expected
    assert expression.value(scope(data)) is expected
    assert expression.text(scope(data)) == str(expected).lower()


@pytest.mark.parametrize(
    "text",
    [
        "payload.a > 0 && payload.b > 0", "payload.a > payload.b", "payload.a + 1 > 0", "!(payload.a > 0)",
        "payload.a[0] > 1", "payload.a == r'x'", r"payload.a == 'x\n'", "payload.a > 1u", "payload.a > 1e3",
        "payload.a > 0x1", "payload.a > 'x'", "payload > 1", "payload.?a == 1", "0 < payload.a", "payload.a == true",
    ],
)  # fmt: skip
def test_nothing_else_is_answered_here(text: str) -> None:
    assert comparison(text) is None
