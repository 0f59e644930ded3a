"""Random Avro schemas, and values in their written and read forms."""

from __future__ import annotations

import base64
import string
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

from bridge.codecs.numbers import single_to_json

Pair = tuple[Any, Any]
"""Data for the writer, and data from the reader."""


@dataclass(frozen=True)
class Case:
    """Schema with a strategy for its values. schema: JSON form. kind: name of the type in a union. values: pairs."""

    schema: Any
    kind: str
    values: st.SearchStrategy[Pair]


def same(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Pair]:
    return values.map(lambda value: (value, value))


def base64_of(values: st.SearchStrategy[bytes]) -> st.SearchStrategy[Pair]:
    return same(values.map(lambda value: base64.b64encode(value).decode()))


def integers(bits: int) -> st.SearchStrategy[int]:
    return st.integers(-(1 << bits - 1), (1 << bits - 1) - 1)


def moments(digits: int, zone: str) -> st.SearchStrategy[str]:
    """Generate timestamps with at most `digits` digits of a second; nanosecond timestamps range from 1678 to 2262."""
    first, last = (date(1678, 1, 1), date(2262, 1, 1)) if digits == 9 else (date.min, date.max)

    def text(day: date, seconds: int, part: int) -> str:
        nanos = part * 10 ** (9 - digits)
        fraction = "" if nanos == 0 else f".{nanos // 1000:06}" if nanos % 1000 == 0 else f".{nanos:09}"
        return f"{day.isoformat()}T{str(timedelta(seconds=seconds)).zfill(8)}{fraction}{zone}"

    return st.builds(text, st.dates(first, last), st.integers(0, 86_399), st.integers(0, 10**digits - 1))


def times(digits: int) -> st.SearchStrategy[str]:
    return moments(digits, "").map(lambda text: text[11:]) | st.just("24:00:00")


def decimals(precision: int, scale: int) -> st.SearchStrategy[str]:
    limit = 10**precision - 1
    return st.integers(-limit, limit).map(lambda number: format(Decimal(f"{number}e-{scale}"), "f"))


def plain(kind: str) -> st.SearchStrategy[Pair]:
    not_finite = st.sampled_from(["NaN", "Infinity", "-Infinity"])
    match kind:
        case "null":
            return same(st.none())
        case "boolean":
            return same(st.booleans())
        case "int" | "long":
            return same(integers(32 if kind == "int" else 64))
        case "float":
            finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
            return same(finite.map(single_to_json) | not_finite)
        case "double":
            return same(st.floats(allow_nan=False, allow_infinity=False) | not_finite)
        case "bytes":
            return base64_of(st.binary(max_size=8))
    return same(st.text(max_size=8))


PRIMITIVES = ("null", "boolean", "int", "long", "float", "double", "bytes", "string")
LOGICAL: dict[tuple[str, str], st.SearchStrategy[str]] = {
    ("int", "date"): st.dates().map(lambda day: day.isoformat()),
    ("int", "time-millis"): times(3),
    ("long", "time-micros"): times(6),
    ("long", "timestamp-millis"): moments(3, "Z"),
    ("long", "timestamp-micros"): moments(6, "Z"),
    ("long", "timestamp-nanos"): moments(9, "Z"),
    ("long", "local-timestamp-millis"): moments(3, ""),
    ("long", "local-timestamp-micros"): moments(6, ""),
    ("long", "local-timestamp-nanos"): moments(9, ""),
    ("string", "uuid"): st.uuids().map(str),
}


@st.composite
def scalars(draw: st.DrawFn) -> Case:
    """Generate a primitive type, with a logical type or with one that readers must ignore."""
    kind = draw(st.sampled_from(PRIMITIVES))
    choice = draw(st.integers(0, 3))
    if choice == 1 and kind == "bytes":
        precision = draw(st.integers(1, 60))
        scale = draw(st.integers(0, precision))
        schema = {"type": kind, "logicalType": "decimal", "precision": precision, "scale": scale}
        return Case(schema, kind, same(decimals(precision, scale)))
    if choice == 1:
        found = [key for key in LOGICAL if key[0] == kind]
        if found:
            key = draw(st.sampled_from(found))
            return Case({"type": kind, "logicalType": key[1]}, kind, same(LOGICAL[key]))
    if choice == 2:
        invalid = draw(st.sampled_from([
            {"logicalType": "decimal"}, {"logicalType": "decimal", "precision": 2, "scale": 4},
            {"logicalType": "decimal", "precision": "x"}, {"logicalType": "made-up"}, {"logicalType": 7},
            {"logicalType": "uuid" if kind != "string" else "date"}, {"avro.java.string": "String"},
        ]))  # fmt: skip
        return Case({"type": kind, **invalid}, kind, plain(kind))  # type: ignore[dict-item]  # wider than its annotation, on purpose
    return Case(kind, kind, plain(kind))


