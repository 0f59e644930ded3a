"""Values of Avro as JSON types, and back. Pure.

Bytes are base64, decimals text (they are exact), points in time RFC 3339 in UTC, dates and times of day ISO 8601,
numbers that are not finite `NaN`, `Infinity` and `-Infinity`, as protobuf writes them in JSON. A record in a union of
several carries its full name as the member `@type`, unless the union is the whole schema.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from typing import Any

from bridge.codecs.confluent.avro_logical import Logical
from bridge.codecs.confluent.avro_schema import BRANCH, DEFAULT, LOGICAL, RECORDS, VALUE, Schema, kind_of, resolve
from bridge.codecs.numbers import double, float_to_json, from_base64, single, single_to_json
from bridge.errors import DecodeError

TYPE = "@type"
"""Member that names the branch of a union. No field of a record can have this name."""
_TAGGED = frozenset({TYPE, VALUE})

Convert = Callable[[Any, int], Any]
"""From what fastavro read, and the levels that it may still nest, to JSON."""


class _Unreadable(Exception):
    """A value without a JSON form, and where it is."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.path = ""


class Reader:
    """From what fastavro read of one schema to JSON types. Compiled once, safe to share."""

    def __init__(self, schema: Schema, named: Mapping[str, Any]) -> None:
        self._named = named
        self._records: dict[str, Convert] = {}
        self._convert = self._union(schema, tagged=False) if isinstance(schema, list) else self._compile(schema)

    def to_json(self, value: Any, max_depth: int) -> Any:
        """JSON types; containers are changed in place.

        Raises: DecodeError when it nests deeper than `max_depth`, or for a value without a JSON form, naming its place.
        """
        if self._convert is None:
            return value
        try:
            return self._convert(value, max_depth)
        except _Unreadable as error:
            raise DecodeError(f"the body cannot be read: data{error.path} {error.what}") from None
        except RecursionError:
            raise DecodeError("the body nests deeper than Avro data can be read safely") from None

    def _compile(self, schema: Schema) -> Convert | None:
        """None where the values are JSON as they come."""
        if isinstance(schema, list):
            return self._union(schema, tagged=True)
        definition = resolve(schema, self._named)
        if isinstance(definition, dict) and LOGICAL in definition:
            return _logical(definition[LOGICAL])
        match kind_of(definition):
            case "record" | "error":
                return self._record(definition)
            case "array":
                return _array(self._compile(definition["items"]))
            case "map":
                return _map(self._compile(definition["values"]))
            case kind:
                return _SCALARS_TO_JSON.get(kind)

    def _record(self, definition: Mapping[str, Any]) -> Convert:
        name = definition["name"]
        if name in self._records:
            # A recursive schema is compiled only when all of it is known
            return lambda value, room: self._records[name](value, room)
        if BRANCH in definition:
            inner = self._compile(definition["fields"][0]["type"])
            return lambda value, room: value[VALUE] if inner is None else inner(value[VALUE], room)
        fields: list[tuple[str, Convert]] = []

        def convert(value: Any, room: int) -> Any:
            if room <= 0:
                raise _too_deep()
            for field, inner in fields:
                try:
                    value[field] = inner(value[field], room - 1)
                except _Unreadable as error:
                    error.path = f".{field}{error.path}"
                    raise
            return value

        self._records[name] = convert
        for field in definition["fields"]:
            inner = self._compile(field["type"])
            if inner is not None:
                fields.append((field["name"], inner))
        return convert

    def _union(self, branches: list[Schema], tagged: bool) -> Convert:
        by_name: dict[str, tuple[Convert | None, bool]] = {}
        by_type: dict[type, Convert | None] = {}
        definitions = [(branch, resolve(branch, self._named)) for branch in branches]
        records = sum(kind_of(each) in RECORDS and BRANCH not in each for _, each in definitions)
        for branch, definition in definitions:
            kind = kind_of(definition)
            if kind in _PYTHON:
                by_type[_PYTHON[kind]] = self._compile(branch)
            else:
                named = tagged and records > 1 and kind in RECORDS and BRANCH not in definition
                by_name[definition["name"]] = self._compile(branch), named
        tag_maps = dict in by_type

        def convert(value: Any, room: int) -> Any:
            if type(value) is tuple:
                name, value = value
                inner, named = by_name[name]
                if inner is not None:
                    value = inner(value, room)
                return {TYPE: name, **value} if named else value
            inner = by_type[type(value)]
            if inner is not None:
                value = inner(value, room)
            if tag_maps and type(value) is dict and TYPE in value:
                return {TYPE: "map", VALUE: value}
            return value

        return convert


