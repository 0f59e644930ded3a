"""Protobuf with random messages and values: results equal those of protobuf's own library."""

from __future__ import annotations

import base64
import json
import math
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from google.protobuf import descriptor_pb2, json_format, message_factory
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bridge.codecs.confluent.protobuf import ProtobufSchema
from bridge.codecs.confluent.registry import RegisteredSchema
from bridge.codecs.numbers import single_to_json
from bridge.config.model.sources import LimitsConfig
from bridge.core.errors import DecodeError
from tests.codecs.confluent.samples import F, proto_text

LIMITS = LimitsConfig()
SLOW = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
WELL_KNOWN = "google.protobuf."
IMPORTS = [f"google/protobuf/{name}.proto" for name in (
    "any", "duration", "empty", "field_mask", "struct", "timestamp", "wrappers"
)]  # fmt: skip
TEXT = st.text(max_size=6)
FRACTIONS = st.sampled_from(["", ".500", ".123456", ".000000001"])


def _integers(bits: int, signed: bool = True) -> st.SearchStrategy[int]:
    return st.integers(-(1 << bits - 1), (1 << bits - 1) - 1) if signed else st.integers(0, (1 << bits) - 1)


def _seconds(first: int, last: int) -> st.SearchStrategy[tuple[int, str]]:
    return st.tuples(st.integers(first, last), FRACTIONS)


