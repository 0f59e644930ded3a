"""Types that JSON and Avro schemas declare, as `bridge.routing.payload_types` reads them.

What a schema says in ways that are not read, such as `if` or `patternProperties`, counts as unknown: a value may then
have any type.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import orjson

from bridge.config.schema_files import MAX_SCHEMA
from bridge.routing.payload_types import BOOLEAN, INTEGER, LIST, NULL, NUMBER, OBJECT, TEXT, SchemaView
from bridge.system.files import read_file

_ALTERNATIVES = 32
"""Most alternatives of a schema by anyOf and oneOf; the types of one with more are unknown."""
_REFERENCES = 100
"""Most references that lead from one to the next."""


class UnusableSchema(ValueError):
    """Raised for a text that is neither a JSON Schema nor an Avro schema; the text says why."""


def view_of(text: str | bytes, base: str = "", references: Sequence[str] = ()) -> SchemaView:
    """View of a schema: Avro if its top level is a record, a union or a name, else JSON Schema.

    base: URI of the file, for references to other local files.
    references: texts of referenced Avro schemas, each after its own references.
    Raises: UnusableSchema.
    """
    try:
        schema = orjson.loads(text)
        if is_avro(schema):
            return _AvroView.of(schema, [orjson.loads(each) for each in references])
        if not isinstance(schema, dict | bool):
            raise UnusableSchema("it is neither a JSON Schema nor an Avro schema")
        return _JsonView([[_Node(schema, _Documents(base, schema), base)]])
    except orjson.JSONDecodeError as error:
        raise UnusableSchema(f"it is not JSON: {error.msg} (line {error.lineno}, column {error.colno})") from None
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UnusableSchema(f"it is no schema ({type(error).__name__})") from None


def is_avro(schema: Any) -> bool:
    """True for an Avro schema, which declares fields, or is a union."""
    return isinstance(schema, list) or (
        isinstance(schema, dict)
        and schema.get("type") in ("record", "error")
        and isinstance(schema.get("fields"), list)
    )


# -- JSON Schema

_JSON_KINDS = {
    "string": TEXT, "integer": INTEGER, "number": NUMBER, "boolean": BOOLEAN, "null": NULL, "array": LIST,
    "object": OBJECT,
}  # fmt: skip


class _Documents:
    """Documents of a JSON Schema by URI. Only local files are read."""

    def __init__(self, base: str, schema: Any) -> None:
        self._known: dict[str, Any] = {base: schema}

    def find(self, uri: str) -> tuple[Any, str] | None:
        """Schema behind a reference, and the URI of its document; None if it cannot be followed."""
        base, fragment = urldefrag(uri)
        if base not in self._known:
            parts = urlsplit(base)
            if parts.scheme != "file":
                return None
            try:
                self._known[base] = orjson.loads(read_file(Path(unquote(parts.path)), MAX_SCHEMA))
            except (OSError, ValueError):
                return None
        found = self._known[base]
        if fragment and not fragment.startswith("/"):
            return None
        for part in filter(None, unquote(fragment).split("/")):
            name = part.replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and name.isdecimal() and int(name) < len(found):
                found = found[int(name)]
            elif isinstance(found, dict) and name in found:
                found = found[name]
            else:
                return None
        return found, base


class _Node:
    """A schema in its document."""

    def __init__(self, schema: Any, documents: _Documents, base: str) -> None:
        self.schema: dict[str, Any] = schema if isinstance(schema, dict) else {}
        self._documents = documents
        self._base = base

    def below(self, schema: Any) -> _Node:
        return _Node(schema, self._documents, self._base)

    def several(self, word: str) -> list[Any]:
        """List under a keyword; empty for anything else."""
        found = self.schema.get(word)
        return found if isinstance(found, list) else []

    @property
    def properties(self) -> Mapping[str, Any]:
        """Declared members."""
        found = self.schema.get("properties")
        return found if isinstance(found, dict) else {}

    def referenced(self) -> _Node | None:
        """Schema of its `$ref`; None without one. One that cannot be followed allows everything."""
        reference = self.schema.get("$ref")
        if not isinstance(reference, str):
            return None
        found = self._documents.find(urljoin(self._base, reference) if self._base else reference)
        return _Node({}, self._documents, "") if found is None else _Node(found[0], self._documents, found[1])

    def alternatives(self, depth: int = 0) -> list[list[_Node]] | None:
        """Alternatives of anyOf and oneOf, each with the schemas that hold together; None if there are too many."""
        if depth > _REFERENCES:
            return None
        parts: list[list[list[_Node]]] = [[[self]]]
        target = self.referenced()
        conjuncts = [self.below(each) for each in self.several("allOf")]
        for each in ([] if target is None else [target]) + conjuncts:
            found = each.alternatives(depth + 1)
            if found is None:
                return None
            parts.append(found)
        for word in ("anyOf", "oneOf"):
            if self.several(word):
                several: list[list[_Node]] = []
                for each in self.several(word):
                    found = self.below(each).alternatives(depth + 1)
                    if found is None:
                        return None
                    several += found
                parts.append(several)
        count = 1
        for part in parts:
            count *= len(part)
        if count > _ALTERNATIVES:
            return None
        return [[node for nodes in combination for node in nodes] for combination in product(*parts)]


class _JsonView:
    """View of a JSON Schema: alternatives, each with the schemas that hold together."""

    def __init__(self, alternatives: Sequence[Sequence[_Node]]) -> None:
        expanded: list[list[_Node]] = []
        for nodes in alternatives:
            for combination in product(*(node.alternatives() or [[node.below({})]] for node in nodes)):
                expanded.append([node for each in combination for node in each])
                if len(expanded) > _ALTERNATIVES:
                    break
        self._alternatives = expanded if len(expanded) <= _ALTERNATIVES else []

    @property
    def kinds(self) -> frozenset[str]:
        found: set[str] = set()
        for nodes in self._alternatives:
            own = _kinds_together(nodes)
            if own is None:
                return frozenset()
            found |= own
        return frozenset(found)

    @property
    def names(self) -> Collection[str]:
        return {name for nodes in self._alternatives for node in nodes for name in node.properties}

    @property
    def closed(self) -> bool:
        return bool(self._alternatives) and all(any(map(_is_closed, nodes)) for nodes in self._alternatives)

    @property
    def item(self) -> SchemaView | None:
        found = [
            [node.below(node.schema["items"]) for node in nodes if isinstance(node.schema.get("items"), dict)]
            for nodes in self._alternatives
        ]
        return _JsonView(found) if found and all(found) else None

    def member(self, name: str) -> SchemaView | None:
        found = [
            [node.below(node.properties[name]) for node in nodes if name in node.properties]
            for nodes in self._alternatives
        ]
        having = [each for each in found if each]
        return _JsonView(having) if having else None

    def requires(self, name: str) -> bool:
        return bool(self._alternatives) and all(
            any(name in node.several("required") for node in nodes) for nodes in self._alternatives
        )


def _is_closed(node: _Node) -> bool:
    schema = node.schema
    no_more = schema.get("additionalProperties") is False or schema.get("unevaluatedProperties") is False
    return no_more and not schema.get("patternProperties")


def _kinds_together(nodes: Sequence[_Node]) -> set[str] | None:
    """Types that several schemas allow together; None if they allow any."""
    together: set[str] | None = None
    for node in nodes:
        own = _kinds(node.schema)
        if own is not None:
            together = own if together is None else together & own
    return together


def _kinds(schema: Mapping[str, Any]) -> set[str] | None:
    given = schema.get("type")
    if given is not None:
        names = given if isinstance(given, list) else [given]
        return {_JSON_KINDS[name] for name in names if isinstance(name, str) and name in _JSON_KINDS}
    constants = [schema["const"]] if "const" in schema else schema.get("enum")
    if not isinstance(constants, list):
        return None
    return {_kind_of(value) for value in constants}


def _kind_of(value: Any) -> str:
    match value:
        case bool():
            return BOOLEAN
        case None:
            return NULL
        case str():
            return TEXT
        case int():
            return INTEGER
        case float():
            return NUMBER
        case list():
            return LIST
    return OBJECT


# -- Avro

_AVRO_KINDS = {
    "string": TEXT, "int": INTEGER, "long": INTEGER, "float": NUMBER, "double": NUMBER, "boolean": BOOLEAN,
    "null": NULL, "array": LIST, "map": OBJECT, "record": OBJECT, "error": OBJECT, "enum": TEXT,
}  # fmt: skip
"""Types of decoded values. Bytes, and logical types, are left out: their form depends on the logical type."""


class _AvroView:
    """View of an Avro schema: the branches of a union, or a single one."""

    def __init__(self, branches: Sequence[Any], named: Mapping[str, Any]) -> None:
        self._named = named
        self._branches = [self._resolved(each) for each in branches]

    @classmethod
    def of(cls, schema: Any, references: Sequence[Any] = ()) -> _AvroView:
        named: dict[str, Any] = {}
        for each in (*references, schema):
            _collect(each, "", named)
        return cls(schema if isinstance(schema, list) else [schema], named)

    def _resolved(self, schema: Any) -> Any:
        if isinstance(schema, str) and schema not in _AVRO_KINDS:
            return self._named.get(schema) or self._named.get(schema.rpartition(".")[2], schema)
        return schema

    def _below(self, schema: Any) -> _AvroView:
        return _AvroView(schema if isinstance(schema, list) else [schema], self._named)

    @property
    def _records(self) -> list[dict[str, Any]]:
        return [each for each in self._branches if isinstance(each, dict) and each.get("type") in ("record", "error")]

    @property
    def kinds(self) -> frozenset[str]:
        found: set[str] = set()
        for branch in self._branches:
            kind = branch if isinstance(branch, str) else branch.get("type")
            if isinstance(branch, dict) and "logicalType" in branch:
                kind = None
            if isinstance(kind, dict | list):  # {"type": {"type": "string"}}
                found |= self._below(kind).kinds or {""}
            else:
                found.add(_AVRO_KINDS.get(str(kind), ""))
        return frozenset() if "" in found else frozenset(found)

    @property
    def names(self) -> Collection[str]:
        return {field["name"] for record in self._records for field in record["fields"]}

    @property
    def closed(self) -> bool:
        return self.kinds == {OBJECT} and len(self._records) == 1

    @property
    def item(self) -> SchemaView | None:
        lists = [each for each in self._branches if isinstance(each, dict) and each.get("type") == "array"]
        return self._below(lists[0]["items"]) if len(lists) == 1 else None

    def member(self, name: str) -> SchemaView | None:
        found = [field["type"] for record in self._records for field in record["fields"] if field["name"] == name]
        if not found:
            return None
        return _AvroView(
            [each for type_ in found for each in (type_ if isinstance(type_, list) else [type_])], self._named
        )

    def requires(self, name: str) -> bool:
        return bool(self._records) and all(
            any(field["name"] == name for field in record["fields"]) for record in self._records
        )


def _collect(schema: Any, namespace: str, named: dict[str, Any]) -> None:
    """Add the named types of a schema, under their full and their short name. Raises: UnusableSchema."""
    match schema:
        case str():
            return
        case list():
            for each in schema:
                if isinstance(each, list):
                    raise UnusableSchema("a union holds a union")
                _collect(each, namespace, named)
        case {"type": "record" | "error", "fields": list() as fields, **rest}:
            namespace = _named(schema, rest.get("name"), namespace, named)
            for field in fields:
                match field:
                    case {"name": str(), "type": inner}:
                        _collect(inner, namespace, named)
                    case _:
                        raise UnusableSchema("a field has no name or no type")
        case {"type": "enum" | "fixed", **rest}:
            _named(schema, rest.get("name"), namespace, named)
        case {"type": "array", "items": inner} | {"type": "map", "values": inner}:
            _collect(inner, namespace, named)
        case {"type": str() as kind} if kind not in ("array", "map", "record", "error"):
            return
        case {"type": dict() | list() as inner}:
            _collect(inner, namespace, named)
        case _:
            raise UnusableSchema("it is no Avro schema")


def _named(schema: Any, name: Any, namespace: str, named: dict[str, Any]) -> str:
    """Add a named type; return the namespace of the names in it. Raises: UnusableSchema."""
    if not isinstance(name, str):
        raise UnusableSchema("a record, enum or fixed type has no name")
    own = schema.get("namespace")
    namespace = name.rpartition(".")[0] or (own if isinstance(own, str) else namespace)
    short = name.rpartition(".")[2]
    named[f"{namespace}.{short}" if namespace else short] = schema
    named.setdefault(short, schema)
    return namespace
