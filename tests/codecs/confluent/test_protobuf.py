"""Protobuf as JSON types."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from google.protobuf import descriptor_pb2
from hypothesis import given
from hypothesis import strategies as st

from bridge.codecs.confluent.protobuf import ProtobufSchema
from bridge.codecs.confluent.registry import RegisteredSchema
from bridge.codecs.limits import Limits
from bridge.errors import DecodeError
from tests.codecs.confluent.samples import PROTO_DATA, F, proto, proto_text

LIMITS = Limits()
ORDER = (1,)


def schema(message: str | None = "shop.Order") -> ProtobufSchema:
    return ProtobufSchema(RegisteredSchema(proto_text(), "PROTOBUF"), message)


def test_what_is_written_is_read_by_the_names_of_the_file_and_with_numbers() -> None:
    order = schema()
    assert (order.record, order.place(None)) == ("shop.Order", ORDER)
    assert order.decode(order.encode(PROTO_DATA), ORDER, LIMITS) == PROTO_DATA


def test_what_is_not_set_has_its_default_so_that_conditions_can_name_it() -> None:
    assert schema().decode(b"", ORDER, LIMITS) == {
        "id": "", "total": 0.0, "item_count": 0, "lines": [], "tags": {}, "state": "NEW", "blob": "",
    }  # fmt: skip


def test_nested_and_first_messages() -> None:
    line = schema("shop.Order.Line")
    assert line.place(None) == (1, 0)
    assert line.decode(line.encode({"sku": "a"}), (1, 0), LIMITS) == {"sku": "a"}
    assert schema(None).record == "shop.First"


@pytest.mark.parametrize("indexes", [(7,), (1, 9), (0, 0)])
def test_a_message_that_is_not_there_is_told(indexes: tuple[int, ...]) -> None:
    with pytest.raises(DecodeError, match="does not have"):
        schema().decode(b"", indexes, LIMITS)
    with pytest.raises(DecodeError, match=r"no message shop\.Nothing"):
        schema("shop.Nothing")


def test_numbers_that_are_not_finite_and_enums_that_are_not_known() -> None:
    order = schema()
    data = order.encode({"total": "NaN"}) + b"\x30\x09"  # state: 9
    read = order.decode(data, ORDER, LIMITS)
    assert (read["total"], read["state"]) == ("NaN", 9)


def test_references_are_imported_by_name() -> None:
    money = descriptor_pb2.FileDescriptorProto(name="m.proto", package="shop", syntax="proto3")
    money.message_type.add(name="Money").field.append(F(name="cents", number=1, type=F.TYPE_INT64, label=1))
    bill = descriptor_pb2.FileDescriptorProto(name="b.proto", package="shop", syntax="proto3")
    bill.dependency.extend(["shared/m.proto", "google/type/date.proto"])
    bill.message_type.add(name="Bill").field.append(
        F(name="sum", number=1, type=F.TYPE_MESSAGE, label=1, type_name=".shop.Money")
    )
    of = ProtobufSchema(RegisteredSchema(proto_text(bill), "PROTOBUF", (("shared/m.proto", proto_text(money)),)), None)
    assert of.decode(of.encode({"sum": {"cents": 5}}), (0,), LIMITS) == {"sum": {"cents": 5}}


@pytest.mark.parametrize(
    ("data", "what"),
    [
        ({"total": "secret"}, "total must be a number that a double can hold"),
        ({"secret_field": 1}, "secret_field is no field of the message shop.Order"),
        ({"at": "secret"}, "at must be an RFC 3339 timestamp with at most 9 digits of a second"),
        ({"lines": [{"sku": "a"}, {"sku": 5}]}, r"lines\[1\].sku must be a string"),
        ({"next": {"next": {"tags": {"n": "x"}}}}, "next.next.tags.n must be an integer"),
        (5, "it must be an object for the message shop.Order"),
    ],
)
def test_what_does_not_fit_names_the_field_and_no_value(data: Any, what: str) -> None:
    with pytest.raises(DecodeError, match=f"does not fit the message shop.Order: {what}$") as told:
        schema().encode(data)
    assert "secret" not in str(told.value).replace("secret_field", "")


@given(st.binary(max_size=120))
def test_noise_is_data_or_a_decode_error(noise: bytes) -> None:
    with suppress(DecodeError):
        json.dumps(schema().decode(noise, ORDER, LIMITS), allow_nan=False)


def test_deep_bodies_are_refused() -> None:
    def nested(levels: int) -> bytes:
        data = b""
        for _ in range(levels):
            size, head = len(data), bytearray(b"\x4a")
            while size > 0x7F:
                head.append(size & 0x7F | 0x80)
                size >>= 7
            data = bytes(head) + bytes([size]) + data
        return data

    assert schema().decode(nested(3), ORDER, LIMITS)["next"]["next"]["next"]["id"] == ""
    with pytest.raises(DecodeError, match=r"limits\.max_depth"):
        schema().decode(nested(50), ORDER, Limits(max_depth=20))
    with pytest.raises(DecodeError, match=r"is no shop\.Order"):
        schema().decode(nested(5000), ORDER, LIMITS)


@pytest.mark.parametrize("text", ["", "!", "syntax = 'proto3';", proto_text(descriptor_pb2.FileDescriptorProto())[:5]])
def test_what_is_no_descriptor_is_told(text: str) -> None:
    if text == "":
        assert ProtobufSchema(RegisteredSchema(text, "PROTOBUF"), None).record == ""
        return
    with pytest.raises(DecodeError, match="no Protobuf file descriptor"):
        ProtobufSchema(RegisteredSchema(text, "PROTOBUF"), None)


def test_an_import_nobody_knows_is_told() -> None:
    file = proto()
    file.dependency.append("nobody/knows.proto")
    with pytest.raises(DecodeError, match="no Protobuf file descriptor"):
        ProtobufSchema(RegisteredSchema(proto_text(file), "PROTOBUF"), None)
