"""CloudEvents 1.0: both content modes, decoding and encoding."""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.codecs import registry
from bridge.codecs.cloudevents import CloudEventsBinaryCodec, CloudEventsCodec
from bridge.config.model.sources import LimitsConfig
from bridge.core.errors import DecodeError
from bridge.core.message import Envelope, Event, Headers, Message, Position

POSITION = Position("local", "orders", 3, 42)
EVENT = {"specversion": "1.0", "id": "A-1", "source": "/shop", "type": "order.created", "data": {"total": 5}}
BINARY = {"ce_specversion": "1.0", "ce_id": "A-1", "ce_source": "/shop", "ce_type": "order.created"}
CODEC = CloudEventsCodec()
STRUCTURED = "application/cloudevents+json; charset=UTF-8"


def headers(**named: str | bytes | None) -> Headers:
    return tuple((name, value.encode() if isinstance(value, str) else value) for name, value in named.items())


def structured(changes: dict[str, Any] | None = None, content_type: str | None = STRUCTURED) -> Envelope:
    event = {name: value for name, value in {**EVENT, **(changes or {})}.items() if value != "ABSENT"}
    found = headers(**{"content-type": content_type}) if content_type else ()
    return CODEC.decode(Message(json.dumps(event).encode(), headers=found), POSITION)


def binary(
    body: bytes | None, content_type: str | None = "application/json", **changes: str | bytes | None
) -> Envelope:
    found = {**BINARY, **({"content-type": content_type} if content_type else {}), **changes}
    return CODEC.decode(Message(body, headers=headers(**found)), POSITION)


def test_every_attribute_of_a_structured_event_arrives() -> None:
    body = {
        **EVENT,
        "subject": "eu",
        "time": "2026-01-31T09:30:00.123456789+02:00",
        "datacontenttype": "application/json",
        "dataschema": "https://example.com/order.json",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "sequence": 7,
        "sampled": True,
        "absent": None,
    }
    message = Message(json.dumps(body).encode(), b"k\xff", headers(x="y", **{"content-type": STRUCTURED}), 12.5)
    assert CODEC.decode(message, POSITION) == Envelope(
        message_id="/shop A-1",
        id="A-1",
        source="/shop",
        type="order.created",
        data={"total": 5},
        position=POSITION,
        subject="eu",
        time="2026-01-31T09:30:00.123456789+02:00",
        datacontenttype="application/json",
        dataschema="https://example.com/order.json",
        extensions={"traceparent": body["traceparent"], "sequence": 7, "sampled": True},
        headers={"x": "y", "content-type": STRUCTURED},
        key="k\ufdd0ff",
        timestamp=12.5,
    )


@pytest.mark.parametrize("content_type", [None, STRUCTURED, "application/json", "application/cloudevents+json"])
def test_structured_mode_is_recognised(content_type: str | None) -> None:
    assert structured(content_type=content_type).type == "order.created"


def test_the_content_type_property_of_the_broker_counts() -> None:
    message = Message(
        json.dumps(EVENT).encode(), content_type="application/cloudevents+json", headers=headers(**BINARY)
    )
    assert CODEC.decode(message, POSITION).data == {"total": 5}


@pytest.mark.parametrize("prefix", ["ce_", "cloudEvents:", "cloudEvents_"])
def test_every_attribute_of_a_binary_event_arrives(prefix: str) -> None:
    attributes = {
        "specversion": "1.0",
        "id": "A-1",
        "source": "/shop",
        "type": "order.created",
        "subject": "eü",
        "time": "2026-01-31T09:30:00Z",
        "dataschema": "urn:x",
        "traceparent": "00-1",
    }
    found = headers(**{prefix + name: value for name, value in attributes.items()}, **{"Content-Type": "text/json"})
    envelope = CODEC.decode(Message(b'{"total":5}', headers=found), POSITION)
    assert (envelope.message_id, envelope.id, envelope.source, envelope.type) == (
        "/shop A-1",
        "A-1",
        "/shop",
        "order.created",
    )
    assert (envelope.subject, envelope.time, envelope.dataschema) == ("eü", "2026-01-31T09:30:00Z", "urn:x")
    assert envelope.extensions == {"traceparent": "00-1"}
    assert envelope.data == {"total": 5}
    assert envelope.datacontenttype == "text/json"


