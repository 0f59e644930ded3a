"""Schemas and data shared by the tests."""

from __future__ import annotations

import base64
import json
from typing import Any

from google.protobuf import descriptor_pb2

from bridge.core.message import Event, Position

POSITION = Position("cluster", "orders", 0, 7)

ORDER = json.dumps(
    {
        "type": "record",
        "name": "Order",
        "namespace": "shop",
        "fields": [
            {"name": "id", "type": "string"},
            {"name": "total", "type": "double"},
            {"name": "count", "type": "long"},
            {"name": "note", "type": ["null", "string"], "default": None},
            {"name": "state", "type": {"type": "enum", "name": "State", "symbols": ["NEW", "PAID"]}},
            {"name": "lines", "type": {"type": "array", "items": {
                "type": "record", "name": "Line", "fields": [{"name": "sku", "type": "string"}]}}},
            {"name": "tags", "type": {"type": "map", "values": "int"}},
            {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
            {"name": "day", "type": {"type": "int", "logicalType": "date"}},
            {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}},
            {"name": "blob", "type": "bytes"},
            {"name": "key", "type": {"type": "string", "logicalType": "uuid"}},
            {"name": "either", "type": ["null", "Line", "long", "string"]},
        ],
    }
)  # fmt: skip
ORDER_DATA: dict[str, Any] = {
    "id": "o-1", "total": 12.5, "count": 2**53 + 1, "note": "x", "state": "PAID", "lines": [{"sku": "a"}, {"sku": "b"}],
    "tags": {"n": 1}, "at": "2026-03-01T10:20:30.500000Z", "day": "2026-03-01", "price": "19.90", "blob": "AAH/",
    "key": "12345678-1234-5678-1234-567812345678", "either": {"sku": "z"},
}  # fmt: skip

F = descriptor_pb2.FieldDescriptorProto


def event(data: Any, **changes: Any) -> Event:
    return Event(**{"id": "e-1", "source": "/s", "type": "order.created", "data": data, "key": "k"} | changes)


def _field(name: str, number: int, kind: int, repeated: bool = False, of: str | None = None, **more: Any) -> F:  # type: ignore[valid-type]  # wider than its annotation, on purpose
    label = F.LABEL_REPEATED if repeated else F.LABEL_OPTIONAL
    return F(name=name, number=number, type=kind, label=label, type_name=of, **more)


def proto() -> descriptor_pb2.FileDescriptorProto:
    """Descriptor of shop/order.proto: a first message, then Order with a nested Line, and types with special JSON
    forms."""
    file = descriptor_pb2.FileDescriptorProto(name="shop/order.proto", package="shop", syntax="proto3")
    file.dependency.append("google/protobuf/timestamp.proto")
    file.message_type.add(name="First").field.append(_field("id", 1, F.TYPE_STRING))
    order = file.message_type.add(name="Order")
    line = order.nested_type.add(name="Line")
    line.field.append(_field("sku", 1, F.TYPE_STRING))
    entry = order.nested_type.add(name="TagsEntry")
    entry.options.map_entry = True
    entry.field.extend([_field("key", 1, F.TYPE_STRING), _field("value", 2, F.TYPE_INT64)])
    state = order.enum_type.add(name="State")
    state.value.add(name="NEW", number=0)
    state.value.add(name="PAID", number=1)
    order.oneof_decl.add(name="_note")
    order.field.extend(
        [
            _field("id", 1, F.TYPE_STRING),
            _field("total", 2, F.TYPE_DOUBLE),
            _field("item_count", 3, F.TYPE_INT64),
            _field("lines", 4, F.TYPE_MESSAGE, repeated=True, of=".shop.Order.Line"),
            _field("tags", 5, F.TYPE_MESSAGE, repeated=True, of=".shop.Order.TagsEntry"),
            _field("state", 6, F.TYPE_ENUM, of=".shop.Order.State"),
            _field("at", 7, F.TYPE_MESSAGE, of=".google.protobuf.Timestamp"),
            _field("blob", 8, F.TYPE_BYTES),
            _field("next", 9, F.TYPE_MESSAGE, of=".shop.Order"),
            _field("note", 10, F.TYPE_STRING, oneof_index=0, proto3_optional=True),
        ]
    )
    return file


PROTO_DATA: dict[str, Any] = {
    "id": "o-1", "total": 12.5, "item_count": 2**53 + 1, "lines": [{"sku": "a"}], "tags": {"n": 1}, "state": "PAID",
    "at": "2026-03-01T10:20:30.500Z", "blob": "AAH/", "note": "x",
}  # fmt: skip


def proto_text(file: descriptor_pb2.FileDescriptorProto | None = None) -> str:
    return base64.b64encode((file or proto()).SerializeToString()).decode()


def proto_set() -> bytes:
    """Descriptor set as protoc writes it with --descriptor_set_out."""
    return descriptor_pb2.FileDescriptorSet(file=[proto()]).SerializeToString()
