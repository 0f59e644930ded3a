"""Avro schemas: read into JSON types, and written from them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import fastavro
from fastavro._read_py import schemaless_reader as careful_reader

from bridge.codecs.confluent.avro_values import Writer, to_json
from bridge.codecs.confluent.registry import RegisteredSchema
from bridge.codecs.limits import Limits
from bridge.errors import DecodeError

_WHOLE, _VALUE = "bridge_whole", "value"


class AvroSchema:
    """One schema. Readers use the writer's schema as it is."""

    indexes = None

    def __init__(self, schema: RegisteredSchema) -> None:
        """Raises: DecodeError when it is no usable Avro schema."""
        named: dict[str, Any] = {}
        try:
            for _, text in schema.references:
                fastavro.parse_schema(json.loads(text), named)
            # As a record's only field: the same bytes, and the library looks names up in records only
            fields = [{"name": _VALUE, "type": json.loads(schema.text)}]
            whole: Any = fastavro.parse_schema({"type": "record", "name": _WHOLE, "fields": fields}, named)
        except (ValueError, TypeError, KeyError, RecursionError, fastavro.schema.SchemaParseException) as error:
            raise DecodeError(f"the schema is no Avro schema: {type(error).__name__}") from error
        self._whole = whole
        self._schema: Any = whole["fields"][0]["type"]
        self._named = named
        self._recursive = _look(self._schema, named)
        self.record = self._schema.get("name", "") if isinstance(self._schema, dict) else ""

    def decode(self, data: bytes, indexes: tuple[int, ...], limits: Limits) -> Any:
        """See `Compiled.decode`."""
        stream = BytesIO(data)
        # The fast reader follows a recursive schema down to the end of the stack, and the process with it
        read = careful_reader if self._recursive else fastavro.schemaless_reader
        try:
            value: Any = read(stream, self._whole, None)
        except RecursionError:
            raise DecodeError("the body nests deeper than Avro data can be read safely") from None
        except (EOFError, ValueError, TypeError, LookupError, OverflowError, MemoryError, ArithmeticError) as error:
            raise DecodeError(f"the body is not what its Avro schema says ({type(error).__name__})") from None
        if stream.read(1):
            raise DecodeError("the body goes on after the data that its Avro schema describes")
        return to_json(value[_VALUE], limits.max_depth)

    def encode(self, value: Any) -> bytes:
        """See `Compiled.encode`."""
        native = Writer(self._named).native(self._schema, value, "data")
        stream = BytesIO()
        try:
            fastavro.schemaless_writer(stream, self._whole, {_VALUE: native})
        except (ValueError, TypeError, LookupError, OverflowError, RecursionError) as error:
            raise DecodeError(f"the event's data does not fit its Avro schema ({type(error).__name__})") from None
        return stream.getvalue()


def _look(schema: Any, named: Mapping[str, Any]) -> bool:
    """Whether the schema is recursive.

    Raises: DecodeError for an array whose items take no bytes: a body of a few bytes could claim any number of them.
    """
    recursive = False
    above: set[str] = set()
    known: dict[str, bool] = {}

    def visit(part: Any) -> bool:
        """Whether it always takes bytes."""
        nonlocal recursive
        if isinstance(part, list):
            for each in part:
                visit(each)
            return True  # the branch
        kind = part["type"] if isinstance(part, dict) else part
        if isinstance(kind, dict | list):
            return visit(kind)
        if kind == "array":
            if not visit(part["items"]):
                raise DecodeError("the schema has an array whose items take no bytes, which cannot be read safely")
            return True
        if kind == "map":
            visit(part["values"])
            return True
        if kind == "fixed":
            return bool(part["size"])
        if kind in ("record", "error") or kind in named:
            name = part["name"] if isinstance(part, dict) and "name" in part else kind
            if name in above:
                recursive = True
                return True
            if name in known:
                return known[name]
            definition = named.get(name, part)
            if definition.get("type") not in ("record", "error"):
                return visit(definition)
            above.add(name)
            sizes = [visit(field["type"]) for field in definition["fields"]]
            above.remove(name)
            known[name] = any(sizes)
            return known[name]
        return bool(kind != "null")

    visit(schema)
    return recursive