NOT_FINITE = st.sampled_from(["NaN", "Infinity", "-Infinity"])
DOUBLES = st.floats(allow_nan=False, allow_infinity=False)
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False).map(single_to_json)
BYTES = st.binary(max_size=6).map(lambda data: base64.b64encode(data).decode())
DAYS = st.dates().map(lambda day: f"{day.isoformat()}T10:20:30")
STRUCTS: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.sampled_from([0.5, -2.25]) | TEXT,
    lambda below: st.lists(below, max_size=2) | st.dictionaries(TEXT, below, max_size=2),
    max_leaves=5,
)
SCALARS: dict[int, st.SearchStrategy[Any]] = {
    F.TYPE_INT32: _integers(32), F.TYPE_SINT32: _integers(32), F.TYPE_SFIXED32: _integers(32),
    F.TYPE_INT64: _integers(64), F.TYPE_SINT64: _integers(64), F.TYPE_SFIXED64: _integers(64),
    F.TYPE_UINT32: _integers(32, False), F.TYPE_FIXED32: _integers(32, False),
    F.TYPE_UINT64: _integers(64, False), F.TYPE_FIXED64: _integers(64, False),
    F.TYPE_BOOL: st.booleans(), F.TYPE_STRING: TEXT, F.TYPE_BYTES: BYTES,
    F.TYPE_DOUBLE: DOUBLES | NOT_FINITE, F.TYPE_FLOAT: FLOATS | NOT_FINITE,
    F.TYPE_ENUM: st.sampled_from(["ZERO", "ONE", 7]),
}  # fmt: skip
MESSAGES: dict[str, st.SearchStrategy[Any]] = {
    "Timestamp": st.builds(lambda day, part: f"{day}{part}Z", DAYS, FRACTIONS),
    "Duration": _seconds(0, 315_576_000_000 - 1).map(lambda t: f"{t[0]}{t[1]}s")
    | _seconds(1, 315_576_000_000 - 1).map(lambda t: f"-{t[0]}{t[1]}s"),
    "FieldMask": st.lists(st.sampled_from(["a", "fooBar", "a.bC"]), max_size=3).map(",".join),
    "Struct": st.dictionaries(TEXT, STRUCTS, max_size=3),
    "ListValue": st.lists(STRUCTS, max_size=3),
    "Value": STRUCTS,
    "Empty": st.just({}),
    "StringValue": TEXT, "BytesValue": BYTES, "BoolValue": st.booleans(), "Int32Value": _integers(32),
    "Int64Value": _integers(64).map(str), "DoubleValue": DOUBLES | NOT_FINITE,
    "Any": st.one_of(
        st.just({}),
        st.builds(lambda id_: {"@type": "type.googleapis.com/shop.Item", "id": id_}, TEXT),
        st.builds(lambda text: {"@type": "type.googleapis.com/google.protobuf.StringValue", "value": text}, TEXT),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """Random schema. file: with the messages `Root` and `Item`. values: of a `Root`, with every field set."""

    file: descriptor_pb2.FileDescriptorProto
    values: st.SearchStrategy[dict[str, Any]]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    file = descriptor_pb2.FileDescriptorProto(name="r.proto", package="shop", syntax="proto3", dependency=IMPORTS)
    root = file.message_type.add(name="Root")
    item = file.message_type.add(name="Item")
    item.field.add(name="id", number=1, type=F.TYPE_STRING, label=F.LABEL_OPTIONAL)
    kind = file.enum_type.add(name="Kind")
    for name, number in (("ZERO", 0), ("ONE", 1)):
        kind.value.add(name=name, number=number)
    fields: dict[str, st.SearchStrategy[Any]] = {}
    for number in range(1, draw(st.integers(1, 6)) + 1):
        name = f"field_{number}"
        of, values = draw(_types())
        field = root.field.add(name=name, number=number, label=F.LABEL_OPTIONAL, **of)
        match draw(st.sampled_from(["one", "many", "map"])):
            case "many":
                field.label = F.LABEL_REPEATED
                fields[name] = st.lists(values, max_size=3)
            case "map":
                entry = root.nested_type.add(name=f"Field{number}Entry")
                entry.options.map_entry = True
                key = draw(st.sampled_from([F.TYPE_STRING, F.TYPE_INT64, F.TYPE_BOOL]))
                entry.field.add(name="key", number=1, type=key, label=F.LABEL_OPTIONAL)
                entry.field.add(name="value", number=2, label=F.LABEL_OPTIONAL, **of)
                field.type, field.label = F.TYPE_MESSAGE, F.LABEL_REPEATED
                field.type_name = f".shop.Root.Field{number}Entry"
                keys = SCALARS[key].map(lambda each: json.dumps(each) if isinstance(each, bool | int) else each)
                fields[name] = st.dictionaries(keys, values, max_size=3)
            case _:
                fields[name] = values
    return Case(file, st.fixed_dictionaries(fields))


@st.composite
def _types(draw: st.DrawFn) -> tuple[dict[str, Any], st.SearchStrategy[Any]]:
    if draw(st.booleans()):
        number = draw(st.sampled_from(sorted(SCALARS)))
        return {"type": number} | ({"type_name": ".shop.Kind"} if number == F.TYPE_ENUM else {}), SCALARS[number]
    if draw(st.integers(0, 4)) == 0:
        return {"type": F.TYPE_MESSAGE, "type_name": ".shop.Item"}, st.builds(lambda text: {"id": text}, TEXT)
    name = draw(st.sampled_from(sorted(MESSAGES)))
    return {"type": F.TYPE_MESSAGE, "type_name": f".{WELL_KNOWN}{name}"}, MESSAGES[name]


def compiled(file: descriptor_pb2.FileDescriptorProto) -> ProtobufSchema:
    return ProtobufSchema(RegisteredSchema(proto_text(file), "PROTOBUF"), "shop.Root")


@SLOW
@given(st.data(), cases())
def test_what_is_written_is_read(data: st.DataObject, case: Case) -> None:
    schema, value = compiled(case.file), data.draw(case.values)
    read = schema.decode(schema.encode(value), (0,), LIMITS)
    assert json.dumps(read, sort_keys=True) == json.dumps(value, sort_keys=True)
    assert schema.record_of(b"", (0,)) == "shop.Root"


@SLOW
@given(st.data(), cases())
def test_it_is_what_the_library_writes_and_reads(data: st.DataObject, case: Case) -> None:
    schema, value = compiled(case.file), data.draw(case.values)
    pool = schema._values._pool
    message = message_factory.GetMessageClass(pool.FindMessageTypeByName("shop.Root"))()
    json_format.ParseDict(value, message, descriptor_pool=pool)
    ours = type(message).FromString(schema.encode(value))
    # NaN is not equal to itself, and the entries of a map have no order
    assert ours.SerializeToString(deterministic=True) == message.SerializeToString(deterministic=True)
    theirs = json_format.MessageToDict(
        ours, preserving_proto_field_name=True, descriptor_pool=pool, always_print_fields_with_no_presence=True
    )
    read = schema.decode(message.SerializeToString(), (0,), LIMITS)
    _compare(read, theirs)


def _compare(ours: Any, theirs: Any) -> None:
    """Compare, except for 64-bit integers, which the library writes as text, and large whole floats, which it
    shortens."""
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for name in ours:
            _compare(ours[name], theirs[name])
    elif isinstance(ours, list):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            _compare(one, other)
    elif isinstance(ours, int) and isinstance(theirs, str):
        assert str(ours) == theirs
    elif isinstance(ours, float) and ours != theirs:
        assert ours.is_integer()
        assert math.isclose(ours, theirs, rel_tol=1e-6)
    else:
        assert ours == theirs


@SLOW
@given(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), TEXT, st.just([]),
        st.sampled_from(["1.0", "1e3", "1_0", " 1", "0x1", "9007199254740993.0", "YWI", "YW_-", "YWI==", "ONE",
                         "1e400", "1", "2026-01-31T09:30:00+02:00", "2026-01-31T09:30:00.0000000001Z", "1.5e3s",
                         "\ud800", 10**400]),
    ),
    _types(),
)  # fmt: skip
def test_anything_is_kept_or_refused(value: Any, kind: tuple[dict[str, Any], Any]) -> None:
    file = descriptor_pb2.FileDescriptorProto(name="r.proto", package="shop", syntax="proto3", dependency=IMPORTS)
    root = file.message_type.add(name="Root")
    root.field.add(name="f", number=1, label=F.LABEL_OPTIONAL, oneof_index=0, proto3_optional=True, **kind[0])
    root.oneof_decl.add(name="_f")
    file.message_type.add(name="Item").field.add(name="id", number=1, type=F.TYPE_STRING, label=F.LABEL_OPTIONAL)
    kinds = file.enum_type.add(name="Kind")
    kinds.value.add(name="ZERO", number=0)
    kinds.value.add(name="ONE", number=1)
    schema = compiled(file)
    try:
        body = schema.encode({"f": value})
    except DecodeError:
        return
    read = schema.decode(body, (0,), LIMITS)
    if value is None:
        assert read == {} or (kind[0].get("type_name", "").endswith(".Value") and read == {"f": None})
        return
    kept = read["f"]
    if isinstance(value, float) and not math.isfinite(value):
        assert kept == {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        fraction = isinstance(value, float) and kind[0]["type"] == F.TYPE_FLOAT
        number = float(kept) if isinstance(kept, str) and isinstance(value, float) else int(kept) \
            if isinstance(kept, str) else kept  # fmt: skip
        assert (math.isclose(number, value, rel_tol=1e-6) if fraction else number == value) or kept == "ONE"
    elif isinstance(value, str) and kept != value:
        assert _same_text(kept, value)
    else:
        assert kept == value


def _same_text(kept: Any, given_: str) -> bool:
    """Compare texts; the JSON mapping allows several forms of a number, of bytes and of a timestamp."""
    if isinstance(kept, str) and kept == given_.replace("-", "+").replace("_", "/").rstrip("=") + "=" * kept.count("="):
        return True
    if (kept, given_) == ("2026-01-31T07:30:00Z", "2026-01-31T09:30:00+02:00"):
        return True
    number = Decimal(given_)
    return number == Decimal(kept) if isinstance(kept, str | int) else math.isclose(number, kept, rel_tol=1e-6)


@SLOW
@given(st.binary(max_size=60), cases())
def test_noise_is_data_or_a_decode_error(noise: bytes, case: Case) -> None:
    with suppress(DecodeError):
        json.dumps(compiled(case.file).decode(noise, (0,), LIMITS), allow_nan=False)
