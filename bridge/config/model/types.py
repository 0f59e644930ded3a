"""Scalar types of the configuration: durations, sizes, names, topics, expressions, templates."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PlainSerializer,
    StringConstraints,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import InitErrorDetails

_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE_UNITS = {
    "": 1, "B": 1, "kB": 1000, "KB": 1000, "MB": 1000**2, "GB": 1000**3,
    "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3,
}  # fmt: skip
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+", re.ASCII)
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", re.ASCII)
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", re.ASCII)
_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*/\s*(s|m|h|d)", re.ASCII)
_SHARE = re.compile(r"(\d+(?:\.\d+)?)\s*%", re.ASCII)
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
_ENTITY = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,258}[A-Za-z0-9._-])?")
_SUBSCRIPTION = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,49})?")
_ADDRESS = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):\d{1,5}", re.ASCII)
_LONGEST = 36_500 * 86_400.0


def parse_duration(value: Any) -> float:
    """Parse a duration such as `250ms`, `30s`, `1h30m` or `7d` into seconds. Raises: ValueError with the remedy."""
    if isinstance(value, str) and _DURATION.fullmatch(value.strip()):
        seconds = sum(float(number) * _DURATION_UNITS[unit] for number, unit in _DURATION_PART.findall(value))
        if seconds > _LONGEST:
            raise ValueError("a duration must not exceed 36500d")
        return seconds
    what = "the duration is missing" if value is None else f"{value!r} is not a duration"
    raise ValueError(f"{what}; write a number with a unit, like 250ms, 30s, 5m, 1h30m or 7d")


def parse_size(value: Any) -> int:
    """Parse a size such as `4096`, `64KiB` or `1MiB` into bytes. Raises: ValueError with the remedy."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    found = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if found and found[2] in _SIZE_UNITS and len(value) < 32:
        return int(Decimal(found[1]) * _SIZE_UNITS[found[2]])
    raise ValueError(f"{value!r} is not a size; write bytes, or a number with a unit, like 64KiB or 1MiB")


def parse_share(value: Any) -> float:
    """Parse a share such as `5%` or 0.05. Raises: ValueError with the remedy."""
    if isinstance(value, str) and (found := _SHARE.fullmatch(value.strip())) and len(value) < 32:
        share = float(found[1]) / 100
    else:
        share = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else -1.0
    if not 0 <= share <= 1:
        raise ValueError(f"{value!r} is not a share; write a percentage from 0% to 100%, like 5%")
    return share


def format_share(share: float) -> str:
    """Share as text, such as `5%`."""
    return f"{share * 100:g}%"


def parse_rate(value: Any) -> float:
    """Parse a rate such as `50/s`, `3000/m` or `10/h` into times a second. Raises: ValueError with the remedy."""
    found = _RATE.fullmatch(value.strip()) if isinstance(value, str) and len(value) < 32 else None
    if found and 0 < float(found[1]) <= 1_000_000:
        return float(found[1]) / _DURATION_UNITS[found[2]]
    raise ValueError(f"{value!r} is not a rate; write a number above 0 and a unit of time, like 50/s, 3000/m or 10/h")


def format_rate(per_second: float) -> str:
    """Rate as text, such as `50/s` or `10/h`. Uses the smallest unit that gives a whole number, else times a second."""
    for unit in ("s", "m", "h", "d"):
        text = f"{per_second * _DURATION_UNITS[unit]:.0f}/{unit}"
        if not text.startswith("0") and parse_rate(text) == per_second:
            return text
    return f"{Decimal(repr(per_second)):f}/s"


def format_duration(seconds: float) -> str:
    """Duration as text, such as `90s`, `250ms` or `7d`.

    Uses the largest unit that needs no fraction, else seconds. `parse_duration` returns the same number for the text.
    """
    if seconds == 0:
        return "0s"
    for unit in ("d", "h", "m", "s", "ms"):
        text = f"{seconds / _DURATION_UNITS[unit]:.0f}{unit}"
        if parse_duration(text) == seconds:
            return text
    return f"{Decimal(repr(seconds)):f}s"


def format_size(size: int) -> str | int:
    """Size as text, such as `4MiB` or `64KiB`; plain bytes if no unit fits."""
    for unit in ("GiB", "MiB", "KiB"):
        if size and size % _SIZE_UNITS[unit] == 0:
            return f"{size // _SIZE_UNITS[unit]}{unit}"
    return size


def check_topic(value: str) -> str:
    """Check the name of a topic or consumer group and return it. Raises: ValueError for an invalid name."""
    if _TOPIC.fullmatch(value) is None or value in (".", ".."):
        raise ValueError("the name of a topic or group has 1 to 249 of the characters A-Z a-z 0-9 . _ -")
    return value


def check_entity(value: str) -> str:
    """Check the name of a Service Bus queue or topic and return it. Raises: ValueError for an invalid name."""
    if _ENTITY.fullmatch(value) is None or "//" in value:
        raise ValueError(
            "the name of a queue or topic has 1 to 260 of the characters A-Z a-z 0-9 . _ - and / in between"
        )
    return value


