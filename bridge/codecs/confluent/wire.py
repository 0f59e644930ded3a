"""Identification of the schema that a message was written with. Pure.

Confluent's serializers write two forms: the id in front of the data, or in the header `__value_schema_id` while the
body is the data alone. Either form is a magic byte and an id: 0 and four bytes (the id within its registry), or 1 and
sixteen bytes (the schema's own GUID). Protobuf adds the indexes of the message in the schema: zigzag varints, the count
and then one index per level of nesting; a single 0 stands for the first message.
https://docs.confluent.io/platform/current/schema-registry/fundamentals/serdes-develop/index.html#wire-format
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from bridge.core.errors import DecodeError
from bridge.core.message import Message

HEADER = "__value_schema_id"

SchemaId = int | UUID
"""Id within a registry, or GUID."""

_ID, _GUID = 0, 1
_INDEX_LIMIT = 100


@dataclass(frozen=True, slots=True)
class SchemaPrefix:
    """Prefix of a message.

    schema: id of the writer's schema.
    indexes: place of the message in a Protobuf schema.
    start: offset of the data.
    """

    schema: SchemaId
    indexes: tuple[int, ...]
    start: int


def read(message: Message, *, indexed: bool) -> SchemaPrefix:
    """Read the prefix of a message. indexed: message indexes follow, as in Protobuf. Raises: DecodeError."""
    assert message.body is not None
    for name, value in message.headers:
        if name == HEADER and value is not None:
            schema, at = _schema(value, f"the header {HEADER}")
            indexes, at = _indexes(value, at) if indexed else ((), at)
            if at != len(value):
                raise DecodeError(f"the header {HEADER} goes on after the id of a schema")
            return SchemaPrefix(schema, indexes, 0)
    schema, at = _schema(message.body, "the body")
    if not indexed:
        return SchemaPrefix(schema, (), at)
    indexes, at = _indexes(message.body, at)
    return SchemaPrefix(schema, indexes, at)


def write(schema: SchemaId, indexes: tuple[int, ...] | None) -> bytes:
    """Prefix for the body, or value of the header. indexes: None where there are none, as in Avro."""
    prefix = b"\1" + schema.bytes if isinstance(schema, UUID) else b"\0" + schema.to_bytes(4)
    if indexes is None:
        return prefix
    if indexes == (0,):
        return prefix + b"\0"
    return prefix + b"".join(_varint(number * 2) for number in (len(indexes), *indexes))


def _schema(data: bytes, what: str) -> tuple[SchemaId, int]:
    magic = data[0] if data else None
    if magic == _ID and len(data) >= 5:
        return int.from_bytes(data[1:5]), 5
    if magic == _GUID and len(data) >= 17:
        return UUID(bytes=data[1:17]), 17
    raise DecodeError(f"{what} does not begin with the id of a schema, as what a schema registry's serializer writes")


def _indexes(data: bytes, at: int) -> tuple[tuple[int, ...], int]:
    count, at = read_zigzag(data, at)
    if count == 0:
        return (0,), at
    if not 0 < count <= _INDEX_LIMIT:
        raise DecodeError("the indexes of the message in its Protobuf schema are malformed")
    found = []
    for _ in range(count):
        index, at = read_zigzag(data, at)
        if index < 0:
            raise DecodeError("the indexes of the message in its Protobuf schema are malformed")
        found.append(index)
    return tuple(found), at


def read_zigzag(data: bytes, at: int) -> tuple[int, int]:
    """Number that begins at `at`, and the position of its end. Raises: DecodeError."""
    value = shift = 0
    while shift < 35 and at < len(data):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), at
        shift += 7
    raise DecodeError("the indexes of the message in its Protobuf schema are malformed")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
