"""Scalar types of the configuration: durations, sizes, names, expressions, templates."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema

_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE_UNITS = {
    "": 1, "B": 1, "kB": 1000, "KB": 1000, "MB": 1000**2, "GB": 1000**3,
    "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3,
}  # fmt: skip
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")


def parse_duration(value: Any) -> float:
    """Seconds of `250ms`, `30s`, `1h30m`, `7d`. Raises ValueError with the remedy."""
    if isinstance(value, str) and _DURATION.fullmatch(value.strip()):
        return sum(float(number) * _DURATION_UNITS[unit] for number, unit in _DURATION_PART.findall(value))
    raise ValueError(f"{value!r} is not a duration; write a number with a unit, like 250ms, 30s, 5m, 1h30m or 7d")


def parse_size(value: Any) -> int:
    """Bytes of `4096`, `64KiB`, `1MiB`. Raises ValueError with the remedy."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    found = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if found and found[2] in _SIZE_UNITS:
        return int(float(found[1]) * _SIZE_UNITS[found[2]])
    raise ValueError(f"{value!r} is not a size; write bytes, or a number with a unit, like 64KiB or 1MiB")


class Model(BaseModel):
    """Base of every configuration model: unknown keys are errors, values are frozen, no silent conversions."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, populate_by_name=True)


Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    WithJsonSchema(
        {"type": "string", "pattern": r"^(\d+(\.\d+)?(ms|s|m|h|d))+$", "examples": ["250ms", "30s", "1h30m"]}
    ),
]
"""Seconds, written with a unit."""

Size = Annotated[
    int,
    BeforeValidator(parse_size),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "examples": ["64KiB", "1MiB"]}]}),
]
"""Bytes, written plain or with a unit."""

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
"""Name of a broker, target, source, route or engine."""

Expression = Annotated[str, StringConstraints(min_length=1), Field(json_schema_extra={"x-language": "cel"})]
"""A CEL expression, all of it."""

Template = Annotated[str, Field(json_schema_extra={"x-language": "cel-template"})]
"""Literal text with CEL expressions in `{{ }}`."""
