"""Conversion of Avro's logical types between primitive values and JSON text. Pure.

As the specification requires, a logical type is ignored when it is unknown, stands on another primitive type than
specified, or has forbidden attributes. Its values are then those of the primitive type.
https://avro.apache.org/docs/1.12.0/specification/#logical-types
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

_DAY = 86_400
_DECIMALS = 4300
"""Most digits after the point that are read and written, the limit of Python's conversion: a schema may state any
number."""
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 -- local timestamps have no zone
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d{1,6})?", re.ASCII)
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_TIME = re.compile(r"(\d\d):(\d\d)(?::(\d\d)(?:[.,](\d+))?)?", re.ASCII)
_MOMENT = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d(?::\d\d)?)(?:(?<=:\d\d:\d\d)[.,](\d+))?(\S*)", re.ASCII)
_OFFSET = re.compile(r"[Zz]|[+-]\d\d:\d\d", re.ASCII)
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)
_DIGITS = {"millis": 3, "micros": 6, "nanos": 9}


@dataclass(frozen=True, slots=True)
class Logical:
    """One logical type with its attributes.

    read: from the primitive value to JSON.
    write: from JSON to the primitive value. Both raise ValueError, TypeError or OverflowError for values that do
    not fit.
    text: description of the JSON form.
    beyond: reason of a refusal to read.
    """

    name: str
    read: Callable[[Any], Any]
    write: Callable[[Any], Any]
    text: str
    beyond: str


def logical_type(kind: str, schema: Mapping[str, Any]) -> Logical | None:
    """Logical type of a schema whose primitive type is `kind`; None where it has none or an invalid one."""
    name = schema.get("logicalType")
    if not isinstance(name, str):
        return None
    if name == "decimal" and kind in ("bytes", "fixed"):
        return _decimal(schema.get("precision"), schema.get("scale", 0), schema["size"] if kind == "fixed" else None)
    return _LOGICAL.get((kind, name))


def _decimal(precision: Any, scale: Any, size: int | None) -> Logical | None:
    if type(precision) is not int or type(scale) is not int or not 0 <= scale <= precision or precision == 0:
        return None
    if size is not None and precision > math.floor(math.log10(2) * (8 * size - 1)):
        return None

    def read(value: bytes) -> str:
        if scale > _DECIMALS:
            raise ValueError
        number = int.from_bytes(value, signed=True)
        digits = str(abs(number)).rjust(scale + 1, "0")  # ValueError beyond the digits that Python converts
        whole = digits if scale == 0 else f"{digits[:-scale]}.{digits[-scale:]}"
        return f"-{whole}" if number < 0 else whole

    def write(value: Any) -> bytes:
        if type(value) not in (str, int, float) or not _NUMBER.fullmatch(str(value)):
            raise TypeError
        if scale > _DECIMALS:
            raise ValueError
        sign, all_digits, exponent = Decimal(str(value)).as_tuple()
        assert isinstance(exponent, int)
        digits = "".join(map(str, all_digits)).lstrip("0")
        if digits:
            shift = exponent + scale
            if len(digits) + shift > precision or (shift < 0 and digits[shift:].strip("0")):
                raise ValueError
            digits = digits[:shift] if shift < 0 else digits + "0" * shift
        number = int(digits or "0") * (-1 if sign else 1)
        least = (number if number >= 0 else ~number).bit_length() // 8 + 1
        return number.to_bytes(least if size is None else size, signed=True)

    return Logical(
        "decimal",
        read,
        write,
        f"decimal with at most {precision} digits, {scale} of them after the point",
        "has more digits than can be read",
    )


def _fraction(part: int, digits: int) -> str:
    """Text of a fraction of a second: no digits, six or nine."""
    nanos = part * 10 ** (9 - digits)
    if nanos == 0:
        return ""
    return f".{nanos // 1000:06}" if nanos % 1000 == 0 else f".{nanos:09}"


def _part(text: str | None, digits: int) -> int:
    """Fraction of a second, in units of `digits` digits. Raises: ValueError when the type cannot carry it."""
    text = (text or "").rstrip("0")
    if len(text) > digits:
        raise ValueError
    return int(text.ljust(digits, "0"))


def _timestamp(unit: str, local: bool) -> Logical:
    digits = _DIGITS[unit]
    name = f"local-timestamp-{unit}" if local else f"timestamp-{unit}"

    end = "" if local else "Z"

    def read(value: int) -> str:
        micros, nanos = divmod(value, 1000) if digits == 9 else (value * 10 ** (6 - digits), 0)
        moment = _EPOCH + timedelta(microseconds=micros)
        if not nanos:
            return moment.isoformat() + end
        return f"{moment.isoformat(timespec='microseconds')}{nanos:03}{end}"

    def write(value: Any) -> int:
        found = _MOMENT.fullmatch(value)
        if found is None or (found[4] != "" if local else not _OFFSET.fullmatch(found[4])):
            raise ValueError
        moment = datetime.fromisoformat(f"{found[1]}T{found[2]}{found[4].upper()}")
        since = moment - (_EPOCH if local else _EPOCH.replace(tzinfo=UTC))
        number: int = (since.days * _DAY + since.seconds) * 10**digits + _part(found[3], digits)
        if not -(2**63) <= number < 2**63:
            raise ValueError
        return number

    zone = "without an offset" if local else "with an offset"
    text = f"{name}, a date and time {zone} and at most {digits} digits of a second"
    return Logical(name, read, write, text, "lies outside the years 1 to 9999")


def _time_of_day(unit: str) -> Logical:
    digits = _DIGITS[unit]

    def read(value: int) -> str:
        seconds, part = divmod(value, 10**digits)
        # Some databases write the end of a day as 24:00
        if not 0 <= value <= _DAY * 10**digits:
            raise ValueError
        return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{_fraction(part, digits)}"

    def write(value: Any) -> int:
        found = _TIME.fullmatch(value)
        if found is None:
            raise ValueError
        hours, minutes, seconds = int(found[1]), int(found[2]), int(found[3] or 0)
        number: int = (hours * 3600 + minutes * 60 + seconds) * 10**digits + _part(found[4], digits)
        if minutes > 59 or seconds > 59 or number > _DAY * 10**digits:
            raise ValueError
        return number

    name = f"time-{unit}"
    text = f"{name}, a time of day without an offset and at most {digits} digits of a second"
    return Logical(name, read, write, text, "is no time of a day")


def _read_date(value: int) -> str:
    return (_EPOCH.date() + timedelta(days=value)).isoformat()


def _write_date(value: Any) -> int:
    if not _DATE.fullmatch(value):
        raise ValueError
    return (date.fromisoformat(value) - _EPOCH.date()).days


def _uuid(value: Any) -> str:
    if not isinstance(value, str) or not _UUID.fullmatch(value):
        raise ValueError
    return value


_LOGICAL: dict[tuple[str, str], Logical] = {
    ("int", "date"): Logical(
        "date", _read_date, _write_date, "date like 2026-01-31", "lies outside the years 1 to 9999"
    ),
    ("string", "uuid"): Logical("uuid", str, _uuid, "uuid, with its hyphens", ""),
    ("int", "time-millis"): _time_of_day("millis"),
    ("long", "time-micros"): _time_of_day("micros"),
    **{("long", each.name): each for each in (_timestamp(unit, local) for unit in _DIGITS for local in (False, True))},
}
