"""Types of payloads: an expression that works for a payload of the schema is not reported."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from bridge.codecs.schema_views import view_of
from bridge.core.errors import ExpressionError, Problem
from bridge.core.message import Envelope, Position
from bridge.routing.cel.expression import Compiler
from bridge.routing.cel.scope import RouteScope
from bridge.routing.payload_types import misfits

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "string": st.sampled_from(["", "x", "5"]),
    "integer": st.integers(-3, 9) | st.just(5.0),
    "number": st.integers(-3, 9) | st.floats(-3, 9).map(lambda number: round(number, 1)),
    "boolean": st.booleans(),
    "null": st.none(),
    "array": st.lists(st.sampled_from(["x", "yy"]), max_size=2),
    "object": st.just({"b": "x"}),
}
ITEMS: dict[str, dict[str, Any]] = {
    "array": {"items": {"type": "string"}},
    "object": {"properties": {"b": {"type": "string"}}, "required": ["b"]},
}

EXPRESSIONS = (
    "payload.a > 5", "payload.a < 5.5", "payload.a >= 'x'", "payload.a + 1 > 2", "payload.a + 'x' > 'y'",
    "payload.a.startsWith('x')", "payload.a.size() > 1", "size(payload.a) > 0", "payload.a && true", "!payload.a",
    "payload.a ? 1 > 0 : false", "payload.a.exists(each, each > 'x')", "payload.a.all(each, each.size() > 1)",
    "payload.a[0] > 'w'", "payload.a.b > 'w'", "payload.a.b.startsWith('x')", "'x' in payload.a",
    "payload.a > payload.c",
    "payload.a + payload.c > 1", "string(payload.a).size() > 0", "double(payload.a) > 1.0", "-payload.a < 1",
    "has(payload.a) && payload.a > 5", "payload.a.matches('x')",
    "payload.a.filter(each, each > 'x').size() == 0", "type(payload.a) == string || payload.a > 5",
    "payload.a.map(each, each + 'y').size() > 0", "has(payload.z) || payload.a > 5",
)  # fmt: skip


@st.composite
def cases(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """Schema and a payload that conforms to it."""
    properties: dict[str, dict[str, Any]] = {}
    payload = {}
    for name in ("a", "c"):
        kinds = draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=2, unique=True))
        kind = draw(st.sampled_from(kinds))
        payload[name] = draw(VALUES[kind])
        properties[name] = {"type": kinds if len(kinds) > 1 else kinds[0]}
        for each in kinds:
            properties[name] |= ITEMS.get(each, {})
    schema = {"type": "object", "properties": properties, "required": ["a", "c"], "additionalProperties": False}
    return schema, payload


@given(cases(), st.sampled_from(EXPRESSIONS))
def test_an_expression_that_works_is_not_reported(case: tuple[dict[str, Any], dict[str, Any]], source: str) -> None:
    schema, payload = case
    compiler = Compiler(lambda path, what: Problem("", 0, 0, "", what))
    expression = compiler.condition(source, (), "here")
    if expression is None:
        return
    envelope = Envelope("1", "1", "/s", "t", payload, Position("l", "t", 0, 0))
    try:
        expression.condition(RouteScope(envelope, payload, {}, 1e9))
    except ExpressionError:
        return
    assert list(misfits(source, view_of(json.dumps(schema)))) == []


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["type", "properties", "items", "fields", "name", "$ref", "allOf", "anyOf", "enum", "required",
                         "additionalProperties", "a", "record", "#/a", "values"]), inner, max_size=4),
    max_leaves=12,
))  # fmt: skip
def test_any_json_is_a_schema_or_refused(schema: Any) -> None:
    try:
        view = view_of(json.dumps(schema))
        list(misfits("payload.a.b > 5 && payload.c == 'x'", view))
    except ValueError:
        return