@pytest.mark.parametrize(
    ("body", "content_type", "data"),
    [
        (b"[1]", None, [1]),
        (b"[1]", "application/vnd.order+json; v=1", [1]),
        (b"null", "application/json", None),
        (b"", "application/json", None),
        (b"", None, None),
        (b"", "text/plain", ""),
        (b"", "image/png", b""),
        (None, "application/json", None),
        ("Grüße".encode(), "text/plain", "Grüße"),
        ("Grüße".encode("latin-1"), 'text/plain; charset="ISO-8859-1"', "Grüße"),
        (b"<a/>", "application/xml", "<a/>"),
        (b"\xff\x00", "application/octet-stream", b"\xff\x00"),
        (b"\xff\x00", "image/png", b"\xff\x00"),
    ],
)
def test_binary_data_follows_the_content_type(body: bytes | None, content_type: str | None, data: Any) -> None:
    assert binary(body, content_type).data == data


def test_structured_data_follows_the_content_type() -> None:
    def encoded(body: bytes, content_type: str | None) -> Any:
        changes = {"data": "ABSENT", "data_base64": base64.b64encode(body).decode()}
        return structured({**changes, **({"datacontenttype": content_type} if content_type else {})}).data

    assert encoded(b"\xff", None) == b"\xff"
    assert encoded(b"\xff", "image/png") == b"\xff"
    assert encoded(b"[1]", "application/json") == [1]
    assert encoded("ü".encode(), "text/plain") == "ü"
    assert structured({"data": "<a/>", "datacontenttype": "text/xml"}).data == "<a/>"
    assert structured({"data": "ABSENT"}).data is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"specversion": "ABSENT"}, "no specversion"),
        ({"specversion": None}, "no specversion"),
        ({"specversion": "0.3"}, "not supported"),
        ({"specversion": 1.0}, "not supported"),
        ({"id": "ABSENT"}, "has no id"),
        ({"id": None}, "has no id"),
        ({"id": ""}, "id is empty"),
        ({"id": 7}, "id must be a string, not a number"),
        ({"id": "a\nb"}, "id holds control characters"),
        ({"source": ""}, "source is empty"),
        ({"source": "/a b"}, "source holds a blank"),
        ({"type": ["x"]}, "type must be a string, not an array"),
        ({"subject": ""}, "subject is empty"),
        ({"subject": {}}, "subject must be a string, not an object"),
        ({"time": "yesterday"}, "RFC 3339"),
        ({"time": "2026-02-30T00:00:00Z"}, "RFC 3339"),
        ({"time": "2026-01-31T24:00:00Z"}, "RFC 3339"),
        ({"time": "2026-01-31T09:30:00"}, "RFC 3339"),
        ({"time": "2026-01-31 09:30:00Z"}, "RFC 3339"),
        ({"time": 5}, "time must be a string"),
        ({"dataschema": True}, "dataschema must be a string, not a boolean"),
        ({"datacontenttype": "json"}, "not a media type"),
        ({"traceParent": "x"}, "a-z and 0-9"),
        ({"trace_id": "x"}, "a-z and 0-9"),
        ({"": "x"}, "a-z and 0-9"),
        ({"ext": {}}, "extension ext must be a string, an integer or a boolean, not an object"),
        ({"ext": 1.5}, "not a number with a fraction"),
        ({"ext": 2**31}, "beyond 32 bits"),
        ({"ext": "\u0007"}, "ext holds control characters"),
        ({"data_base64": "AA=="}, "both data and data_base64"),
        ({"data": None, "data_base64": "*"}, "not valid base64"),
        ({"data": None, "data_base64": 7}, "not a string"),
        ({"data": None, "data_base64": "Wzs=", "datacontenttype": "application/json"}, "not valid JSON"),
    ],
)
def test_what_breaks_the_specification_is_told(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(DecodeError, match=said):
        structured(changes)


@pytest.mark.parametrize(
    "time", ["1985-04-12T23:20:50.52Z", "1990-12-31t23:59:60z", "1996-12-19T16:39:57-08:00", "2024-02-29T00:00:00Z"]
)
def test_the_times_of_rfc_3339_are_taken(time: str) -> None:
    assert structured({"time": time}).time == time


def test_a_null_is_an_absent_attribute() -> None:
    nulls = dict.fromkeys(("ce_subject", "ce_time", "ce_dataschema", "ce_region", "traceparent"))
    envelope = binary(b"{}", None, **nulls, **{"content-type": None})
    assert (envelope.subject, envelope.time, envelope.dataschema, envelope.extensions) == (None, None, None, {})
    assert not envelope.headers.keys() & nulls.keys()
    with pytest.raises(DecodeError, match="has no id"):
        binary(b"{}", ce_id=None)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ce_specversion": "2"}, "not supported"),
        ({"ce_subject": ""}, "subject is empty"),
        ({"ce_subject": "M\ufdd0fcller"}, "control characters"),
        ({"ce_id": ""}, "id is empty"),
        ({"ce_id": b"\xff"}, "not valid UTF-8"),
        ({"ce_time": "x"}, "RFC 3339"),
        ({"ce_Foo": "x"}, "a-z and 0-9"),
        ({"content-type": "nonsense"}, "media type"),
        ({"content-type": b"\xff"}, "UTF-8"),
        ({"content-type": "text/plain; charset=rot13"}, "charset"),
    ],
)
def test_what_breaks_the_binary_mode_is_told(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(DecodeError, match=said):
        binary(b"{}", **changes)


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (Message(b"[]", headers=headers(**{"content-type": "application/cloudevents-batch+json"})), "batch"),
        (Message(b"[]", content_type="application/cloudevents-batch+json"), "batch"),
        (Message(b"x", content_type="application/cloudevents+avro"), "format other than JSON"),
        (Message(b"[{}]"), "send one CloudEvent a message"),
        (Message(b"7"), "not an object"),
        (Message(b'{"id":"x"}'), "codec: json"),
        (Message(None), "neither a body nor ce_ headers"),
        (Message(b""), "empty"),
        (Message(None, headers=headers(ce_id="x")), "no specversion"),
    ],
)
def test_what_is_no_single_event_is_told(message: Message, said: str) -> None:
    with pytest.raises(DecodeError, match=said):
        CODEC.decode(message, POSITION)