def _too_deep() -> DecodeError:
    return DecodeError("the body nests deeper than limits.max_depth allows")


def _logical(logical: Logical) -> Convert:
    def convert(value: Any, room: int) -> Any:
        try:
            return logical.read(value)
        except (ValueError, OverflowError):
            raise _Unreadable(f"is a {logical.name} that {logical.beyond}") from None

    return convert


def _array(inner: Convert | None) -> Convert:
    def convert(value: Any, room: int) -> Any:
        if room <= 0:
            raise _too_deep()
        if inner is not None:
            at = 0
            try:
                for at, each in enumerate(value):
                    value[at] = inner(each, room - 1)
            except _Unreadable as error:
                error.path = f"[{at}]{error.path}"
                raise
        return value

    return convert


def _map(inner: Convert | None) -> Convert:
    def convert(value: Any, room: int) -> Any:
        if room <= 0:
            raise _too_deep()
        if inner is not None:
            try:
                for key, each in value.items():
                    value[key] = inner(each, room - 1)
            except _Unreadable as error:
                error.path = f".*{error.path}"  # the key is the sender's
                raise
        return value

    return convert


def _base64(value: bytes, room: int) -> str:
    return base64.b64encode(value).decode()


_SCALARS_TO_JSON: dict[str, Convert] = {
    "bytes": _base64,
    "fixed": _base64,
    "float": lambda value, room: single_to_json(value),
    "double": lambda value, room: float_to_json(value),
}
_PYTHON: dict[str, type] = {
    "null": type(None), "boolean": bool, "int": int, "long": int, "float": float, "double": float,
    "bytes": bytes, "string": str, "array": list, "map": dict,
}  # fmt: skip
"""Types of values that fastavro reads without a name of their branch."""


