"""The surprises of CEL in docs/routing.md, and their remedies, are described correctly."""

from __future__ import annotations

from typing import Any

import pytest

from bridge.core.errors import ExpressionError
from bridge.core.message import Envelope, Position
from bridge.routing.cel.expression import Compiler
from bridge.routing.cel.scope import RouteScope
from tests.docs.document import read

FAILS = object()

CASES: Any = (
    ("payload.total > 0", {"total": 9.5}, True),
    ("payload.total > 0", {"total": 25}, True),
    ("payload.total + 1 > 10", {"total": 9.5}, FAILS),
    ("double(payload.total) + 1.0 > 10.0", {"total": 9.5}, True),
    ("double(payload.total) + 1.0 > 10.0", {"total": 25}, True),
    ("payload.discount > 0", {}, FAILS),
    ("has(payload.discount) && payload.discount > 0", {}, False),
    ("has(payload.discount) && payload.discount > 0", {"discount": 2}, True),
    ("payload.?discount.orValue(0) > 0", {}, False),
    ("payload.?discount.orValue(0) > 0", {"discount": 2.5}, True),
    ("has(payload.a.b)", {}, FAILS),
    ("has(payload.a) && has(payload.a.b)", {}, False),
    ("event.subject == ''", {}, False),
    ("event.subject == null", {}, True),
    ("event.headers['region'] == 'eu'", {}, FAILS),
    ("event.headers.?region.orValue('none') == 'none'", {}, True),
    ("payload.prices.map(k, k) == ['a', 'b', 'c', 'd']", {"prices": {"d": 1, "b": 2, "a": 3, "c": 4}}, True),
)


@pytest.mark.parametrize(("expression", "payload", "expected"), CASES)
def test_expression(expression: str, payload: dict[str, Any], expected: Any) -> None:
    documented = expression.removesuffix(" == 'eu'").removesuffix(" == 'none'").removesuffix(" == ['a', 'b', 'c', 'd']")
    assert f"`{documented}`" in read("docs/routing.md")
    envelope = Envelope("m", "1", "s", "t", payload, Position("c", "orders", 0, 0))
    compiler = Compiler(lambda path, what: pytest.fail(what))
    condition = compiler.condition(expression, ("when",), "when")
    assert condition is not None
    scope = RouteScope(envelope, payload, {})
    if expected is FAILS:
        with pytest.raises(ExpressionError):
            condition.condition(scope)
    else:
        assert condition.condition(scope) is expected
