"""Valid traceparents, handling of invalid ones, and the trace context of published messages."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.message import Envelope, Position
from bridge.core.origin import MessageOrigin
from bridge.core.trace_context import TraceContext, is_traceparent, is_tracestate, trace_context

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


def envelope(**fields: Any) -> Envelope:
    return Envelope("shop/42", "42", "shop", "order.created", {}, Position("c", "t", 0, 1), **fields)


@pytest.mark.parametrize(
    "text",
    [
        PARENT,
        f"00-{TRACE}-b7ad6b7169203331-00",
        f"00-{TRACE}-b7ad6b7169203331-ff",
        f"cc-{TRACE}-b7ad6b7169203331-01-what-comes-later",
        f"01-{TRACE}-b7ad6b7169203331-01",
    ],
)
def test_valid(text: str) -> None:
    assert is_traceparent(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00",
        PARENT.upper(),
        f" {PARENT}",
        f"{PARENT}\n",
        f"{PARENT}-more",
        f"{PARENT}x",
        f"ff-{TRACE}-b7ad6b7169203331-01",
        f"00-{'0' * 32}-b7ad6b7169203331-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-1]}-b7ad6b7169203331-01",
        f"00-{TRACE[:-1]}g-b7ad6b7169203331-01",
        f"00-{TRACE[:-1]}٣-b7ad6b7169203331-01",
        f"cc-{TRACE}-b7ad6b7169203331-01.what",
    ],
)
def test_not_valid(text: str) -> None:
    assert not is_traceparent(text)
    origin = MessageOrigin.of(envelope(headers={"traceparent": text, "tracestate": "a=b"}), "start")
    assert origin == MessageOrigin("shop/42", "start"), "ignored, and never fatal"


@pytest.mark.parametrize("text", ["a=b", "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE", "t1@v=x", "a=b , c=d,", "1t@v=x"])
def test_valid_state(text: str) -> None:
    assert is_tracestate(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ",",
        "a",
        "a=",
        "A=b",
        "1a=b",
        "a=b,a=c",
        "a=b=c",
        "a=\u00e9",
        "a=b\x00",
        ",".join(f"k{n}=v" for n in range(33)),
        "a=" + "x" * 511,
    ],
)
def test_not_valid_state(text: str) -> None:
    assert not is_tracestate(text)
    assert trace_context({"traceparent": PARENT, "tracestate": text}) == TraceContext(PARENT), (
        "the trace goes on without"
    )


@given(st.text())
def test_no_text_is_fatal(text: str) -> None:
    assert isinstance(is_traceparent(text), bool)
    assert isinstance(is_tracestate(text), bool)


@pytest.mark.parametrize("value", [None, 7, b"00", ["x"], {}])
def test_what_is_no_text_is_ignored(value: Any) -> None:
    assert trace_context({"traceparent": value}) is None
    assert trace_context({"traceparent": PARENT, "tracestate": value}) == TraceContext(PARENT)


def test_the_header_counts_before_the_extension_and_what_is_not_valid_does_not() -> None:
    other = PARENT.replace("b7", "c8")
    headers, extensions = {"traceparent": PARENT, "tracestate": "a=b"}, {"traceparent": other}
    assert MessageOrigin.of(envelope(headers=headers, extensions=extensions), "r").traceparent == PARENT
    assert MessageOrigin.of(envelope(extensions=extensions), "r").traceparent == other
    broken = MessageOrigin.of(envelope(headers={"traceparent": "broken"}, extensions=extensions), "r")
    assert (broken.traceparent, broken.tracestate) == (other, None)
    assert MessageOrigin.of(envelope(headers={"Diagnostic-Id": PARENT}), "r").traceparent == PARENT


def test_an_envelope_of_others_is_checked_too() -> None:
    assert MessageOrigin("m", "r", traceparent="broken", tracestate="a=b").trace is None
    assert MessageOrigin("m", "r", traceparent=PARENT, tracestate="broken").trace == TraceContext(PARENT)


def test_a_child_is_in_the_same_trace_under_a_span_of_its_own_made_of_its_id() -> None:
    event = uuid.uuid5(uuid.NAMESPACE_URL, "event")
    child = TraceContext(f"cc-{TRACE}-b7ad6b7169203331-fd-later", "a=b").child(str(event))
    assert child == TraceContext(f"00-{TRACE}-{event.hex[-16:]}-01", "a=b")
    assert is_traceparent(child.traceparent)
    assert TraceContext(PARENT).child(str(event)).traceparent != PARENT
    with pytest.raises(ValueError, match="no UUID"):
        TraceContext(PARENT).child("short")
