"""Bytes that do not match a schema are refused: no wrong value is read, and the place is named."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bridge.codecs.amqp_headers import decode_headers
from bridge.codecs.confluent import wire
from bridge.codecs.confluent.avro import AvroSchema
from bridge.codecs.confluent.protobuf import ProtobufSchema
from bridge.codecs.confluent.registry import RegisteredSchema
from bridge.codecs.limits import parse_json, write_json
from bridge.config.model.sources import LimitsConfig
from bridge.core.errors import DecodeError
from bridge.core.message import Message
from tests.codecs.confluent import avro_cases, samples
from tests.codecs.confluent import test_protobuf_properties as protobuf_cases
from tests.codecs.confluent.samples import F, proto_text

LIMITS = LimitsConfig()
SLOW = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def avro(schema: Any) -> AvroSchema:
    return AvroSchema(RegisteredSchema(json.dumps(schema), "AVRO"))


def record(kind: Any) -> AvroSchema:
    return avro({"type": "record", "name": "R", "fields": [{"name": "v", "type": kind}]})


@pytest.mark.parametrize(
    ("kind", "body", "what"),
    [
        ("boolean", b"\x02", "v is a boolean that is neither 0 nor 1"),
        ("boolean", b"", "v is cut off"),
        ({"type": "map", "values": "int"}, b"\x04\x02k\x02\x02k\x04\x00", "a second value of its key"),
        ({"type": "map", "values": "int"}, b"\x02\x02k\x02\x02\x02k\x02\x00", "a second value of its key"),
        ("int", b"\x80\x80\x80\x80\x20", "v is an integer beyond 32 bits"),
        ("long", b"\xff" * 9 + b"\x03", "v is an integer beyond 64 bits"),
        ("long", b"\xff" * 12, "v is an integer beyond 64 bits"),
        ("string", b"\x01", "v has a negative length"),
        ("bytes", b"\xfe\xff\xff\xff\x0f", "v is cut off"),
        ("string", b"\x04\xff\xfe", "v is text that is not valid UTF-8"),
        ("string", b"\x06\xed\xa0\x80", "v is text that is not valid UTF-8"),
        ({"type": "enum", "name": "E", "symbols": ["A", "B"]}, b"\x01", "v is a symbol that its enum does not have"),
        ({"type": "enum", "name": "E", "symbols": ["A", "B"]}, b"\x04", "v is a symbol that its enum does not have"),
        (["null", "int"], b"\x01", "v is of a branch that its union does not have"),
        (["null", "int"], b"\x04", "v is of a branch that its union does not have"),
        ({"type": "array", "items": "boolean"}, b"\x02\x01\x02\x07\x00", r"v\[1\] is a boolean"),
        ({"type": "array", "items": "int"}, b"\x03\x02\x02\x04\x00", "another size than it says"),
        ({"type": "array", "items": "int"}, b"\x01\x01\x02\x00", "another size than it says"),
    ],
)
def test_avro_names_the_place(kind: Any, body: bytes, what: str) -> None:
    with pytest.raises(DecodeError, match=what) as refusal:
        record(kind).decode(body, (), LIMITS)
    assert refusal.value.reason == "decode_error"


def test_avro_blocks_with_their_size_are_read() -> None:
    assert record({"type": "array", "items": "int"}).decode(b"\x03\x04\x02\x04\x00", (), LIMITS) == {"v": [1, 2]}


def order(*fields: tuple[str, int, Any], syntax: str = "proto3", label: Any = F.LABEL_OPTIONAL) -> ProtobufSchema:
    file = samples.descriptor_pb2.FileDescriptorProto(name="shop.proto", package="shop", syntax=syntax)  # type: ignore[attr-defined]  # the test replaces what the module uses
    kind = file.enum_type.add(name="Kind")
    for name, number in (("ZERO", 0), ("ONE", 1)):
        kind.value.add(name=name, number=number)
    message = file.message_type.add(name="Order")
    for number, (name, of, type_name) in enumerate(fields, 1):
        message.field.add(name=name, number=number, type=of, label=label, type_name=type_name)
    return ProtobufSchema(RegisteredSchema(proto_text(file), "PROTOBUF"), None)


@pytest.mark.parametrize(
    ("kind", "body", "what"),
    [
        (F.TYPE_BOOL, b"\x08\x02", "v is beyond its type"),
        (F.TYPE_INT32, b"\x08\x80\x80\x80\x80\x08", "v is beyond its type"),
        (F.TYPE_UINT32, b"\x08\x80\x80\x80\x80\x10", "v is beyond its type"),
        (F.TYPE_SINT32, b"\x08\x80\x80\x80\x80\x10", "v is beyond its type"),
        (F.TYPE_ENUM, b"\x08\x80\x80\x80\x80\x08", "v is beyond its type"),
        (F.TYPE_INT64, b"\x08" + b"\xff" * 9 + b"\x03", "no shop.Order in Protobuf"),
        (F.TYPE_INT64, b"\x0a\x01\x01", "v has another type than its schema says"),
        (F.TYPE_STRING, b"\x08\x01", "v has another type than its schema says"),
        (F.TYPE_STRING, b"\x0a\x02\xff\xfe", "v is text that is not valid UTF-8"),
        (F.TYPE_STRING, b"\x0a\x05a", "no shop.Order in Protobuf"),
        (F.TYPE_BYTES, b"\x0a\xff\xff\xff\xff\x7f", "no shop.Order in Protobuf"),
        (F.TYPE_BOOL, b"\x00\x01", "no shop.Order in Protobuf"),
        (F.TYPE_BOOL, b"\x13\x08\x01", "no shop.Order in Protobuf"),
        (F.TYPE_BOOL, b"\x0c", "no shop.Order in Protobuf"),
    ],
)
def test_protobuf_names_the_place(kind: int, body: bytes, what: str) -> None:
    schema = order(("v", kind, ".shop.Kind" if kind == F.TYPE_ENUM else None))
    with pytest.raises(DecodeError, match=what):
        schema.decode(body, (0,), LIMITS)


def test_protobuf_keeps_numbers_at_the_end_of_their_range() -> None:
    schema = order(("v", F.TYPE_INT32, None))
    for number in (-(2**31), -1, 2**31 - 1):
        assert schema.decode(schema.encode({"v": number}), (0,), LIMITS) == {"v": number}
    assert schema.decode(b"\x10\x01\x1a\x01a\x23\x28\x01\x24\x08\x07", (0,), LIMITS) == {"v": 7}  # unknown fields


def test_protobuf_of_version_2_loses_nothing() -> None:
    closed = order(("v", F.TYPE_ENUM, ".shop.Kind"), syntax="proto2")
    assert closed.decode(b"\x08\x01", (0,), LIMITS) == {"v": "ONE"}
    with pytest.raises(DecodeError, match="v is beyond its type"):
        closed.decode(b"\x08\x07", (0,), LIMITS)
    with pytest.raises(DecodeError, match="not valid UTF-8"):
        order(("v", F.TYPE_STRING, None), syntax="proto2").decode(b"\x0a\x01\xff", (0,), LIMITS)
    needed = order(("v", F.TYPE_INT32, None), syntax="proto2", label=F.LABEL_REQUIRED)
    with pytest.raises(DecodeError, match="without a field that its schema requires"):
        needed.decode(b"", (0,), LIMITS)


def test_members_of_a_protobuf_message_keep_the_order_of_the_schema() -> None:
    schema = ProtobufSchema(RegisteredSchema(proto_text(), "PROTOBUF"), "shop.Order")
    read = schema.decode(schema.encode(samples.PROTO_DATA), (1,), LIMITS)
    assert list(read) == ["id", "total", "item_count", "lines", "tags", "state", "at", "blob", "note"]


@st.composite
def mutations(draw: st.DrawFn, body: bytes) -> bytes:
    """Generate a body with a few bytes changed, inserted, removed or repeated."""
    data = bytearray(body)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        until = draw(st.integers(at, min(len(data), at + 4)))
        data[at:until] = draw(
            st.binary(max_size=3) | st.sampled_from([b"\x00", b"\x01", b"\x02", b"\xff" * 9 + b"\x01", data[at:] * 2])
        )
    return bytes(data)


def _same(one: Any, other: Any) -> None:
    assert json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


@SLOW
@given(st.data(), avro_cases.cases())
def test_changed_avro_is_refused_or_stays_what_it_is(data: st.DataObject, case: avro_cases.Case) -> None:
    schema = avro(case.schema)
    body = data.draw(mutations(schema.encode(data.draw(case.values)[0])))
    try:
        read = schema.decode(body, (), LIMITS)
    except DecodeError:
        return
    json.dumps(read, allow_nan=False)
    try:
        again = schema.encode(read, schema.record_of(body, ()) or None)
    except DecodeError:
        # A decimal beyond its precision and a uuid in another form stay as received
        assert "decimal" in json.dumps(case.schema) or "uuid" in json.dumps(case.schema)
        return
    _same(schema.decode(again, (), LIMITS), read)


@SLOW
@given(st.data(), protobuf_cases.cases())
def test_changed_protobuf_is_refused_or_stays_what_it_is(data: st.DataObject, case: protobuf_cases.Case) -> None:
    schema = protobuf_cases.compiled(case.file)
    body = data.draw(mutations(schema.encode(data.draw(case.values))))
    try:
        read = schema.decode(body, (0,), LIMITS)
    except DecodeError:
        return
    json.dumps(read, allow_nan=False)
    _same(schema.decode(schema.encode(read), (0,), LIMITS), read)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**80), 2**80) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=4),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=3), below, max_size=3),
    max_leaves=8,
)  # fmt: skip


@SLOW
@given(st.data(), JSON)
def test_changed_json_is_refused_or_stays_what_it_is(data: st.DataObject, value: Any) -> None:
    body = data.draw(mutations(write_json(value)))
    try:
        read = parse_json(body, LIMITS)
    except DecodeError:
        return
    _same(parse_json(write_json(read), LIMITS), read)
    _same(json.loads(body.decode("utf-8-sig")), read)


@pytest.mark.parametrize(("indexed", "value"), [(False, b"\0\0\0\0\x07x"), (True, b"\0\0\0\0\x07\0\0")])
def test_the_header_of_a_schema_holds_nothing_else(indexed: bool, value: bytes) -> None:
    with pytest.raises(DecodeError, match="goes on after the id"):
        wire.read(Message(b"", headers=((wire.HEADER, value),)), indexed=indexed)


def test_a_boolean_of_amqp_that_is_none_is_kept_as_it_came() -> None:
    number = ("n", b"\x71\0\0\0\7")
    kept = decode_headers((number, ("a", b"\x56\1"), ("b", b"\x56\2")))
    assert kept == (("n", b"7"), ("a", b"true"), ("b", b"\x56\2"))
