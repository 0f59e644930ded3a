"""The reader of Avro data: directly from bytes to JSON types, strict and within limits.

Bytes become base64, decimals text (which is exact), points in time RFC 3339 in UTC, dates and times of day ISO 8601,
and numbers that are not finite `NaN`, `Infinity` and `-Infinity`, as in protobuf's JSON mapping. A record in a union of
several records carries its full name as the member `@type`, unless the union is the whole schema.
fastavro's reader accepts a boolean of 2 as true, a negative index as one from the end, an integer of 65 bits as another
one, and the last of two equal keys. It allocates as much as a count states.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable, Mapping
from typing import Any

from bridge.codecs.confluent.avro_logical import Logical
from bridge.codecs.confluent.avro_schema import BRANCH, LOGICAL, RECORDS, TYPE, VALUE, Schema, kind_of, resolve
from bridge.codecs.limits import Budget, MisfitValue
from bridge.codecs.numbers import float_to_json, single_to_json
from bridge.config.model.sources import LimitsConfig
from bridge.core.errors import DecodeError, PayloadTooDeep

_FLOAT, _DOUBLE = struct.Struct("<f"), struct.Struct("<d")
_CUT_OFF = "is cut off"
_PATH_LIMIT = 200


class _Body(Budget):
    """Data with the read position, and the rest of its budget."""

    __slots__ = ("at", "data")

    def __init__(self, data: bytes, limits: LimitsConfig) -> None:
        super().__init__(limits)
        self.data = data
        self.at = 0

    def read(self, size: int) -> bytes:
        """Read bytes. Raises: MisfitValue."""
        start, end = self.at, self.at + size
        if size < 0:
            raise MisfitValue("has a negative length")
        if end > len(self.data):
            raise MisfitValue(_CUT_OFF)
        self.at = end
        return self.data[start:end]

    def read_long(self) -> int:
        """Read a zigzag varint of at most 64 bits. Raises: MisfitValue."""
        data, at = self.data, self.at
        try:
            byte = data[at]
            at += 1
            value = byte & 0x7F
            shift = 7
            while byte >= 0x80:
                byte = data[at]
                at += 1
                value |= (byte & 0x7F) << shift
                shift += 7
                if shift > 70 or value >> 64:
                    raise MisfitValue("is an integer beyond 64 bits")
        except IndexError:
            raise MisfitValue(_CUT_OFF) from None
        self.at = at
        return (value >> 1) ^ -(value & 1)


Read = Callable[[_Body, int], Any]
"""Function that reads a value from a body into JSON types. The second argument is the number of levels that may still
nest."""


class AvroReader:
    """Reader of the data of one schema. Compiled once, safe to share."""

    def __init__(self, schema: Schema, named: Mapping[str, Any]) -> None:
        self._named = named
        self._records: dict[str, Read] = {}
        self._read = self._union(schema, tagged=False) if isinstance(schema, list) else self._compile(schema)

    def read(self, data: bytes, limits: LimitsConfig) -> Any:
        """Read data into JSON types. Raises: DecodeError, naming the place in the data and never a value."""
        body = _Body(data, limits)
        try:
            body.take(1)
            value = self._read(body, limits.max_depth)
        except MisfitValue as error:
            path = error.path if len(error.path) <= _PATH_LIMIT else error.path[:_PATH_LIMIT] + "…"
            raise DecodeError(f"the body cannot be read: data{path} {error.what}") from None
        except RecursionError:
            raise PayloadTooDeep("the body nests deeper than Avro data can be read safely") from None
        if body.at != len(data):
            raise DecodeError("the body goes on after the data that its Avro schema describes")
        return value

    def _compile(self, schema: Schema) -> Read:
        if isinstance(schema, list):
            return self._union(schema, tagged=True)
        definition = resolve(schema, self._named)
        kind = kind_of(definition)
        match kind:
            case "record" | "error":
                return self._record(definition)
            case "array":
                return _array(self._compile(definition["items"]))
            case "map":
                return _map(self._compile(definition["values"]))
            case "enum":
                return _enum(definition["symbols"])
        logical = definition.get(LOGICAL) if isinstance(definition, dict) else None
        raw = _fixed(definition["size"]) if kind == "fixed" else _PRIMITIVES[kind]
        if logical is not None:
            return _logical(logical, raw)
        return _base64(raw) if kind in ("bytes", "fixed") else raw

    def _record(self, definition: Mapping[str, Any]) -> Read:
        name = definition["name"]
        if BRANCH in definition:
            return self._compile(definition[BRANCH])
        if name in self._records:
            # A recursive schema is compiled only when the whole schema is known
            return lambda body, room: self._records[name](body, room)
        fields: list[tuple[str, Read]] = []
        names = sum(len(field["name"]) for field in definition["fields"])
        count = len(definition["fields"])

        def read(body: _Body, room: int) -> Any:
            if room <= 0:
                raise _too_deep()
            body.take(count, names)
            value: dict[str, Any] = {}
            member = ""
            try:
                for member, inner in fields:
                    value[member] = inner(body, room - 1)
            except MisfitValue as error:
                error.prefix(f".{member}")
                raise
            return value

        self._records[name] = read
        fields.extend((field["name"], self._compile(field["type"])) for field in definition["fields"])
        return read

    def _union(self, branches: list[Schema], tagged: bool) -> Read:
        definitions = [resolve(branch, self._named) for branch in branches]
        records = sum(kind_of(each) in RECORDS and BRANCH not in each for each in definitions)
        readers: list[Read] = []
        for branch, definition in zip(branches, definitions, strict=True):
            inner = self._compile(branch)
            if kind_of(definition) == "map":
                inner = _tagged_map(inner)
            elif tagged and records > 1 and kind_of(definition) in RECORDS and BRANCH not in definition:
                inner = _named(inner, definition["name"])
            readers.append(inner)

        def read(body: _Body, room: int) -> Any:
            index = body.read_long()
            if not 0 <= index < len(readers):
                raise MisfitValue("is of a branch that its union does not have")
            return readers[index](body, room)

        return read


def _int(body: _Body, room: int) -> int:
    value = body.read_long()
    if not -(1 << 31) <= value < 1 << 31:
        raise MisfitValue("is an integer beyond 32 bits")
    return value


def _boolean(body: _Body, room: int) -> bool:
    byte = body.read(1)[0]
    if byte > 1:
        raise MisfitValue("is a boolean that is neither 0 nor 1")
    return byte == 1


def _bytes(body: _Body, room: int) -> bytes:
    return body.read(body.read_long())


def _string(body: _Body, room: int) -> str:
    data = body.read(body.read_long())
    body.take(0, len(data))
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise MisfitValue("is text that is not valid UTF-8") from None


def _fixed(size: int) -> Read:
    return lambda body, room: body.read(size)


def _enum(symbols: list[str]) -> Read:
    def read(body: _Body, room: int) -> str:
        index = body.read_long()
        if not 0 <= index < len(symbols):
            raise MisfitValue("is a symbol that its enum does not have")
        symbol = symbols[index]
        body.take(0, len(symbol))
        return symbol

    return read


def _base64(raw: Read) -> Read:
    def read(body: _Body, room: int) -> str:
        data = raw(body, room)
        body.take(0, len(data) * 4 // 3)
        return base64.b64encode(data).decode()

    return read


def _logical(logical: Logical, raw: Read) -> Read:
    def read(body: _Body, room: int) -> Any:
        value = raw(body, room)
        try:
            text = logical.read(value)
        except (ValueError, OverflowError):
            raise MisfitValue(f"is a {logical.name} that {logical.beyond}") from None
        body.take(0, len(text))
        return text

    return read


def _named(inner: Read, name: str) -> Read:
    def read(body: _Body, room: int) -> Any:
        body.take(1, len(name) + len(TYPE))
        return {TYPE: name, **inner(body, room)}

    return read


def _tagged_map(inner: Read) -> Read:
    def read(body: _Body, room: int) -> Any:
        value = inner(body, room)
        return {TYPE: "map", VALUE: value} if TYPE in value else value

    return read


def _array(inner: Read) -> Read:
    def read(body: _Body, room: int) -> Any:
        if room <= 0:
            raise _too_deep()
        items: list[Any] = []
        try:
            while count := body.read_long():
                end = _end_of_block(body, count)
                body.take(abs(count))
                for _ in range(abs(count)):
                    items.append(inner(body, room - 1))  # noqa: PERF401 -- the handler names the place
                _check_end(body, end)
        except MisfitValue as error:
            error.prefix(f"[{len(items)}]")
            raise
        return items

    return read


def _map(inner: Read) -> Read:
    def read(body: _Body, room: int) -> Any:
        if room <= 0:
            raise _too_deep()
        members: dict[str, Any] = {}
        try:
            while count := body.read_long():
                end = _end_of_block(body, count)
                body.take(abs(count))
                for _ in range(abs(count)):
                    key = _string(body, 0)
                    if key in members:
                        raise MisfitValue("is a second value of its key")
                    members[key] = inner(body, room - 1)
                _check_end(body, end)
        except MisfitValue as error:
            error.prefix(".*")  # the key is the sender's
            raise
        return members

    return read


def _end_of_block(body: _Body, count: int) -> int | None:
    """End of a block of items that states its size, as announced by a negative count; None for other blocks."""
    if count > 0:
        return None
    size = body.read_long()
    return body.at + size


def _check_end(body: _Body, end: int | None) -> None:
    if end is not None and body.at != end:
        raise MisfitValue("follows a block of another size than it says")


def _too_deep() -> PayloadTooDeep:
    return PayloadTooDeep("the body nests deeper than limits.max_depth allows")


_PRIMITIVES: dict[str, Read] = {
    "null": lambda body, room: None,
    "boolean": _boolean,
    "int": _int,
    "long": lambda body, room: body.read_long(),
    "float": lambda body, room: single_to_json(_FLOAT.unpack(body.read(4))[0]),
    "double": lambda body, room: float_to_json(_DOUBLE.unpack(body.read(8))[0]),
    "bytes": _bytes,
    "string": _string,
}
