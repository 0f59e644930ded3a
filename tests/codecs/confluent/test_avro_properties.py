"""Avro with random schemas and values: a value is read back unchanged, or refused; never changed silently."""

from __future__ import annotations

import json
import math
import struct
from contextlib import suppress
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bridge.codecs.confluent.avro import AvroSchema
from bridge.codecs.confluent.registry import RegisteredSchema
from bridge.config.model.sources import LimitsConfig
from bridge.core.errors import DecodeError
from tests.codecs.confluent.avro_cases import Case, cases, scalars, utc

LIMITS = LimitsConfig()
SLOW = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
JSON_SCALARS: st.SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.integers(-3, 3)
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(
        ["2026-01-31", "2026-01-31T09:30:00Z", "2026-01-31T09:30:00.123456789+02:00", "2026-01-31T09:30:00.5", "09:30",
         "10:00:00+02:00", "24:00:00", "1.50", "-0.001", "1e3", "1_0", "NaN", "YWJj", "YWI=", "YWJ=", 1e300, 10**400,
         "12345678-1234-5678-1234-567812345678", "12345678123456781234567812345678", "\ud800"]
    )
)  # fmt: skip


def compiled(schema: Any) -> AvroSchema:
    return AvroSchema(RegisteredSchema(json.dumps(schema), "AVRO"))


@SLOW
@given(st.data(), cases())
def test_what_is_written_is_read(data: st.DataObject, case: Case) -> None:
    schema = compiled(case.schema)
    given_, expected = data.draw(case.values)
    body = schema.encode(given_)
    read = schema.decode(body, (), LIMITS)
    assert json.dumps(read, sort_keys=True) == json.dumps(expected, sort_keys=True)
    branches = case.schema if isinstance(case.schema, list) else [case.schema]
    names = [each.get("name", "") if isinstance(each, dict) else "" for each in branches]
    assert schema.record_of(body, ()) in names


@SLOW
@given(st.data(), st.lists(scalars(), min_size=1, max_size=4))
def test_a_scalar_in_a_union_stays_what_it_is(data: st.DataObject, found: list[Case]) -> None:
    """Without the name of its branch a scalar may go to another branch, but its JSON stays the same."""
    branches = list({case.kind: case for case in found}.values())
    value = data.draw(data.draw(st.sampled_from(branches)).values)[0]
    schema = compiled([case.schema for case in branches])
    read = schema.decode(schema.encode(value), (), LIMITS)
    if "decimal" in str(branches) and value != read and isinstance(value, str):
        assert Decimal(read) == Decimal(value)
    else:
        assert json.dumps(read) == json.dumps(value)


@SLOW
@given(JSON_SCALARS, scalars())
def test_anything_is_kept_or_refused(value: Any, case: Case) -> None:
    schema = compiled(case.schema)
    try:
        body = schema.encode(value)
    except DecodeError:
        return
    read = schema.decode(body, (), LIMITS)
    if isinstance(value, float) and not math.isfinite(value):
        assert read == {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN")
    elif case.kind == "float" and isinstance(value, float):
        assert struct.pack("<f", read) == struct.pack("<f", value)
    elif isinstance(value, bool) or value is None or isinstance(read, bool):
        assert read is value
    elif isinstance(value, int | float) and not isinstance(read, str):
        assert read == value
    elif read != value:
        assert _value_of(str(read), case.schema) == _value_of(str(value), case.schema)


def _value_of(text: str, schema: dict[str, Any]) -> Any:
    """Return the value of a text by its logical type; the form may change while the value does not."""
    match str(schema["logicalType"]).partition("-")[0]:
        case "decimal":
            return Decimal(text)
        case "timestamp":
            # Finer than microseconds as text, since Python has no nanoseconds
            return utc(text[:26] + text[29:] if "." in text and len(text) > 30 else text), text.partition(".")[2][6:9]
        case "local":
            return datetime.fromisoformat(text.replace("t", "T"))
        case "time":
            return time.fromisoformat(text.replace("24:", "23:"))
        case "date":
            return date.fromisoformat(text)
    return UUID(text)


@SLOW
@given(st.binary(max_size=60), cases())
def test_noise_is_data_or_a_decode_error(noise: bytes, case: Case) -> None:
    schema = compiled(case.schema)
    with suppress(DecodeError):
        json.dumps(schema.decode(noise, (), LIMITS), allow_nan=False)
        schema.record_of(noise, ())