def check_subscription(value: str) -> str:
    """Check the name of a Service Bus subscription and return it. Raises: ValueError for an invalid name."""
    if _SUBSCRIPTION.fullmatch(value) is None:
        raise ValueError("the name of a subscription has 1 to 50 of the characters A-Z a-z 0-9 . _ -")
    return value


def check_address(value: str) -> str:
    """Check a `host:port` address and return it. Raises: ValueError for an invalid address."""
    if _ADDRESS.fullmatch(value) is None or int(value.rpartition(":")[2]) > 65535:
        raise ValueError("an address has the form HOST:PORT, like 127.0.0.1:8080 or [::1]:8080")
    return value


class Model(BaseModel):
    """Base of the configuration models. Unknown keys are errors, values are frozen, booleans are not numbers."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        # Text is converted to a number where one is required, because `${PORT}` is always text
        strict=False,
        populate_by_name=True,
        # Each command reads a configuration. The models are built once, as parts of the one that is read
        defer_build=True,
        hide_input_in_errors=True,
    )


def rule_of_keys(wrong: Callable[[Mapping[str, Any]], str | None]) -> Any:
    """Validator of the keys of a model. Its problem is reported together with those of the values.

    wrong: error text for the values by key, as written; None if the keys fit together.
    """

    def check(cls: type[Model], given: Any, validate: ModelWrapValidatorHandler[Model]) -> Model:
        what = wrong(given) if isinstance(given, dict) else None
        if what is None:
            return validate(given)
        found = [InitErrorDetails(type="value_error", input=None, ctx={"error": ValueError(what)})]
        try:
            validate(given)
        except ValidationError as error:
            found += [
                InitErrorDetails(type=each["type"], loc=each["loc"], input=None, ctx=each.get("ctx", {}))
                for each in error.errors(include_url=False, include_input=False)
            ]
        raise ValidationError.from_exception_data(cls.__name__, found, hide_input=True)

    return model_validator(mode="wrap")(check)


def _refuse_boolean(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("expected a number, found a boolean")
    return value


Integer = Annotated[int, BeforeValidator(_refuse_boolean)]
Number = Annotated[float, BeforeValidator(_refuse_boolean)]

Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str, when_used="json"),
    WithJsonSchema(
        {"type": "string", "pattern": r"^(\d+(\.\d+)?(ms|s|m|h|d))+$", "examples": ["250ms", "30s", "1h30m"]}
    ),
]
"""Seconds, written with a unit."""

Share = Annotated[
    float,
    BeforeValidator(parse_share),
    PlainSerializer(format_share, return_type=str, when_used="json"),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "minimum": 0, "maximum": 1},
                {"type": "string", "pattern": r"^\d+(\.\d+)?\s*%$", "examples": ["5%", "100%"]},
            ]
        }
    ),
]
"""Number from 0 to 1, also written as a percentage."""

Size = Annotated[
    int,
    BeforeValidator(parse_size),
    PlainSerializer(format_size, return_type=str | int, when_used="json"),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 0},
                {"type": "string", "pattern": r"^\d+(\.\d+)?\s*(B|kB|KB|MB|GB|KiB|MiB|GiB)?$", "examples": ["64KiB"]},
            ]
        }
    ),
]
"""Bytes, written plain or with a unit."""

Rate = Annotated[
    float,
    BeforeValidator(parse_rate),
    PlainSerializer(format_rate, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "pattern": r"^\d+(\.\d+)?\s*/\s*[smhd]$", "examples": ["50/s", "3000/m"]}),
]
"""Times a second, written with a unit of time."""

Address = Annotated[str, AfterValidator(check_address)]
"""Address to listen on, `host:port`."""

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
"""Name of a broker, target, source, route or engine."""

Topic = Annotated[
    str,
    AfterValidator(check_topic),
    WithJsonSchema({"type": "string", "pattern": r"^[A-Za-z0-9._-]{1,249}$", "not": {"enum": [".", ".."]}}),
]
"""Name of a topic or consumer group: 1 to 249 of A-Z a-z 0-9 . _ -"""

Entity = Annotated[
    str,
    AfterValidator(check_entity),
    WithJsonSchema({"type": "string", "pattern": r"^[A-Za-z0-9]([A-Za-z0-9._/-]{0,258}[A-Za-z0-9._-])?$"}),
]
"""Name of a queue or topic of Service Bus, which may contain slashes."""

Expression = Annotated[str, StringConstraints(min_length=1), Field(json_schema_extra={"x-language": "cel"})]
"""Text that is a CEL expression as a whole."""

Template = Annotated[str, Field(json_schema_extra={"x-language": "cel-template"})]
"""Literal text with CEL expressions in `{{ }}`."""


def _check_per(value: str) -> str:
    if "{{" not in value:
        raise ValueError("every message would have the same value; write a template with {{ }} in it")
    return value


PerValue = Annotated[Template, AfterValidator(_check_per)]
"""Template that distinguishes senders. Limits apply to each text that it evaluates to."""
