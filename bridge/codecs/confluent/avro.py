"""Avro schemas: read into JSON types, and written from them."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import fastavro

from bridge.codecs.confluent.avro_reader import AvroReader
from bridge.codecs.confluent.avro_schema import BRANCH, VALUE, parse, resolve
from bridge.codecs.confluent.avro_writer import AvroWriter
from bridge.codecs.confluent.registry import RegisteredSchema
from bridge.codecs.confluent.wire import read_zigzag
from bridge.config.model.sources import LimitsConfig
from bridge.core.errors import DecodeError


class AvroSchema:
    """One schema. Readers use the writer's schema unchanged."""

    def __init__(self, schema: RegisteredSchema, record: str | None = None) -> None:
        """Compile a schema.

        record: full name of the record to write, where the schema is a union; None: the one that fits.

        Raises: DecodeError when the schema is not usable Avro, or has no such record.
        """
        self._whole, self._named = parse(schema.text, schema.references)
        self._schema: Any = self._whole["fields"][0]["type"]
        try:
            self._reader = AvroReader(self._schema, self._named)
        except RecursionError:
            raise DecodeError("the schema nests deeper than Avro data can be read safely") from None
        if record is not None and record not in self._names():
            raise DecodeError(f"the schema has no record {record}")
        self._written = record
        self.record = record or ("" if isinstance(self._schema, list) else self._names()[0])

    def _names(self) -> list[str]:
        """Full names of the named types that a value may have, "" for others."""
        branches = self._schema if isinstance(self._schema, list) else [self._schema]
        found = [resolve(branch, self._named) for branch in branches]
        return [each.get("name", "") if isinstance(each, dict) and BRANCH not in each else "" for each in found]

    def place(self, record: str | None) -> None:
        """See `CompiledSchema.place`: Avro has no indexes."""

    def record_of(self, data: bytes, indexes: tuple[int, ...]) -> str:
        """See `CompiledSchema.record_of`."""
        at = read_zigzag(data, 0)[0] if isinstance(self._schema, list) else 0
        return self._names()[at]

    def decode(self, data: bytes, indexes: tuple[int, ...], limits: LimitsConfig) -> Any:
        """See `CompiledSchema.decode`."""
        return self._reader.read(data, limits)

    def encode(self, value: Any, record: str | None = None) -> bytes:
        """See `CompiledSchema.encode`."""
        writer, record = AvroWriter(self._named), record or self._written
        stream = BytesIO()
        try:
            if record is None:
                native = writer.native(self._schema, value, "data")
            elif isinstance(self._schema, list):
                native = writer.branch(self._schema, record, value, "data")
            elif record != self._names()[0]:
                raise DecodeError(f"the schema has no {record}")
            else:
                native = writer.native(self._schema, value, "data")
            fastavro.schemaless_writer(stream, self._whole, {VALUE: native})
        except (ValueError, TypeError, LookupError, OverflowError) as error:
            raise DecodeError(f"the event's data does not fit its Avro schema ({type(error).__name__})") from None
        except RecursionError:
            raise DecodeError("the event's data nests deeper than Avro data can be written") from None
        return stream.getvalue()
