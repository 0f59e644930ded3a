"""Conversion of expression results to JSON values and text."""

from __future__ import annotations

from binascii import b2a_base64
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from bridge.core.errors import ExpressionError


def json_value(value: Any) -> Any:
    """Convert a result of CEL to a JSON value, with protobuf's JSON mapping.

    Timestamps become RFC 3339 strings in UTC, durations seconds with an `s` (`1.5s`), bytes base64, and keys of maps
    strings. Double and integer stay distinct. Lists and maps are changed in place.
    Raises: ExpressionError for values without a JSON form (a type).
    """
    if value.__class__ in PLAIN:
        return value
    box = [value]
    pending: list[Any] = [box]
    while pending:
        container = pending.pop()
        if container.__class__ is dict:
            if any(key.__class__ is not str for key in container):
                renamed = {_key(key): member for key, member in container.items()}
                container.clear()
                container.update(renamed)
            members: Any = container.items()
        else:
            members = enumerate(container)
        for place, member in members:
            kind = member.__class__
            if kind in PLAIN:
                continue
            if kind is dict or kind is list:
                pending.append(member)
            else:
                container[place] = _scalar(member)
    return box[0]


PLAIN = frozenset((str, int, float, bool, type(None)))


def _key(key: Any) -> str:
    if key is True or key is False:
        return "true" if key else "false"
    return str(key)


def _scalar(value: Any) -> str:
    if isinstance(value, bytes | bytearray):
        return b2a_base64(value, newline=False).decode()
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, timedelta):
        return duration_text(value)
    raise ExpressionError("the result has no JSON form")


def duration_text(value: timedelta) -> str:
    """Seconds with an `s`, as CEL and protobuf write durations: `90s`, `1.5s`, `-0.25s`."""
    micros = value // timedelta(microseconds=1)
    seconds = (Decimal(micros) / 1_000_000).normalize()
    return f"{seconds:f}s"


def text(value: Any) -> str:
    """Text of a result in a template.

    Strings are unchanged, integers decimal, and booleans `true` or `false`. Doubles have their shortest form, without
    a fraction if they have none (5.0 is `5`, as CEL's own `string()` writes it). Timestamps and durations are written
    as in JSON.
    Raises: ExpressionError for null, maps, lists, bytes, NaN and infinities, which names the kind and not the value.
    """
    kind = value.__class__
    if kind is str:
        return str(value)
    if kind is int:
        try:
            return str(value)
        except ValueError:  # more digits than Python converts
            raise ExpressionError("a template cannot hold an integer with so many digits") from None
    if kind is bool:
        return "true" if value else "false"
    if kind is float:
        if value != value or value in (float("inf"), float("-inf")):
            raise ExpressionError("a template cannot hold NaN or an infinite number")
        return str(int(value)) if value.is_integer() and abs(value) < 1e16 else repr(value)
    if isinstance(value, datetime | timedelta):
        return _scalar(value)
    raise ExpressionError(f"a template cannot hold {kind_name(value)}")


def kind_name(value: Any) -> str:
    """Name of a value's kind, for people."""
    for kinds, name in _KINDS:
        if isinstance(value, kinds):
            return name
    return f"a {value.__class__.__name__}"


_KINDS: tuple[tuple[Any, str], ...] = (
    (bool, "true or false"),
    (int, "an integer"),
    (float, "a decimal number"),
    (str, "text"),
    (dict, "a map"),
    (list, "a list"),
    (bytes | bytearray, "bytes"),
    (type(None), "null"),
)
