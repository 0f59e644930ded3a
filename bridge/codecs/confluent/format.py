"""The seam between the wire format and the data in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from bridge.codecs.confluent.registry import RegisteredSchema
from bridge.codecs.limits import Limits


class Compiled(Protocol):
    """A schema, ready to read and write."""

    @property
    def record(self) -> str:
        """Full name of what is written with it, for the names of subjects."""
        ...

    @property
    def indexes(self) -> tuple[int, ...] | None:
        """Where what is written stands in the schema; None where there are no such indexes."""
        ...

    def decode(self, data: bytes, indexes: tuple[int, ...], limits: Limits) -> Any:
        """JSON types. Raises: DecodeError."""
        ...

    def encode(self, value: Any) -> bytes:
        """Raises: DecodeError, naming the place in the data and never a value."""
        ...


@dataclass(frozen=True, slots=True)
class Format:
    """kind: as registries call it. indexed: whether message indexes follow the id. media: content type of the data.

    compile: Raises: DecodeError when the schema cannot be used. The second argument names the message that is written.
    """

    kind: str
    indexed: bool
    media: str
    compile: Callable[[RegisteredSchema, str | None], Compiled]


def _avro(schema: RegisteredSchema, message: str | None) -> Compiled:
    from bridge.codecs.confluent.avro import AvroSchema

    return AvroSchema(schema)


def _protobuf(schema: RegisteredSchema, message: str | None) -> Compiled:
    from bridge.codecs.confluent.protobuf import ProtobufSchema

    return ProtobufSchema(schema, message)


AvroFormat = Format("AVRO", False, "application/avro", _avro)
ProtobufFormat = Format("PROTOBUF", True, "application/protobuf", _protobuf)
