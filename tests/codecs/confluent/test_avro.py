"""Avro values as JSON types, and limits for hostile bodies."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.codecs.confluent.avro import AvroSchema
from bridge.codecs.confluent.registry import RegisteredSchema
from bridge.config.model.sources import LimitsConfig
from bridge.core.errors import DecodeError, TooManyValues
from tests.codecs.confluent.samples import ORDER, ORDER_DATA

LIMITS = LimitsConfig()
CHAIN = {"type": "record", "name": "Chain", "fields": [{"name": "next", "type": ["null", "Chain"]}]}

DECIMAL = {"type": "bytes", "logicalType": "decimal"}


MILLIS = {"type": "int", "logicalType": "time-millis"}


def long(logical: str) -> dict[str, str]:
    return {"type": "long", "logicalType": logical}


def zigzag(number: int) -> bytes:
    number = (number << 1) ^ (number >> 63)
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*out, number))


def schema(of: Any, *references: tuple[str, Any]) -> AvroSchema:
    text = of if isinstance(of, str) and of.startswith("{") else json.dumps(of)
    return AvroSchema(RegisteredSchema(text, "AVRO", tuple((name, json.dumps(each)) for name, each in references)))


def field(of: Any) -> AvroSchema:
    return schema({"type": "record", "name": "R", "fields": [{"name": "f", "type": of}]})


def test_what_is_written_is_read() -> None:
    order = schema(ORDER)
    assert order.record == "shop.Order"
    assert order.decode(order.encode(ORDER_DATA), (), LIMITS) == ORDER_DATA


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ({"type": "fixed", "name": "X", "size": 2}, "AAE="),
        (MILLIS, "10:20:30.500000"),
        (long("time-micros"), "10:20:30.500001"),
        (long("timestamp-micros"), "2026-03-01T10:20:30.000001Z"),
        (long("local-timestamp-millis"), "2026-03-01T10:20:30"),
        ({"type": "fixed", "name": "D", "size": 8, "logicalType": "decimal", "precision": 9, "scale": 2}, "-19.90"),
        ("double", "NaN"),
        ("double", "-Infinity"),
        ("float", 0.5),
        ("boolean", True),
        (["null", "boolean", "long"], 3),
        ({"type": "map", "values": {"type": "array", "items": "long"}}, {"a": [1, 2]}),
        ({"type": "array", "items": ["null", "string"]}, [None, "x"]),
    ],
)
def test_types(kind: Any, value: Any) -> None:
    one = field(kind)
    assert one.decode(one.encode({"f": value}), (), LIMITS) == {"f": value}


def test_a_union_of_records_takes_the_one_that_fits() -> None:
    branches = [
        {"type": "record", "name": n, "fields": [{"name": n.lower(), "type": "string"}]} for n in ("Cat", "Dog")
    ]
    one = field(branches)
    for name, value in (("Cat", {"cat": "a"}), ("Dog", {"dog": "a"})):
        assert one.decode(one.encode({"f": value}), (), LIMITS) == {"f": {"@type": name, **value}}


def test_references_are_known_by_name() -> None:
    line = {"type": "record", "name": "shop.Line", "fields": [{"name": "sku", "type": "string"}]}
    order = schema({"type": "array", "items": "shop.Line"}, ("shop.Line", line))
    assert order.decode(order.encode([{"sku": "a"}]), (), LIMITS) == [{"sku": "a"}]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"total": "secret"}, "data.total must be a number"),
        ({"count": 2**63}, "data.count must be an integer of 64 bits"),
        ({"count": True}, "data.count must be an integer of 64 bits"),
        ({"state": "secret"}, "data.state must be one of NEW, PAID"),
        ({"lines": [{"sku": "a"}, {}]}, r"data.lines\[1\].sku must be there"),
        ({"lines": {}}, "data.lines must be an array"),
        ({"tags": {"n": "secret"}}, "data.tags.n must be an integer of 32 bits"),
        ({"tags": "secret"}, "data.tags must be a map"),
        ({"note": 5}, "data.note must be a string"),
        ({"either": 0.5}, "data.either must be of one of the union's types"),
        ({"at": "2026-03-01T10:20:30"}, "data.at must be timestamp-millis"),
        ({"price": "secret"}, "data.price must be decimal"),
        ({"blob": "sécret"}, "data.blob must be bytes in base64"),
        ({"more": "secret"}, "data has a member more that the record shop.Order has not"),
    ],
)
def test_what_does_not_fit_names_the_place_and_no_value(change: dict[str, Any], what: str) -> None:
    with pytest.raises(DecodeError, match=what) as received:
        schema(ORDER).encode(ORDER_DATA | change)
    assert "secret" not in str(received.value)


def test_a_default_fills_in() -> None:
    order = schema(ORDER)
    data = {name: value for name, value in ORDER_DATA.items() if name != "note"}
    assert order.decode(order.encode(data), (), LIMITS)["note"] is None


@pytest.mark.parametrize(
    ("kind", "body", "value"),
    [
        (DECIMAL | {"precision": 20, "scale": 10}, b"\x02\x00", "0.0000000000"),
        (DECIMAL | {"precision": 20, "scale": 8}, b"\x02\x01", "0.00000001"),
        (DECIMAL | {"precision": 2, "scale": 0}, b"\x06\x7f\xff\xff", "8388607"),
        (DECIMAL | {"precision": 2, "scale": 1}, b"\x02\xff", "-0.1"),
        (DECIMAL, b"\x02\x05", "BQ=="),
        (DECIMAL | {"precision": 2, "scale": 4}, b"\x02\x05", "BQ=="),
        (DECIMAL | {"precision": "2"}, b"\x02\x05", "BQ=="),
        (DECIMAL | {"precision": 2, "scale": -1}, b"\x02\x05", "BQ=="),
        ({"type": "fixed", "name": "F", "size": 1, "logicalType": "decimal", "precision": 9}, b"\x05", "BQ=="),
        ({"type": "string", "logicalType": "date"}, b"\x02x", "x"),
        ({"type": "int", "logicalType": "timestamp-millis"}, b"\x02", 1),
        ({"type": "long", "logicalType": ["date"]}, b"\x02", 1),
        ({"type": "string", "logicalType": "uuid"}, b"\x02x", "x"),
        (long("timestamp-nanos"), zigzag(1706700000123456789), "2024-01-31T11:20:00.123456789Z"),
        (long("local-timestamp-nanos"), zigzag(-1), "1969-12-31T23:59:59.999999999"),
        (long("time-micros"), zigzag(86_400_000_000), "24:00:00"),
        ("float", struct.pack("<f", 0.1), 0.1),
        ("float", struct.pack("<f", 16777217.0), 16777216.0),
        ({"type": {"type": "int", "logicalType": "date"}}, b"\x02", "1970-01-02"),
    ],
)  # fmt: skip
def test_what_others_wrote(kind: Any, body: bytes, value: Any) -> None:
    """An invalid logical type is ignored, and no digit is lost."""
    assert field(kind).decode(body, (), LIMITS) == {"f": value}


@pytest.mark.parametrize(
    ("kind", "body", "what"),
    [
        ("timestamp-millis", zigzag(253402300800000), "lies outside the years 1 to 9999"),
        ("timestamp-micros", zigzag(-(2**63)), "lies outside the years 1 to 9999"),
        ("time-micros", zigzag(86_400_000_001), "is no time of a day"),
        ("time-micros", zigzag(-1), "is no time of a day"),
    ],
)
def test_a_value_without_a_text_names_its_place(kind: str, body: bytes, what: str) -> None:
    line = {"type": "record", "name": "L", "fields": [{"name": "at", "type": {"type": "long", "logicalType": kind}}]}
    one = schema({"type": "map", "values": {"type": "array", "items": ["null", line]}})
    with pytest.raises(DecodeError, match=rf"data\.\*\[0\]\.at is a {kind} that {what}"):
        one.decode(b"\x02\x0csecret\x02\x02" + body + b"\x00\x00", (), LIMITS)


@pytest.mark.parametrize(
    ("kind", "default", "value"),
    [
        ("bytes", "\u00ff", "/w=="),
        ({"type": "fixed", "name": "F", "size": 1}, "\u00ff", "/w=="),
        (DECIMAL | {"precision": 4, "scale": 2}, "\u0001", "0.01"),
        (long("timestamp-millis"), 0, "1970-01-01T00:00:00Z"),
        ({"type": "int", "logicalType": "date"}, 1, "1970-01-02"),
        ("double", 0, 0.0),
        ({"type": "double"}, 0, 0.0),
        (["null", "bytes"], None, None),
        (["bytes", "null"], "\u0000", "AA=="),
        (["null", "string"], "x", "x"),
        ({"type": "array", "items": "bytes"}, ["\u0001"], ["AQ=="]),
        ({"type": "map", "values": "float"}, {"@type": 0.5}, {"@type": 0.5}),
        (
            {"type": "record", "name": "D", "fields": [{"name": "x", "type": "bytes", "default": "\u0002"}]},
            {},
            {"x": "Ag=="},
        ),
    ],
)  # fmt: skip
def test_defaults_of_every_type_are_written(kind: Any, default: Any, value: Any) -> None:
    one = schema({"type": "record", "name": "R", "fields": [{"name": "f", "type": kind, "default": default}]})
    assert one.decode(one.encode({}), (), LIMITS) == {"f": value}


def test_a_default_of_another_type_hinders_neither_reading_nor_other_data() -> None:
    one = schema({"type": "record", "name": "R", "fields": [{"name": "f", "type": "int", "default": "x"}]})
    assert one.decode(one.encode({"f": 1}), (), LIMITS) == {"f": 1}
    with pytest.raises(DecodeError, match=r"data\.f must be there: the schema's default does not fit its type"):
        one.encode({})


@pytest.mark.parametrize(
    ("kind", "value", "what"),
    [
        ("float", 1e300, "data.f must be a number that a 32-bit float can hold"),
        ("float", 1e-300, "data.f must be a number that a 32-bit float can hold"),
        ("float", 2**24 + 1, "data.f must be a number that a 32-bit float can hold"),
        ("double", 10**400, "data.f must be a number that a double can hold"),
        ("double", 2**53 + 1, "data.f must be a number that a double can hold"),
        (MILLIS, "10:00:00+02:00", "data.f must be time-millis, .* without an offset"),
        (MILLIS, "10:00:00.0001", "at most 3 digits of a second"),
        (long("local-timestamp-millis"), "2026-01-31T09:30:00Z", "without an offset"),
        (long("timestamp-millis"), "2026-01-31T09:30:00", "with an offset"),
        (long("timestamp-millis"), "2026-01-31T09:30:00.1239Z", "at most 3 digits of a second"),
        (long("timestamp-micros"), "2026-01-31T09:30:00.1234567Z", "at most 6 digits"),
        (long("timestamp-nanos"), "2263-01-31T09:30:00Z", "data.f must be timestamp-nanos"),
        (DECIMAL | {"precision": 4, "scale": 2}, "1_0", "decimal with at most 4 digits, 2 of them after the point"),
        (DECIMAL | {"precision": 4, "scale": 2}, "100.00", "decimal with at most 4 digits"),
        (DECIMAL | {"precision": 4, "scale": 2}, "1.005", "decimal with at most 4 digits"),
        (DECIMAL | {"precision": 4, "scale": 2}, "1e999999", "decimal with at most 4 digits"),
        (DECIMAL | {"precision": 4, "scale": 2}, "NaN", "decimal with at most 4 digits"),
        ({"type": "string", "logicalType": "uuid"}, "12345678123456781234567812345678", "uuid"),
        ("bytes", "YWJ=", "data.f must be bytes in base64"),
        ("string", "\ud800", "data.f must be a string"),
        ({"type": "map", "values": "int"}, {"\ud800": 1}, "keys of text"),
    ],
)  # fmt: skip
def test_what_would_be_changed_is_refused(kind: Any, value: Any, what: str) -> None:
    with pytest.raises(DecodeError, match=what):
        field(kind).encode({"f": value})


@pytest.mark.parametrize(
    ("kind", "value", "read"),
    [
        (long("timestamp-millis"), "2026-01-31T09:30:00.120+02:00", "2026-01-31T07:30:00.120000Z"),
        (long("timestamp-millis"), "2026-01-31 09:30Z", "2026-01-31T09:30:00Z"),
        (long("timestamp-nanos"), "2026-01-31T09:30:00.000000001Z", "2026-01-31T09:30:00.000000001Z"),
        (MILLIS, "24:00", "24:00:00"),
        (DECIMAL | {"precision": 4, "scale": 2}, 1.5, "1.50"),
        (DECIMAL | {"precision": 4, "scale": 2}, "-1E1", "-10.00"),
        (DECIMAL | {"precision": 4, "scale": 2}, "-1.28000", "-1.28"),
        ("float", 0.1, 0.1),
    ],
)  # fmt: skip
def test_another_form_of_the_same_value(kind: Any, value: Any, read: Any) -> None:
    one = field(kind)
    assert one.decode(one.encode({"f": value}), (), LIMITS) == {"f": read}


@pytest.mark.parametrize(
    ("union", "value", "branch"),
    [
        (["bytes", "string"], "abcd", 1),
        (["bytes", "string"], b"abcd", 0),
        (["bytes", "string"], {"@type": "bytes", "value": "abcd"}, 0),
        (["double", "long"], 3, 1),
        (["long", "double"], 3.0, 1),
        (["float", "double"], 0.1, 1),
        ([long("timestamp-millis"), "string"], "2026-01-31T09:30:00Z", 1),
        ([DECIMAL | {"precision": 4}, "string"], "12", 1),
        (["string", {"type": "enum", "name": "E", "symbols": ["A"]}], "A", 1),
        (["string", {"type": "enum", "name": "E", "symbols": ["A"]}], "B", 0),
        (["int", "long"], {"@type": "long", "value": 1}, 1),
        ([{"type": "int", "logicalType": "date"}, "long"], 1, 1),
    ],
)  # fmt: skip
def test_a_union_is_written_by_type_and_never_by_looks(union: Any, value: Any, branch: int) -> None:
    assert field(union).encode({"f": value})[0] == branch * 2


PLACED = {"type": "record", "name": "OrderPlaced", "namespace": "shop", "fields": [{"name": "id", "type": "string"}]}
CANCELLED = PLACED | {"name": "OrderCancelled"}
BOTH = [PLACED, CANCELLED]


def test_records_of_a_union_are_told_apart() -> None:
    events = schema(["shop.OrderPlaced", "shop.OrderCancelled"], ("p", PLACED), ("c", CANCELLED))
    for at, name in enumerate(("shop.OrderPlaced", "shop.OrderCancelled")):
        body = bytes([at * 2]) + b"\x02a"
        assert (events.decode(body, (), LIMITS), events.record_of(body, ())) == ({"id": "a"}, name)
        assert events.encode({"id": "a"}, name) == body
        assert events.encode({"@type": name, "id": "a"}) == body
        inner = field(BOTH)
        read = inner.decode(body, (), LIMITS)
        assert read == {"f": {"@type": name, "id": "a"}}
        assert inner.encode(read) == body
    assert events.encode({"id": "a"}) == b"\x00\x02a"
    for refused in (lambda: events.encode({"id": "a"}, "shop.Other"), lambda: events.encode({"@type": "x", "id": "a"})):
        with pytest.raises(DecodeError):
            refused()  # type: ignore[no-untyped-call]  # it comes without types
    with pytest.raises(DecodeError, match=r"has no shop\.Other"):
        schema(PLACED).encode({"id": "a"}, "shop.Other")
    chosen = AvroSchema(RegisteredSchema(json.dumps(BOTH), "AVRO"), "shop.OrderCancelled")
    assert (chosen.encode({"id": "a"}), chosen.record) == (b"\x02\x02a", "shop.OrderCancelled")
    with pytest.raises(DecodeError, match=r"no record shop\.Other"):
        AvroSchema(RegisteredSchema(json.dumps(BOTH), "AVRO"), "shop.Other")


def test_names_take_the_namespace_around_them() -> None:
    inner = {"type": "enum", "name": "State", "symbols": ["NEW"]}
    outer = {"type": "record", "name": "Order", "namespace": "shop", "fields": [
        {"name": "a", "type": ["null", inner]}, {"name": "b", "type": ["int", "long", "State"]}]}  # fmt: skip
    one = schema(outer)
    data = {"a": {"@type": "shop.State", "value": "NEW"}, "b": {"@type": "shop.State", "value": "NEW"}}
    assert one.decode(one.encode(data), (), LIMITS) == {"a": "NEW", "b": "NEW"}


@given(st.binary(max_size=200))
def test_noise_is_data_or_a_decode_error(noise: bytes) -> None:
    order = schema(ORDER)
    with suppress(DecodeError):
        json.dumps(order.decode(noise, (), LIMITS), allow_nan=False)


def test_a_body_that_goes_on_is_refused() -> None:
    order = schema(ORDER)
    with pytest.raises(DecodeError, match="goes on after the data"):
        order.decode(order.encode(ORDER_DATA) + b"x", (), LIMITS)


def test_a_deep_body_kills_nothing() -> None:
    """Recursive schemas need the careful reader: the fast one ends the process."""
    chain = schema(CHAIN)
    with pytest.raises(DecodeError, match="nests deeper"):
        chain.decode(b"\x02" * 1_000_000 + b"\x00", (), LIMITS)
    with pytest.raises(DecodeError, match=r"limits\.max_depth"):
        chain.decode(b"\x02" * 150 + b"\x00", (), LIMITS)
    assert chain.decode(b"\x02\x02\x00", (), LIMITS) == {"next": {"next": {"next": None}}}
    script = (
        "import fastavro, io\n"
        f"fastavro.schemaless_reader(io.BytesIO(b'\\x02' * 1_000_000 + b'\\x00'), fastavro.parse_schema({CHAIN!r}))"
    )
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert killed.returncode < 0, "the fast reader survives: it may read recursive schemas now"


@pytest.mark.parametrize(
    ("items", "value"),
    [
        ("null", None),
        ({"type": "record", "name": "E", "fields": []}, {}),
        ({"type": "record", "name": "E", "fields": [{"name": "n", "type": "null"}]}, {"n": None}),
        ({"type": "fixed", "name": "E", "size": 0}, ""),
    ],
)
def test_items_without_bytes_are_read_within_bounds(items: Any, value: Any) -> None:
    one = schema({"type": "array", "items": items})
    assert one.decode(b"\x06\x00", (), LimitsConfig()) == [value] * 3
    with pytest.raises(TooManyValues, match=r"50000 values that limits\.max_values"):
        one.decode(b"\xfe\xff\xff\xff\x0f\x00", (), LimitsConfig())


@pytest.mark.parametrize("depth", range(240, 480, 12))
def test_a_deep_schema_is_usable_or_refused(depth: int) -> None:
    text = '"int"'
    for at in range(depth):
        text = f'{{"type": "record", "name": "R{at}", "fields": [{{"name": "f", "type": {text}}}]}}'
    with suppress(DecodeError):
        AvroSchema(RegisteredSchema(text, "AVRO"))


@pytest.mark.parametrize("text", ["", "{", '"unheard"', '{"type": "record"}', '{"type": "array"}', "[1]"])
def test_what_is_no_schema_is_told(text: str) -> None:
    with pytest.raises(DecodeError, match="no Avro schema"):
        AvroSchema(RegisteredSchema(text, "AVRO"))