def test_limits_hold_for_the_event_and_for_json_inside_base64() -> None:
    deep = b"[" * 200 + b"]" * 200
    codec = CloudEventsCodec(LimitsConfig(max_payload=2000))
    with pytest.raises(DecodeError, match="max_payload"):
        codec.decode(Message(b"x" * 2001, headers=headers(**BINARY)), POSITION)
    with pytest.raises(DecodeError, match="max_depth"):
        codec.decode(Message(deep, headers=headers(**BINARY)), POSITION)
    with pytest.raises(DecodeError, match="max_depth"):
        structured(
            {"data": None, "data_base64": base64.b64encode(deep).decode(), "datacontenttype": "application/json"}
        )


@settings(deadline=None)
@given(st.tuples(st.text("/# 1", min_size=1), st.text("/# 1", min_size=1)), st.data())
def test_two_events_share_an_identity_only_when_source_and_id_agree(pair: tuple[str, str], data: st.DataObject) -> None:
    other = data.draw(st.tuples(st.text("/# 1", min_size=1), st.text("/# 1", min_size=1)))
    identities = []
    for source, id_ in (pair, other):
        try:
            identities.append(structured({"source": source, "id": id_}).message_id)
        except DecodeError:
            return
    assert (identities[0] == identities[1]) == (pair == other)


TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc", "Cn"]), min_size=1, max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**80), 2**80) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
EVENTS = st.builds(
    Event,
    id=TEXT,
    source=TEXT.filter(lambda text: " " not in text),
    type=TEXT,
    data=JSON | st.binary(max_size=50),
    subject=st.none() | TEXT,
    time=st.none() | st.datetimes().map(lambda moment: moment.isoformat() + "Z"),
    extensions=st.dictionaries(st.text("abz019", min_size=1, max_size=20).map("x".__add__), TEXT, max_size=3),
    headers=st.dictionaries(st.text("abc-", min_size=1).map("h-".__add__), TEXT, max_size=3),
    key=st.none() | TEXT,
)


