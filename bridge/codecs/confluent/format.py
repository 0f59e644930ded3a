"""Interface between the wire format and its data formats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from bridge.codecs.confluent.registry import RegisteredSchema
from bridge.config.model.sources import LimitsConfig


class CompiledSchema(Protocol):
    """A schema, ready to read and write."""

    @property
    def record(self) -> str:
        """Full name of the record that the schema writes, for the names of subjects."""
        ...

    def place(self, record: str | None) -> tuple[int, ...] | None:
        """Indexes of the written message in the schema; None where there are none, as in Avro.

        record: as for `encode`. Raises: DecodeError when the schema does not have it.
        """
        ...

    def decode(self, data: bytes, indexes: tuple[int, ...], limits: LimitsConfig) -> Any:
        """Decode data into JSON types. Raises: DecodeError."""
        ...

    def record_of(self, data: bytes, indexes: tuple[int, ...]) -> str:
        """Full name of the record or message in data that `decode` accepted; "" for data without a named type."""
        ...

    def encode(self, value: Any, record: str | None = None) -> bytes:
        """Encode a value. record: full name of the record to write; None: the one that the target names, or that fits.

        Raises: DecodeError, naming the place in the data and never a value.
        """
        ...


@dataclass(frozen=True, slots=True)
class SchemaFormat:
    """A data format.

    kind: name of the format in registries.
    indexed: message indexes follow the id.
    media: content type of the data.
    compile: compiles a schema; the second argument names the message or record to write.
    Raises: DecodeError when the schema cannot be used.
    """

    kind: str
    indexed: bool
    media: str
    compile: Callable[[RegisteredSchema, str | None], CompiledSchema]


def _avro(schema: RegisteredSchema, message: str | None) -> CompiledSchema:
    from bridge.codecs.confluent.avro import AvroSchema

    return AvroSchema(schema, message)


def _protobuf(schema: RegisteredSchema, message: str | None) -> CompiledSchema:
    from bridge.codecs.confluent.protobuf import ProtobufSchema

    return ProtobufSchema(schema, message)


AVRO = SchemaFormat("AVRO", False, "application/avro", _avro)
PROTOBUF = SchemaFormat("PROTOBUF", True, "application/protobuf", _protobuf)
