"""Header values in AMQP encoding, as Azure Event Hubs delivers them on its Kafka endpoint."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
from azure.servicebus._pyamqp._encode import encode_value
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.codecs import registry
from bridge.codecs.amqp_headers import decode_headers
from bridge.codecs.decoder import SourceDecoder
from bridge.core.message import Headers, Message, Position

WHERE = Position("hubs", "orders", 0, 1)
JSON, CLOUDEVENTS = registry.get("json"), registry.get("cloudevents")
MARK = ("mark", b"\xa1\x01x")
"""Header whose value can only be AMQP."""


def amqp(kind: str, value: Any) -> bytes:
    output = bytearray()
    encode_value(output, {"TYPE": kind, "VALUE": value})
    return bytes(output)


def integers(first: int, last: int) -> st.SearchStrategy[int]:
    return st.integers(first, last)


VALUES: st.SearchStrategy[tuple[str, Any, bytes | None]] = st.one_of(
    st.text(max_size=300).map(lambda text: ("STRING", text, text.encode())),
    st.text(max_size=20).map(lambda text: ("SYMBOL", text, text.encode())),
    st.binary(max_size=300).map(lambda data: ("BINARY", data, data)),
    st.booleans().map(lambda value: ("BOOL", value, b"true" if value else b"false")),
    *(
        integers(first, last).map(lambda value, kind=kind: (kind, value, str(value).encode()))  # type: ignore[misc]  # mypy cannot infer lambdas with defaults
        for kind, first, last in (
            ("UBYTE", 0, 255), ("BYTE", -128, 127), ("USHORT", 0, 2**16 - 1), ("SHORT", -(2**15), 2**15 - 1),
            ("UINT", 0, 2**32 - 1), ("INT", -(2**31), 2**31 - 1), ("ULONG", 0, 2**64 - 1),
            ("LONG", -(2**63), 2**63 - 1),
        )
    ),
    st.floats(allow_nan=False).map(lambda value: ("DOUBLE", value, str(value).encode())),
    st.sampled_from([0.1, 2.5, -1.0]).map(lambda value: ("FLOAT", value, str(value).encode())),
    st.uuids().map(lambda value: ("UUID", value, str(value).encode())),
    st.just(("NULL", None, None)),
)  # fmt: skip


@settings(deadline=None)
@given(st.lists(VALUES, max_size=4))
def test_every_value_of_an_amqp_sender_is_text(values: list[tuple[str, Any, bytes | None]]) -> None:
    headers = (MARK, *((f"h{at}", amqp(kind, value)) for at, (kind, value, _) in enumerate(values)))
    expected = (("mark", b"x"), *((f"h{at}", text) for at, (_, _, text) in enumerate(values)))
    assert decode_headers(headers) == expected


@settings(deadline=None)
@given(st.lists(st.tuples(st.text(max_size=4), st.text(max_size=8).filter(str.isprintable)), max_size=4))
def test_text_of_a_kafka_sender_stays(pairs: list[tuple[str, str]]) -> None:
    """Text stays text, also where it could be AMQP: `A` is `true` in AMQP."""
    headers: Headers = (
        *((name, text.encode()) for name, text in pairs),
        ("flag", b"A"),
        ("small", b"T5"),
        ("n", b"q1234"),
    )
    assert decode_headers(headers) == headers


@settings(deadline=None)
@given(st.lists(st.tuples(st.text(max_size=4), st.none() | st.binary(max_size=12)), max_size=4))
def test_noise_is_kept_or_decoded(pairs: list[tuple[str, bytes | None]]) -> None:
    headers = tuple(pairs)
    assert [name for name, _ in decode_headers(headers)] == [name for name, _ in headers]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"\x83" + (1767268800000).to_bytes(8), b"2026-01-01T12:00:00Z"),
        (b"\x83" + (1767268800120).to_bytes(8), b"2026-01-01T12:00:00.120Z"),
        (b"\x83" + (2**62).to_bytes(8), str(2**62).encode()),
        (b"\xa1\x03ab", b"\xa1\x03ab"),
        (b"\xa1\x01ab", b"\xa1\x01ab"),
        (b"\xa1\x01\xff", b"\xa1\x01\xff"),
        (b"\xb1\x00\x00\x00\x02ab", b"ab"),
        (b"\xc0\x01\x00", b"\xc0\x01\x00"),
        (b"", b""),
        (b"\xb1\x00", b"\xb1\x00"),
        (None, None),
    ],
)
def test_what_is_no_whole_value_stays(value: bytes | None, text: bytes | None) -> None:
    assert decode_headers((MARK, ("h", value))) == (("mark", b"x"), ("h", text))


@pytest.mark.parametrize("prefix", ["cloudEvents:", "cloudEvents_", "ce_"])
def test_cloudevents_of_an_amqp_sender(prefix: str) -> None:
    attributes = {
        "specversion": amqp("STRING", "1.0"), "id": amqp("STRING", "1"), "source": amqp("STRING", "/s"),
        "type": amqp("STRING", "order.created"), "time": amqp("TIMESTAMP", datetime(2026, 1, 1, 12, tzinfo=UTC)),
        "digest": amqp("BINARY", b"abc"), "final": amqp("BOOL", True), "run": amqp("UUID", uuid.UUID(int=1)),
        "subject": amqp("NULL", None),
    }  # fmt: skip
    message = Message(b"{}", headers=tuple((prefix + name, value) for name, value in attributes.items()))
    event = SourceDecoder(CLOUDEVENTS, amqp_headers=True).decode(message, WHERE)
    assert (event.type, event.time, event.subject) == ("order.created", "2026-01-01T12:00:00Z", None)
    assert event.extensions == {"digest": "YWJj", "final": "true", "run": str(uuid.UUID(int=1))}


def test_headers_are_left_alone_unless_the_source_says_so() -> None:
    message = Message(b"{}", headers=(("aeg-event-type", b"\xa1\x0cNotification"),))
    decoded = SourceDecoder(JSON, amqp_headers=True).decode(message, WHERE)
    assert decoded.headers["aeg-event-type"] == "Notification"
    assert SourceDecoder(JSON).decode(message, WHERE).headers["aeg-event-type"] != "Notification"