@pytest.mark.parametrize("name", ["cloudevents", "cloudevents-binary"])
@settings(deadline=None)
@given(event=EVENTS)
def test_what_is_published_is_received(name: str, event: Event) -> None:
    codec = registry.get(name)
    message = codec.encode(event)
    envelope = codec.decode(message, POSITION)
    assert message.message_id == envelope.id == event.id
    assert (envelope.source, envelope.type, envelope.subject) == (event.source, event.type, event.subject)
    assert (envelope.time, envelope.data, envelope.key) == (event.time, event.data, event.key)
    assert envelope.extensions == event.extensions
    assert event.headers.items() <= envelope.headers.items()


def test_the_two_modes_look_as_the_bindings_say() -> None:
    event = Event("7", "/shop", "done", {"a": 1}, extensions={"traceparent": "00-1", "partitionkey": "eu"})
    assert json.loads(CODEC.encode(event).body or b"") == {
        "specversion": "1.0",
        "id": "7",
        "source": "/shop",
        "type": "done",
        "datacontenttype": "application/json",
        "data": {"a": 1},
        "traceparent": "00-1",
        "partitionkey": "eu",
    }
    assert CODEC.encode(event).headers == (("content-type", b"application/cloudevents+json"),)
    message = CloudEventsBinaryCodec().encode(event)
    assert message.body == b'{"a":1}'
    assert message.key == b"eu"
    assert dict(message.headers) == {
        "content-type": b"application/json",
        "ce_specversion": b"1.0",
        "ce_id": b"7",
        "ce_source": b"/shop",
        "ce_type": b"done",
        "ce_traceparent": b"00-1",
        "ce_partitionkey": b"eu",
    }


@pytest.mark.parametrize("name", ["cloudevents", "cloudevents-binary"])
@pytest.mark.parametrize(
    "event",
    [
        Event("", "/s", "t"),
        Event("1", "", "t"),
        Event("1", "/s", ""),
        Event("1", "/s", "t", time="now"),
        Event("1", "/s", "t", extensions={"Bad": "x"}),
        Event("1", "/s", "t", extensions={"data": "x"}),
        Event("1", "/s", "t", extensions={"id": "x"}),
        Event("1", "/s", "t", data=float("nan")),
        Event("1", "/s", "t", data={"a": b"x"}),
        Event("1", "/s", "t", key="\ud800"),
        Event("1", "/s", "t", headers={"h": "\ud800"}),
    ],
)
def test_an_event_that_breaks_the_specification_is_not_written(name: str, event: Event) -> None:
    with pytest.raises(DecodeError):
        registry.get(name).encode(event)


MEMBERS = (*EVENT, "time", "subject", "datacontenttype", "dataschema", "data_base64", "x", "x_y")
BODIES = (
    st.none()
    | st.binary()
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(
            (*EVENT, "time", "subject", "datacontenttype", "dataschema", "data_base64", "x", "x_y"), JSON
        ),
    ).map(lambda event: json.dumps({**EVENT, **event}).encode())
)
NAMES = st.sampled_from(
    [*BINARY, "ce_", "ce_time", "ce_x", "cloudEvents:id", "cloudEvents_", "content-type", "bridge.x"]
)
TYPES = st.sampled_from([b"application/cloudevents+json", b"application/json", b"text/plain; charset=utf-16", b"a/b"])
VALUES = st.binary(max_size=20) | st.sampled_from([b"1.0", b"2026-01-31T09:30:00Z"]) | TYPES


@settings(deadline=None)
@given(BODIES, st.lists(st.tuples(NAMES | st.text(max_size=9), VALUES), max_size=9).map(tuple), st.booleans())
def test_arbitrary_messages_end_in_decode_error_or_an_envelope(body: bytes | None, found: Headers, whole: bool) -> None:
    message = Message(body, headers=headers(**BINARY) + found if whole else found)
    for name in registry.CODECS:
        with suppress(DecodeError):
            assert registry.get(name).decode(message, POSITION).message_id
