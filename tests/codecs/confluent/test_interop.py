"""Interoperability with Confluent's own serializers and deserializers, in both directions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.schema_registry import (
    SchemaRegistryClient,
    dual_schema_id_deserializer,
    header_schema_id_serializer,
    prefix_schema_id_serializer,
)
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.schema_registry.protobuf import ProtobufDeserializer, ProtobufSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from google.protobuf import descriptor_pool, json_format, message_factory, timestamp_pb2

from bridge.codecs.confluent import AVRO, PROTOBUF, Registry, RegistryCodec, SchemaChooser
from bridge.core.message import Message
from tests.codecs.confluent.samples import ORDER, ORDER_DATA, POSITION, PROTO_DATA, event, proto, proto_set
from tests.registry import RegistryServer

PLACES = {"prefix": prefix_schema_id_serializer, "header": header_schema_id_serializer}


def order_class() -> Any:
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(timestamp_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(proto())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("shop.Order"))


def context(message_headers: dict[str, bytes] | None = None) -> SerializationContext:
    return SerializationContext("orders", MessageField.VALUE, message_headers)  # type: ignore[arg-type]  # wider than its annotation, on purpose


@pytest.mark.parametrize("place", PLACES)
async def test_their_avro_is_read(server: RegistryServer, registry: Registry, place: str) -> None:
    client = SchemaRegistryClient({"url": server.url})
    serializer = AvroSerializer(client, ORDER, conf={"schema.id.serializer": PLACES[place]})
    headers: dict[str, bytes] = {}
    native = _native()
    body = serializer(native, context(headers))
    message = Message(body, headers=tuple(headers.items()))
    assert bool(headers) == (place == "header")
    codec = RegistryCodec("avro", AVRO, registry)
    await codec.prepare_decode([message])
    assert codec.decode(message, POSITION).data == ORDER_DATA


@pytest.mark.parametrize("place", PLACES)
async def test_avro_of_ours_is_read_by_theirs(
    server: RegistryServer, registry: Registry, tmp_path: Path, place: Any
) -> None:
    (tmp_path / "order.avsc").write_text(json.dumps(json.loads(ORDER), indent=2))
    chooser = SchemaChooser(
        registry, AVRO, topic="orders", own=tmp_path / "order.avsc", auto_register=True, place=place
    )
    codec = RegistryCodec("avro", AVRO, registry, chooser=chooser)
    await codec.prepare_encode(event(ORDER_DATA))
    message = codec.encode(event(ORDER_DATA))
    client = SchemaRegistryClient({"url": server.url})
    deserializer = AvroDeserializer(client, conf={"schema.id.deserializer": dual_schema_id_deserializer})
    read = deserializer(message.body, context(dict(message.headers)))
    assert read == _native()
    assert dict(message.headers)["ce_type"] == b"order.created"


@pytest.mark.parametrize("place", PLACES)
async def test_their_protobuf_is_read(server: RegistryServer, registry: Registry, place: str) -> None:
    kind = order_class()
    client = SchemaRegistryClient({"url": server.url})
    serializer = ProtobufSerializer(
        kind, client, conf={"use.deprecated.format": False, "schema.id.serializer": PLACES[place]}
    )
    headers: dict[str, bytes] = {}
    body = serializer(json_format.ParseDict(PROTO_DATA, kind()), context(headers))
    message = Message(body, headers=tuple(headers.items()))
    codec = RegistryCodec("protobuf", PROTOBUF, registry)
    await codec.prepare_decode([message])
    assert codec.decode(message, POSITION).data == PROTO_DATA


@pytest.mark.parametrize("place", PLACES)
async def test_protobuf_of_ours_is_read_by_theirs(
    server: RegistryServer, registry: Registry, tmp_path: Path, place: Any
) -> None:
    (tmp_path / "order.desc").write_bytes(proto_set())
    chooser = SchemaChooser(
        registry, PROTOBUF, topic="orders", own=tmp_path / "order.desc", message="shop.Order",
        auto_register=True, place=place,
    )  # fmt: skip
    codec = RegistryCodec("protobuf", PROTOBUF, registry, chooser=chooser)
    await codec.prepare_encode(event(ORDER_DATA))
    message = codec.encode(event(PROTO_DATA))
    kind = order_class()
    client = SchemaRegistryClient({"url": server.url})
    deserializer = ProtobufDeserializer(
        kind, {"use.deprecated.format": False, "schema.id.deserializer": dual_schema_id_deserializer}, client
    )
    read = deserializer(message.body, context(dict(message.headers)))
    assert json_format.MessageToDict(read) == json_format.MessageToDict(json_format.ParseDict(PROTO_DATA, kind()))


def _native() -> dict[str, Any]:
    """Return ORDER_DATA in Python types."""
    import datetime
    from decimal import Decimal
    from uuid import UUID

    return ORDER_DATA | {
        "at": datetime.datetime(2026, 3, 1, 10, 20, 30, 500_000, tzinfo=datetime.UTC),
        "day": datetime.date(2026, 3, 1),
        "price": Decimal("19.90"),
        "blob": b"\x00\x01\xff",
        "key": UUID(ORDER_DATA["key"]),
    }
