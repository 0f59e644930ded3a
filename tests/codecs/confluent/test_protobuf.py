"""Protobuf values as JSON types."""

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
from bridge.config.model.sources import LimitsConfig
from bridge.core.errors import DecodeError
from tests.codecs.confluent.samples import PROTO_DATA, F, proto, proto_text

LIMITS = LimitsConfig()
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
    with pytest.raises(DecodeError, match=f"does not fit the message shop.Order: {what}$") as received:
        schema().encode(data)
    assert "secret" not in str(received.value).replace("secret_field", "")


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
        schema().decode(nested(50), ORDER, LimitsConfig(max_depth=20))
    with pytest.raises(DecodeError, match=r"nests deeper than the 100 messages"):
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


ITEM = descriptor_pb2.DescriptorProto(name="Item")
ITEM.field.add(name="id", number=1, type=F.TYPE_STRING, label=F.LABEL_OPTIONAL)


def single(kind: int, of: str | None = None, syntax: str = "proto3", label: int = F.LABEL_OPTIONAL) -> ProtobufSchema:
    """Create a message `Root` with one field `f`, beside a message `Item`."""
    file = descriptor_pb2.FileDescriptorProto(name="r.proto", package="shop", syntax=syntax)
    if of is not None and of.startswith(".google"):
        name = "wrappers" if of.endswith("Value") else of.rpartition(".")[2].lower()
        file.dependency.append(f"google/protobuf/{name}.proto")
    root = file.message_type.add(name="Root")
    root.field.add(name="f", number=1, type=kind, label=label, type_name=of)
    root.field.add(name="note", number=2, type=F.TYPE_STRING, label=F.LABEL_OPTIONAL)
    file.message_type.append(ITEM)
    return ProtobufSchema(RegisteredSchema(proto_text(file), "PROTOBUF"), None)


def test_any_holds_messages_of_the_same_schema_and_well_known_ones() -> None:
    one = single(F.TYPE_MESSAGE, ".google.protobuf.Any")
    for value in (
        {"@type": "type.googleapis.com/shop.Item", "id": "a"},
        {"@type": "type.googleapis.com/google.protobuf.Int32Value", "value": 5},
        {"@type": "type.googleapis.com/google.protobuf.Any", "value": {"@type": "x/shop.Item", "id": "a"}},
        {},
    ):
        assert one.decode(one.encode({"f": value}), (0,), LIMITS)["f"] == value
    for value in ({"id": "a"}, {"@type": "type.googleapis.com/shop.Nothing"}, {"@type": "shop.Item"}, "x"):  # type: ignore[assignment]  # wider than its annotation, on purpose
        with pytest.raises(DecodeError, match="f must have @type, the type URL of a message that the schema has"):
            one.encode({"f": value})
    with pytest.raises(DecodeError, match="that its schema does not have"):
        one.decode(b"\x0a\x03\x0a\x01x", (0,), LIMITS)
    with pytest.raises(DecodeError, match=r"limits\.max_depth"):
        one.decode(one.encode({"f": {"@type": "x/shop.Item", "id": "a"}}), (0,), LimitsConfig(max_depth=1))


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (F.TYPE_BYTES, "%%%%"), (F.TYPE_BYTES, "2026-01-31"), (F.TYPE_BYTES, "h\u00e9llo"), (F.TYPE_BYTES, "YWI=="),
        (F.TYPE_DOUBLE, 10**400), (F.TYPE_DOUBLE, "1e400"), (F.TYPE_DOUBLE, 2**53 + 1), (F.TYPE_DOUBLE, "1_0"),
        (F.TYPE_FLOAT, 1e300), (F.TYPE_FLOAT, 1e-300), (F.TYPE_INT32, 2**31), (F.TYPE_INT64, "1_0"),
        (F.TYPE_INT64, 1.5), (F.TYPE_INT64, True), (F.TYPE_UINT32, -1), (F.TYPE_BOOL, "true"), (F.TYPE_STRING, 5),
        (F.TYPE_STRING, "\ud800"),
    ],
)  # fmt: skip
def test_what_would_be_changed_is_refused(kind: int, value: Any) -> None:
    for label, given_ in ((F.LABEL_OPTIONAL, value), (F.LABEL_REPEATED, [value])):
        with pytest.raises(DecodeError, match=r"does not fit the message shop\.Root: f(\[0\])? must be"):
            single(kind, label=label).encode({"f": given_})


@pytest.mark.parametrize(
    ("kind", "value", "read"),
    [
        (F.TYPE_FLOAT, 0.1, 0.1), (F.TYPE_FLOAT, 16777216, 16777216.0), (F.TYPE_BYTES, "YW_-", "YW/+"),
        (F.TYPE_BYTES, "YQ", "YQ=="),
        (F.TYPE_INT64, "9007199254740993", 2**53 + 1), (F.TYPE_INT64, "1e3", 1000), (F.TYPE_INT32, 2.0, 2),
        (F.TYPE_DOUBLE, "-Infinity", "-Infinity"), (F.TYPE_DOUBLE, "1.5", 1.5),
    ],
)  # fmt: skip
def test_another_form_of_the_same_value(kind: int, value: Any, read: Any) -> None:
    one = single(kind)
    assert one.decode(one.encode({"f": value}), (0,), LIMITS)["f"] == read


def test_a_required_field_must_be_there() -> None:
    needed = single(F.TYPE_STRING, syntax="proto2", label=F.LABEL_REQUIRED)
    with pytest.raises(DecodeError, match=r"does not fit the message shop\.Root: f must be there"):
        needed.encode({"note": "x"})


def test_names_of_json_are_taken_too_but_not_both() -> None:
    order = schema()
    assert order.encode({"itemCount": 5}) == order.encode({"item_count": 5})
    with pytest.raises(DecodeError, match="item_count is given twice"):
        order.encode({"itemCount": 5, "item_count": 6})


def test_extensions_are_read_and_written_by_their_names() -> None:
    file = descriptor_pb2.FileDescriptorProto(name="r.proto", package="shop", syntax="proto2")
    root = file.message_type.add(name="Root")
    root.extension_range.add(start=100, end=200)
    file.extension.add(name="tier", number=100, type=F.TYPE_INT32, label=F.LABEL_OPTIONAL, extendee=".shop.Root")
    file.extension.add(name="tags", number=101, type=F.TYPE_STRING, label=F.LABEL_REPEATED, extendee=".shop.Root")
    one = ProtobufSchema(RegisteredSchema(proto_text(file), "PROTOBUF"), None)
    data = {"[shop.tier]": 3, "[shop.tags]": ["a"]}
    assert one.decode(one.encode(data), (0,), LIMITS) == data
    with pytest.raises(DecodeError, match="no field"):
        one.encode({"[shop.other]": 3})


def test_deep_data_is_refused() -> None:
    data: dict[str, Any] = {}
    for _ in range(2000):
        data = {"next": data}
    with pytest.raises(DecodeError, match=r"nests (too deep|deeper)"):
        schema().encode(data)


def test_any_message_of_the_file_can_be_written() -> None:
    order = schema()
    assert (order.place("shop.Order.Line"), order.encode({"sku": "a"}, "shop.Order.Line")) == ((1, 0), b"\x0a\x01a")
    assert order.record_of(b"", (1, 0)) == "shop.Order.Line"
    with pytest.raises(DecodeError, match=r"no message shop\.Other"):
        order.encode({}, "shop.Other")