class Writer:
    """From JSON types to what fastavro writes, by the schema; checks everything on the way."""

    def __init__(self, named: Mapping[str, Any], *, raw: bool = False) -> None:
        """raw: values are defaults of a schema: without logical types, and bytes as the characters U+0000 to U+00FF."""
        self._named = named
        self._raw = raw

    def native(self, schema: Schema, value: Any, path: str) -> Any:
        """Raises: DecodeError, naming the place and the type that is expected there."""
        if isinstance(schema, list):
            return self._union(schema, value, path)
        definition = resolve(schema, self._named)
        kind = kind_of(definition)
        if not self._raw and isinstance(definition, dict) and LOGICAL in definition:
            logical: Logical = definition[LOGICAL]
            return _tried(logical.write, value, path, logical.text)
        match kind:
            case "record" | "error":
                if BRANCH in definition:
                    return {VALUE: self.native(definition[BRANCH], value, path)}
                return self._record(definition, value, path)
            case "array":
                if not isinstance(value, list):
                    raise _misfit(path, "an array")
                return [self.native(definition["items"], each, f"{path}[{at}]") for at, each in enumerate(value)]
            case "map":
                if not isinstance(value, dict):
                    raise _misfit(path, "a map")
                values = definition["values"]
                return {
                    _tried(_text, key, path, "a map with keys of text"): self.native(values, each, f"{path}.{key}")
                    for key, each in value.items()
                }
            case "enum":
                if value not in definition["symbols"]:
                    raise _misfit(path, f"one of {', '.join(definition['symbols'])}")
                return value
            case "fixed":
                size = definition["size"]
                data = _tried(self._bytes, value, path, f"{size} bytes in base64")
                if len(data) != size:
                    raise _misfit(path, f"{size} bytes in base64")
                return data
            case "bytes":
                return _tried(self._bytes, value, path, "bytes in base64")
        convert, what = _SCALARS[kind]
        return _tried(convert, value, path, what)

    def branch(self, branches: list[Schema], name: str, value: Any, path: str) -> Any:
        """The branch of this name, as fastavro takes it. Raises: DecodeError, also when there is no such branch."""
        for branch in branches:
            if _name(resolve(branch, self._named)) == name:
                return self._chosen(branch, value, path)
        raise DecodeError(f"the schema has no {name}")

    def _record(self, definition: Mapping[str, Any], value: Any, path: str) -> dict[str, Any]:
        name = definition["name"]
        if not isinstance(value, dict) or value.get(TYPE, name) != name:
            raise _misfit(path, f"a record {name}")
        native: dict[str, Any] = {}
        for field in definition["fields"]:
            member, at = field["name"], f"{path}.{field['name']}"
            if member in value:
                native[member] = self.native(field["type"], value[member], at)
            elif DEFAULT in field:
                native[member] = self._default(field, at)
            else:
                raise _misfit(at, "there")
        unknown = value.keys() - native.keys() - {TYPE}
        if unknown:
            raise DecodeError(f"{path} has a member {sorted(unknown)[0]} that the record {name} has not")
        return native

    def _default(self, field: Mapping[str, Any], path: str) -> Any:
        try:
            return Writer(self._named, raw=True).native(field["type"], field[DEFAULT], path)
        except DecodeError:
            raise _misfit(path, "there: the schema's default does not fit its type") from None

    def _union(self, branches: list[Schema], value: Any, path: str) -> Any:
        if isinstance(value, dict) and not self._raw and isinstance(value.get(TYPE), str):
            for branch in branches:
                definition = resolve(branch, self._named)
                if _name(definition) == value[TYPE]:
                    if kind_of(definition) in RECORDS and BRANCH not in definition:
                        return self._chosen(branch, value, path)
                    if value.keys() == _TAGGED:
                        return self._chosen(branch, value[VALUE], path)
        reasons = []
        for branch in branches if self._raw else sorted(branches, key=lambda each: self._rank(each, value)):
            try:
                return self._chosen(branch, value, path)
            except DecodeError as error:
                if branch != "null":
                    reasons.append(error)
        raise reasons[0] if len(reasons) == 1 else _misfit(path, "of one of the union's types")

    def _chosen(self, branch: Schema, value: Any, path: str) -> Any:
        """Named, so that fastavro does not choose another branch."""
        definition = resolve(branch, self._named)
        kind = kind_of(definition)
        return (kind if kind in _PYTHON else definition["name"], self.native(branch, value, path))

    def _rank(self, branch: Schema, value: Any) -> int:
        """How early a branch is tried: by the type of the value and never by the look of a text."""
        definition = resolve(branch, self._named)
        definition = definition.get(BRANCH, definition) if isinstance(definition, dict) else definition
        if isinstance(definition, dict) and LOGICAL in definition and kind_of(definition) != "string":
            return 9
        for rank, kinds in enumerate(_PREFERRED.get(type(value), ())):
            if kind_of(definition) in kinds:
                return rank
        return 9

    def _bytes(self, value: Any) -> bytes:
        if self._raw:
            return bytes(value.encode("latin-1")) if isinstance(value, str) else _refuse()
        return value if isinstance(value, bytes) else from_base64(value)


_PREFERRED: dict[type, tuple[tuple[str, ...], ...]] = {
    str: (("enum",), ("string",)),
    int: (("int", "long"), ("double",), ("float",)),
    float: (("double",), ("float",)),
    dict: (RECORDS, ("map",)),
}
"""Branches of a union by the type of a JSON value, best first; others follow in the order of the schema."""


def _name(definition: Schema) -> str:
    if isinstance(definition, dict):
        if BRANCH in definition:
            return kind_of(definition[BRANCH])
        return str(definition.get("name", definition["type"]))
    return str(definition)


def _misfit(path: str, what: str) -> DecodeError:
    return DecodeError(f"the event's data does not fit its schema: {path} must be {what}")


def _tried(convert: Callable[[Any], Any], value: Any, path: str, what: str) -> Any:
    try:
        return convert(value)
    except (ValueError, TypeError, OverflowError, binascii.Error):
        raise _misfit(path, what) from None


def _exactly(*kinds: type) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if type(value) not in kinds:
            raise TypeError
        return value

    return check


def _integer(bits: int) -> Callable[[Any], Any]:
    def check(value: Any) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if type(value) is not int or not -(1 << bits - 1) <= value < 1 << bits - 1:
            raise TypeError
        return value

    return check


def _refuse() -> Any:
    raise TypeError


def _text(value: Any) -> str:
    if type(value) is not str:
        raise TypeError
    if not value.isascii():
        value.encode()  # ValueError for a lone surrogate
    return value


_SCALARS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "null": (_exactly(type(None)), "null"),
    "boolean": (_exactly(bool), "true or false"),
    "int": (_integer(32), "an integer of 32 bits"),
    "long": (_integer(64), "an integer of 64 bits"),
    "float": (single, "a number that a 32-bit float can hold"),
    "double": (double, "a number that a double can hold"),
    "string": (_text, "a string"),
}
