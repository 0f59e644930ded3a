"""Values of Avro as JSON types, and back. Pure.

Bytes are base64, decimals text (they are exact), points in time RFC 3339 in UTC, dates and times of day ISO 8601,
numbers that are not finite `NaN`, `Infinity` and `-Infinity`, as protobuf writes them in JSON.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time
from decimal import Decimal, InvalidOperation
from typing import Any
from uuid import UUID

from bridge.errors import DecodeError

_PLAIN = (str, int, bool, type(None))
_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def to_json(value: Any, max_depth: int) -> Any:
    """What a reader gave; containers are changed in place. Raises: DecodeError when deeper than `max_depth`."""
    box = [value]
    level: list[Any] = [box]
    depth = -1
    while level:
        depth += 1
        if depth > max_depth:
            raise DecodeError(f"the body nests deeper than the {max_depth} levels that limits.max_depth allows")
        below: list[Any] = []
        for container in level:
            places = container.items() if isinstance(container, dict) else enumerate(container)
            for place, member in list(places):
                if isinstance(member, dict | list):
                    below.append(member)
                elif not isinstance(member, _PLAIN):
                    container[place] = _scalar(member)
        level = below
    return box[0]


def _scalar(value: Any) -> Any:
    match value:
        case float():
            if math.isfinite(value):
                return value
            return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        case bytes() | bytearray():
            return base64.b64encode(value).decode()
        case datetime():
            text = value.astimezone(UTC).isoformat() if value.tzinfo else value.isoformat()
            return text.replace("+00:00", "Z")
        case date() | time():
            return value.isoformat()
        case tuple():
            return list(value)
    return str(value)


class Writer:
    """From JSON types to what fastavro writes, by the schema; checks everything on the way."""

    def __init__(self, named: Mapping[str, Any]) -> None:
        self._named = named

    def native(self, schema: Any, value: Any, path: str) -> Any:
        """Raises: DecodeError, naming the place and what is expected there."""
        if isinstance(schema, list):
            return self._union(schema, value, path)
        kind = schema["type"] if isinstance(schema, dict) else schema
        if isinstance(kind, dict | list):
            return self.native(kind, value, path)
        if kind in self._named and kind not in _SCALARS:
            return self.native(self._named[kind], value, path)
        if isinstance(schema, dict) and (logical := _LOGICAL.get(f"{kind}:{schema.get('logicalType')}")):
            return _tried(logical, value, path, str(schema["logicalType"]))
        match kind:
            case "record" | "error":
                return self._record(schema, value, path)
            case "array":
                if not isinstance(value, list):
                    raise _misfit(path, "an array")
                return [self.native(schema["items"], each, f"{path}[{at}]") for at, each in enumerate(value)]
            case "map":
                if not isinstance(value, dict):
                    raise _misfit(path, "a map")
                return {key: self.native(schema["values"], each, f"{path}.{key}") for key, each in value.items()}
            case "enum":
                if value not in schema["symbols"]:
                    raise _misfit(path, f"one of {', '.join(schema['symbols'])}")
                return value
            case "fixed":
                data = _tried(_bytes, value, path, "bytes in base64")
                if len(data) != schema["size"]:
                    raise _misfit(path, f"{schema['size']} bytes in base64")
                return data
        convert, what = _SCALARS[str(kind)]
        return _tried(convert, value, path, what)

    def _record(self, schema: Any, value: Any, path: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise _misfit(path, f"a record {schema['name']}")
        native: dict[str, Any] = {}
        for field in schema["fields"]:
            name = field["name"]
            if name in value:
                native[name] = self.native(field["type"], value[name], f"{path}.{name}")
            elif "default" not in field:
                raise _misfit(f"{path}.{name}", "there")
        unknown = value.keys() - {field["name"] for field in schema["fields"]}
        if unknown:
            raise DecodeError(f"{path} has a member {sorted(unknown)[0]} that the record {schema['name']} has not")
        return native

    def _union(self, branches: list[Any], value: Any, path: str) -> Any:
        reasons = []
        for branch in branches:
            try:
                native = self.native(branch, value, path)
            except DecodeError as error:
                reasons.append(error)
                continue
            named = self._named.get(branch, branch) if isinstance(branch, str) else branch
            if isinstance(named, dict) and named.get("type") in ("record", "error", "enum", "fixed"):
                return (named["name"], native)  # so that fastavro does not choose another one
            return native
        others = [reason for branch, reason in zip(branches, reasons, strict=True) if branch != "null"]
        raise others[0] if len(others) == 1 else _misfit(path, "of one of the union's types")


def _misfit(path: str, what: str) -> DecodeError:
    return DecodeError(f"the event's data does not fit its schema: {path} must be {what}")


def _tried(convert: Callable[[Any], Any], value: Any, path: str, what: str) -> Any:
    try:
        return convert(value)
    except (ValueError, TypeError, InvalidOperation, binascii.Error):
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


def _number(value: Any) -> float:
    if isinstance(value, str):
        return _FINITE[value] if value in _FINITE else _refuse()
    return float(value) if type(value) in (int, float) else _refuse()


def _refuse() -> Any:
    raise TypeError


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else base64.b64decode(value, validate=True)


def _instant(value: Any) -> datetime:
    found = datetime.fromisoformat(value)
    return found if found.tzinfo is not None else _refuse()


_SCALARS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "null": (_exactly(type(None)), "null"),
    "boolean": (_exactly(bool), "true or false"),
    "int": (_integer(32), "an integer of 32 bits"),
    "long": (_integer(64), "an integer of 64 bits"),
    "float": (_number, "a number"),
    "double": (_number, "a number"),
    "string": (_exactly(str), "a string"),
    "bytes": (_bytes, "bytes in base64"),
}


def _decimal(value: Any) -> Decimal:
    return Decimal(str(value)) if type(value) in (str, int, float) else _refuse()


_LOGICAL: dict[str, Callable[[Any], Any]] = {
    "bytes:decimal": _decimal,
    "fixed:decimal": _decimal,
    "string:uuid": lambda value: str(UUID(value)),
    "int:date": lambda value: date.fromisoformat(value),
    "int:time-millis": lambda value: time.fromisoformat(value),
    "long:time-micros": lambda value: time.fromisoformat(value),
    "long:timestamp-millis": _instant,
    "long:timestamp-micros": _instant,
    "long:timestamp-nanos": _instant,
    "long:local-timestamp-millis": lambda value: datetime.fromisoformat(value),
    "long:local-timestamp-micros": lambda value: datetime.fromisoformat(value),
}
"""What text becomes by primitive and logical type; logical types that are not here are written as their primitive."""
