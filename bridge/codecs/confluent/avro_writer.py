"""Conversion of JSON types into values that fastavro writes; the forms are those of `avro_reader`. Pure."""

from __future__ import annotations

import binascii
from collections.abc import Callable, Mapping
from typing import Any

from bridge.codecs.confluent.avro_logical import Logical
from bridge.codecs.confluent.avro_schema import BRANCH, DEFAULT, LOGICAL, RECORDS, TYPE, VALUE, Schema, kind_of, resolve
from bridge.codecs.numbers import double, from_base64, single
from bridge.core.errors import DecodeError

_TAGGED = frozenset({TYPE, VALUE})
_DEFAULTS = 10_000
"""Most members of one event that are written by default: records with defaults of records can double at every level."""

_UNNAMED = frozenset({
    "null", "boolean", "int", "long", "float", "double", "bytes", "string", "array", "map"
})  # fmt: skip
"""Types whose branch in a union is identified by the type and not by a name."""


class AvroWriter:
    """Converter of JSON types into fastavro's values, by the schema, with a check of all of them."""

    def __init__(self, named: Mapping[str, Any], *, defaults: list[int] | None = None) -> None:
        """Create a writer.

        defaults: number of defaults that may still be written, for values that are themselves defaults of a schema.
        Such values have no logical types, and bytes are the characters U+0000 to U+00FF.
        """
        self._named = named
        self._raw = defaults is not None
        self._defaults = defaults or [_DEFAULTS]

    def native(self, schema: Schema, value: Any, path: str) -> Any:
        """Convert a value. Raises: DecodeError, naming the place and the type that is expected there."""
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
        """Convert a value for the branch of this name. Raises: DecodeError, also when there is no such branch."""
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
        self._defaults[0] -= 1
        if self._defaults[0] < 0:
            raise DecodeError(f"the schema's defaults are more than the {_DEFAULTS} that are written")
        try:
            return AvroWriter(self._named, defaults=self._defaults).native(field["type"], field[DEFAULT], path)
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
        """Convert a value for a branch and add its name; otherwise fastavro might choose another branch."""
        definition = resolve(branch, self._named)
        kind = kind_of(definition)
        return (kind if kind in _UNNAMED else definition["name"], self.native(branch, value, path))

    def _rank(self, branch: Schema, value: Any) -> int:
        """Order in which a branch is tried: by the type of the value and never by the content of a text."""
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
