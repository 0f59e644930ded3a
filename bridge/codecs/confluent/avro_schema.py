"""Avro schemas in the form that the reader and the writer of this package share with fastavro.

fastavro reads and writes the primitive types only. Logical types and defaults are stored in attributes that fastavro
ignores. A branch of a union that its value does not identify becomes a record with one field, which has the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import count
from typing import Any

import fastavro

from bridge.codecs.confluent.avro_logical import logical_type
from bridge.core.errors import DecodeError

LOGICAL, DEFAULT, BRANCH, VALUE = "bridge.logical", "bridge.default", "bridge.branch", "value"
"""Attributes of a schema (its `Logical`, a field's default, the branch inside a record) and the one field's name."""
TYPE = "@type"
"""Member of JSON data that names the branch of a union. No field of a record can have this name."""
RECORDS = ("record", "error")
_PRIMITIVES = frozenset({"null", "boolean", "int", "long", "float", "double", "bytes", "string"})
_SAME_IN_PYTHON = ({"int", "long"}, {"float", "double"})

Schema = Any
"""A schema as fastavro parses it: the name of a type, a list of branches, or a dict."""


def parse(text: str, references: tuple[tuple[str, str], ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A record with the schema as the type of its only field, and every named type.

    Inside a record the library resolves names, and the bytes are the same.
    Raises: DecodeError when the text is no Avro schema.
    """
    named: dict[str, Any] = {}
    rewrite = _Rewriter()
    try:
        for _, reference in references:
            fastavro.parse_schema(rewrite.schema(json.loads(reference)), named)
        fields = [{"name": VALUE, "type": rewrite.schema(json.loads(text))}]
        whole: Any = fastavro.parse_schema({"type": "record", "name": "bridge_whole", "fields": fields}, named)
    except Exception as error:  # JSON of any form meets the library's code here
        raise DecodeError(f"the schema is no Avro schema: {type(error).__name__}") from error
    return whole, named


def resolve(schema: Schema, named: Mapping[str, Any]) -> Schema:
    """Definition behind a name; any other schema unchanged."""
    return named[schema] if isinstance(schema, str) and schema not in _PRIMITIVES else schema


def kind_of(schema: Schema) -> str:
    """Name of the type of a schema that `resolve` returned and that is no union."""
    return str(schema["type"] if isinstance(schema, dict) else schema)


class _Rewriter:
    def __init__(self) -> None:
        self._numbers = count()

    def schema(self, schema: Any) -> Any:
        if isinstance(schema, list):
            return self._union([self.schema(branch) for branch in schema])
        if not isinstance(schema, dict):
            return schema
        kind = schema["type"]
        if not isinstance(kind, str):
            return self.schema(kind)
        made = {key: schema[key] for key in ("type", "name", "namespace", "symbols", "size") if key in schema}
        if kind in RECORDS:
            made["fields"] = [self._field(field) for field in schema["fields"]]
            _check_names([field["name"] for field in made["fields"]])
        elif kind == "array":
            made["items"] = self.schema(schema["items"])
        elif kind == "map":
            made["values"] = self.schema(schema["values"])
        elif kind in _PRIMITIVES or kind == "fixed":
            if kind == "fixed" and (type(schema["size"]) is not int or schema["size"] < 0):
                raise ValueError
            logical = logical_type(kind, schema)
            if logical is not None:
                made[LOGICAL] = logical
            elif kind in _PRIMITIVES:
                return kind
        elif kind == "enum":
            _check_names(schema["symbols"])
        else:
            return kind  # the name of a type
        return made

    def _field(self, field: Any) -> dict[str, Any]:
        made = {"name": field["name"], "type": self.schema(field["type"])}
        if "default" in field:
            made[DEFAULT] = field["default"]
        return made

    def _union(self, branches: list[Any]) -> list[Any]:
        kinds = {branch["type"] if isinstance(branch, dict) else branch for branch in branches}
        alike = {kind for pair in _SAME_IN_PYTHON if pair <= kinds for kind in pair}
        return [
            branch
            if (branch["type"] if isinstance(branch, dict) else branch) not in alike
            else {
                "type": "record",
                "name": f"{BRANCH}_{next(self._numbers)}",
                "fields": [{"name": VALUE, "type": branch}],
                BRANCH: branch,
            }
            for branch in branches
        ]


def _check_names(names: list[Any]) -> None:
    """Check names. Raises: ValueError unless all are texts without repetition."""
    if not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
        raise ValueError