@st.composite
def cases(draw: st.DrawFn, depth: int = 3, names: list[int] | None = None, nested: bool = False) -> Case:
    """Generate any schema. names: counts the named types, since each name may be defined once."""
    names = names if names is not None else [0]

    def name() -> str:
        names[0] += 1
        return f"{draw(st.sampled_from(['shop.', 'a.b.']))}T{names[0]}"

    what = draw(st.integers(0, 8 if depth else 2))
    match what:
        case 0 | 1:
            return draw(scalars())
        case 2 if draw(st.booleans()):
            own, size = name(), draw(st.integers(1, 6))
            if draw(st.booleans()):
                return Case(
                    {"type": "fixed", "name": own, "size": size},
                    own,
                    base64_of(st.binary(min_size=size, max_size=size)),
                )
            precision = max(1, size * 2 - 1)
            decimal = {"logicalType": "decimal", "precision": precision, "scale": 1}
            schema = {"type": "fixed", "name": own, "size": size, **decimal}
            return Case(schema, own, same(decimals(precision, 1)))
        case 2:
            own, symbols = name(), draw(st.lists(st.sampled_from("ABCDE"), min_size=1, unique=True))
            return Case({"type": "enum", "name": own, "symbols": symbols}, own, same(st.sampled_from(symbols)))
        case 3:
            items = draw(
                cases(depth - 1, names, nested=True).filter(lambda case: case.schema != "null" and case.kind != "null")
            )
            return Case({"type": "array", "items": items.schema}, "array", _lists(items.values))
        case 4:
            values = draw(cases(depth - 1, names, nested=True))
            return Case({"type": "map", "values": values.schema}, "map", _maps(values.values))
        case 5 | 6:
            return draw(records(depth, names, name()))
        case _:
            return draw(unions(depth, names, nested))


def _lists(values: st.SearchStrategy[Pair]) -> st.SearchStrategy[Pair]:
    return st.lists(values, max_size=3).map(lambda pairs: ([each[0] for each in pairs], [each[1] for each in pairs]))


def _maps(values: st.SearchStrategy[Pair]) -> st.SearchStrategy[Pair]:
    found = st.dictionaries(st.text(max_size=4) | st.just("@type"), values, max_size=3)
    return found.map(lambda pairs: tuple({key: pair[at] for key, pair in pairs.items()} for at in (0, 1)))  # type: ignore[arg-type,return-value]  # two of them


@st.composite
def records(draw: st.DrawFn, depth: int, names: list[int], own: str) -> Case:
    """Generate a record with at least one field that takes bytes; arrays of empty records are refused."""
    members = draw(st.lists(st.sampled_from(string.ascii_lowercase), min_size=1, max_size=3, unique=True))
    fields = {member: draw(cases(depth - 1, names, nested=True)) for member in members}
    fields["last"] = Case("boolean", "boolean", plain("boolean"))
    schema = {
        "type": "record", "name": own,
        "fields": [{"name": member, "type": case.schema} for member, case in fields.items()],
    }  # fmt: skip
    values = st.fixed_dictionaries({member: case.values for member, case in fields.items()})
    return Case(
        schema, own, values.map(lambda found: tuple({key: pair[at] for key, pair in found.items()} for at in (0, 1)))  # type: ignore[arg-type,return-value]  # two of them
    )  # fmt: skip


@st.composite
def unions(draw: st.DrawFn, depth: int, names: list[int], nested: bool) -> Case:
    """Generate a union.

    Every written value names its branch; the reader names it for records in a nested union with several records.
    """
    branches: list[Case] = []
    for _ in range(draw(st.integers(1, 4))):
        case = draw(cases(depth - 1, names, nested=True))
        if not isinstance(case.schema, list) and case.kind not in [each.kind for each in branches]:
            branches.append(case)
    if not branches:
        branches = [Case("null", "null", plain("null"))]
    several = sum(isinstance(each.schema, dict) and each.schema["type"] == "record" for each in branches) > 1

    def tagged(case: Case) -> st.SearchStrategy[Pair]:
        is_record = isinstance(case.schema, dict) and case.schema["type"] == "record"
        full = case.kind

        def pair(found: Pair) -> Pair:
            written, read = found
            if is_record:
                return {"@type": full, **written}, {"@type": full, **read} if several and nested else read
            if case.kind == "map" and "@type" in read:
                read = {"@type": "map", "value": read}
            return {"@type": full, "value": written}, read

        return case.values.map(pair)

    return Case([case.schema for case in branches], "union", st.one_of([tagged(case) for case in branches]))


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
