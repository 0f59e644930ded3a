"""Avro as JSON types; and what a hostile body may not do."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.codecs.confluent.avro import AvroSchema
from bridge.codecs.confluent.registry import RegisteredSchema
from bridge.codecs.limits import Limits
from bridge.errors import DecodeError
from tests.codecs.confluent.samples import ORDER, ORDER_DATA

LIMITS = Limits()
CHAIN = {"type": "record", "name": "Chain", "fields": [{"name": "next", "type": ["null", "Chain"]}]}


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
        ({"type": "int", "logicalType": "time-millis"}, "10:20:30.500000"),
        ({"type": "long", "logicalType": "time-micros"}, "10:20:30.500001"),
        ({"type": "long", "logicalType": "timestamp-micros"}, "2026-03-01T10:20:30.000001Z"),
        ({"type": "long", "logicalType": "local-timestamp-millis"}, "2026-03-01T10:20:30"),
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
    with pytest.raises(DecodeError, match=what) as told:
        schema(ORDER).encode(ORDER_DATA | change)
    assert "secret" not in str(told.value)


def test_a_default_fills_in() -> None:
    order = schema(ORDER)
    data = {name: value for name, value in ORDER_DATA.items() if name != "note"}
    assert order.decode(order.encode(data), (), LIMITS)["note"] is None


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
    """Why recursive schemas are read by the careful reader: the fast one ends the process."""
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
    "items",
    [
        "null",
        {"type": "record", "name": "E", "fields": []},
        {"type": "record", "name": "E", "fields": [{"name": "n", "type": "null"}]},
        {"type": "fixed", "name": "E", "size": 0},
    ],
)
def test_items_without_bytes_are_refused(items: Any) -> None:
    """Five bytes of body would be millions of them."""
    with pytest.raises(DecodeError, match="items take no bytes"):
        field({"type": "map", "values": {"type": "array", "items": items}})


@pytest.mark.parametrize("text", ["", "{", '"unheard"', '{"type": "record"}', '{"type": "array"}', "[1]"])
def test_what_is_no_schema_is_told(text: str) -> None:
    with pytest.raises(DecodeError, match="no Avro schema"):
        AvroSchema(RegisteredSchema(text, "AVRO"))
