from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.message import Envelope, Position
from bridge.core.origin import (
    KEY,
    MessageOrigin,
    UnknownEnvelope,
    Unwrapped,
    check,
    may_be_wrapped,
    read_origin,
    unwrap,
    wrap_payload,
)
from tests.docs.document import blocks

ORIGIN = MessageOrigin("shop/42", "start-order")
TRACED = MessageOrigin("shop/42", "start-order", 2, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "k=v")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.just(KEY), inner),
    max_leaves=8,
)


def envelope(**fields: Any) -> Envelope:
    return Envelope("shop/42", "42", "shop", "order.created", {}, Position("c", "t", 0, 1), **fields)


@given(JSON, st.sampled_from([ORIGIN, TRACED]))
def test_what_is_wrapped_comes_out_again(data: Any, origin: MessageOrigin) -> None:
    text = json.dumps(wrap_payload(data, origin))
    assert may_be_wrapped(text)
    assert unwrap(json.loads(text)) == Unwrapped(data, origin)


@pytest.mark.parametrize("layout", [{"indent": 4}, {"separators": (",", ":")}, {}])
def test_an_engine_may_write_it_anew(layout: dict[str, Any]) -> None:
    text = json.dumps(wrap_payload([1], ORIGIN), **layout)
    assert may_be_wrapped(text)
    assert unwrap(json.loads(text)) == Unwrapped([1], ORIGIN)


@pytest.mark.parametrize(
    "value",
    [
        None, 1, "x", [], {}, {"data": 1}, {KEY: 1}, {KEY: {}}, {KEY: {"v": "1"}}, {KEY: {"v": 1}, "more": 1},
        [{KEY: {"v": 1}}],
    ],
)  # fmt: skip
def test_bare_data_stays_as_it_is(value: Any) -> None:
    assert unwrap(value) == Unwrapped(value)


def test_the_wire_shape() -> None:
    assert wrap_payload({"total": 5}, ORIGIN) == {
        "bridge:message": {"v": 1, "id": "shop/42", "route": "start-order", "data": {"total": 5}}
    }
    assert wrap_payload(None, TRACED)[KEY] == {
        "v": 1, "id": "shop/42", "route": "start-order", "part": 2, "traceparent": TRACED.traceparent,
        "tracestate": "k=v", "data": None,
    }  # fmt: skip


def test_the_documented_shape() -> None:
    (shown,) = (block for block in blocks("docs/correlation.md") if block.name == "envelope.json")
    assert unwrap(json.loads(shown.text)) == Unwrapped({"total": 5}, MessageOrigin("shop/order-42", "start-order"))


def test_unknown_fields_are_ignored_and_unknown_versions_are_not() -> None:
    assert unwrap({KEY: {"v": 1, "id": "a", "route": "b", "new": 1, "data": 3}}) == Unwrapped(
        3, MessageOrigin("a", "b")
    )
    with pytest.raises(UnknownEnvelope, match="version 2"):
        unwrap({KEY: {"v": 2, "data": 3}})
    with pytest.raises(UnknownEnvelope, match="version 2"):
        check({KEY: {"v": 2, "data": 3}})


@pytest.mark.parametrize(
    "inside", [{"id": 1}, {"id": "a"}, {"id": 5, "route": 1}, {"id": "a", "route": "b", "part": 1.5}]
)
def test_a_damaged_message_is_none(inside: dict[str, Any]) -> None:
    damaged = {KEY: {"v": 1, **inside, "data": 3}}
    assert unwrap(damaged) == Unwrapped(3)
    assert read_origin(json.dumps(damaged)) == Unwrapped(None)
    with pytest.raises(UnknownEnvelope, match="id or route"):
        check(damaged)


@pytest.mark.parametrize(
    "value", [3, {KEY: 1}, {KEY: {"v": 1, "data": 7}}, wrap_payload(1, ORIGIN), wrap_payload(1, TRACED)]
)
def test_what_can_be_meant_passes(value: Any) -> None:
    check(value)


def test_trace_context_comes_from_extensions_or_headers() -> None:
    parent = TRACED.traceparent
    assert MessageOrigin.of(envelope(), "r") == MessageOrigin("shop/42", "r")
    assert MessageOrigin.of(envelope(headers={"traceparent": parent}), "r", 1) == MessageOrigin(
        "shop/42", "r", 1, parent
    )
    both = envelope(extensions={"traceparent": parent, "tracestate": "a=b"}, headers={"traceparent": "other"})
    assert MessageOrigin.of(both, "r") == MessageOrigin("shop/42", "r", 0, parent, "a=b")
