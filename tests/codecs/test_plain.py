"""JSON, text and bytes codecs, and the codec registry."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.codecs import registry
from bridge.config.model.codecs import SCHEMA_CODECS, SourceCodec, TargetCodec
from bridge.config.model.sources import LimitsConfig
from bridge.core.errors import DecodeError
from bridge.core.message import Event, Message, Position

POSITION = Position("local", "orders", 3, 42)


@pytest.mark.parametrize(
    ("name", "body", "data", "content_type"),
    [
        ("json", b'{"a":1}', {"a": 1}, "application/json"),
        ("text", "ü".encode(), "ü", "text/plain"),
        ("bytes", b"\xff", b"\xff", "application/octet-stream"),
    ],
)
def test_attributes_have_defaults(name: str, body: bytes, data: Any, content_type: str) -> None:
    message = Message(body, b"k", (("h", b"1"), ("h", b"2\xff")), timestamp=3.5)
    envelope = registry.get(name).decode(message, POSITION)
    assert envelope.message_id == envelope.id == "local/orders/3@42"
    assert (envelope.source, envelope.type, envelope.data) == ("/orders", "", data)
    assert (envelope.headers, envelope.key, envelope.timestamp) == ({"h": "2\ufdd0ff"}, "k", 3.5)
    assert envelope.datacontenttype == content_type


@pytest.mark.parametrize("name", ["json", "text", "bytes"])
def test_the_brokers_message_id_is_the_identity(name: str) -> None:
    envelope = registry.get(name).decode(Message(b"1", message_id="m-1"), POSITION)
    assert (envelope.message_id, envelope.id) == ("local/orders/m-1", "m-1")


@pytest.mark.parametrize("message_id", ["3@43", "/3@43", "//3@43"])
def test_an_id_that_looks_like_a_position_is_no_position(message_id: str) -> None:
    envelope = registry.get("json").decode(Message(b"1", message_id=message_id), POSITION)
    assert envelope.id == message_id
    assert envelope.message_id == f"local/orders//{message_id}"
    assert envelope.message_id != str(Position("local", "orders", 3, 43))


@given(st.binary(max_size=8), st.binary(max_size=8))
def test_different_bytes_stay_different(one: bytes, other: bytes) -> None:
    def read(data: bytes) -> tuple[str | None, str]:
        envelope = registry.get("json").decode(Message(b"1", data, (("h", data),)), POSITION)
        return envelope.key, envelope.headers["h"]

    assert (read(one)[0] == read(other)[0]) == (read(one)[1] == read(other)[1]) == (one == other)


@given(st.binary(max_size=8))
def test_bytes_that_came_in_go_out_as_they_were(data: bytes) -> None:
    envelope = registry.get("json").decode(Message(b"1", data, (("h", data),)), POSITION)
    message = registry.get("json").encode(Event("7", "/s", "done", 1, key=envelope.key, headers=envelope.headers))
    assert (message.key, dict(message.headers)["h"]) == (data, data)


@pytest.mark.parametrize("name", ["json", "text", "bytes"])
def test_a_tombstone_is_no_data(name: str) -> None:
    assert registry.get(name).decode(Message(None), POSITION).data is None


@pytest.mark.parametrize(
    ("name", "body", "said"),
    [("json", b"", "empty"), ("json", b"{", "not valid JSON"), ("text", b"a\xff", "not valid UTF-8 at byte 1")],
)
def test_a_body_of_another_kind_is_told(name: str, body: bytes, said: str) -> None:
    with pytest.raises(DecodeError, match=said):
        registry.get(name).decode(Message(body), POSITION)


@pytest.mark.parametrize("name", ["json", "text", "bytes", "cloudevents", "cloudevents-binary"])
def test_every_codec_keeps_the_size_limit(name: str) -> None:
    with pytest.raises(DecodeError, match="max_payload"):
        registry.get(name, LimitsConfig(max_payload=3)).decode(Message(b"1234"), POSITION)


@pytest.mark.parametrize(
    ("name", "data", "body"),
    [
        ("json", {"a": [None, 2**70]}, b'{"a":[null,1180591620717411303424]}'),
        ("json", None, b"null"),
        ("text", "ü", "ü".encode()),
        ("text", None, None),
        ("bytes", b"\xff", b"\xff"),
        ("bytes", "ü", "ü".encode()),
        ("bytes", None, None),
    ],
)
def test_data_is_written(name: str, data: Any, body: bytes | None) -> None:
    message = registry.get(name).encode(Event("7", "/s", "done", data, key="k", headers={"h": "1"}))
    assert (message.body, message.key, message.message_id) == (body, b"k", "7")
    headers = dict(message.headers)
    assert (headers["h"], headers["message-id"], headers["message-type"]) == (b"1", b"7", b"done")
    assert headers["content-type"].decode() == message.content_type


@pytest.mark.parametrize(("name", "data"), [("text", 7), ("text", b"x"), ("text", "\ud800"), ("bytes", [1])])
def test_data_of_another_kind_is_not_written(name: str, data: Any) -> None:
    with pytest.raises(DecodeError):
        registry.get(name).encode(Event("7", "/s", "done", data))


def test_an_unknown_codec_lists_the_known() -> None:
    with pytest.raises(
        LookupError, match="no codec named avro; known are bytes, cloudevents, cloudevents-binary, json"
    ):
        registry.get("avro")


def test_the_configuration_names_exactly_the_codecs() -> None:
    assert (
        {*registry.CODECS, *SCHEMA_CODECS} == {*get_args(TargetCodec)} == {*get_args(SourceCodec), "cloudevents-binary"}
    )


BOM = b"\xef\xbb\xbf"


@pytest.mark.parametrize(
    ("name", "body", "data"),
    [("json", BOM + b'{"a":1}', {"a": 1}), ("text", BOM + "ü".encode(), "ü"), ("bytes", BOM + b"x", BOM + b"x")],
)
def test_a_byte_order_mark_is_no_part_of_json_or_text(name: str, body: bytes, data: Any) -> None:
    assert registry.get(name).decode(Message(body), POSITION).data == data


def test_a_byte_order_mark_hides_no_big_integer_and_counts_once() -> None:
    assert registry.get("json").decode(Message(BOM + b"[123456789012345678901234567890]"), POSITION).data == [
        123456789012345678901234567890
    ]
    with pytest.raises(DecodeError, match="not valid JSON"):
        registry.get("json").decode(Message(BOM + BOM + b"1"), POSITION)


def test_of_a_repeated_content_type_codec_and_rules_take_the_last() -> None:
    headers = (("content-type", b"application/cloudevents+json"), ("content-type", b"text/csv"), ("content-type", None))
    envelope = registry.get("text").decode(Message(b"a", headers=headers), POSITION)
    assert envelope.datacontenttype == envelope.headers["content-type"] == "text/csv"
    binary = tuple((f"ce_{name}", b"1.0") for name in ("specversion", "id", "source", "type"))
    event = registry.get("cloudevents").decode(Message(b"a", headers=(*headers, *binary)), POSITION)
    assert (event.data, event.datacontenttype) == ("a", "text/csv")


@pytest.mark.parametrize("value", [float("nan"), [float("inf")], "\ud800", {"a": "\udc00"}])
def test_data_that_json_cannot_carry_is_refused(value: Any) -> None:
    with pytest.raises(DecodeError):
        registry.get("json").encode(Event("1", "/s", "t", value))


@settings(deadline=None)
@given(st.recursive(
    st.none() | st.booleans() | st.integers(-(10**300), 10**300) | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(), below, max_size=3), max_leaves=6,
))  # fmt: skip
def test_what_is_written_as_json_is_read_as_the_same(value: Any) -> None:
    for name in ("json", "cloudevents", "cloudevents-binary"):
        codec = registry.get(name)
        read = codec.decode(codec.encode(Event("1", "/s", "t", value)), POSITION).data
        assert json.dumps(read, sort_keys=True) == json.dumps(value, sort_keys=True)
