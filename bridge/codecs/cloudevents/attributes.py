"""Context attributes: names, types and the checks that the specification requires."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from functools import lru_cache
from typing import Any

from bridge.core.errors import DecodeError
from bridge.core.message import Event

CORE = frozenset({"specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema"})
DATA = frozenset({"data", "data_base64"})

_NAME = re.compile(r"[a-z0-9]{1,128}")
_NONCHARACTERS = "".join(f"{chr(plane * 0x10000 + 0xFFFE)}{chr(plane * 0x10000 + 0xFFFF)}" for plane in range(17))
_FORBIDDEN = re.compile(f"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef{_NONCHARACTERS}]")
_TIME = re.compile(
    r"\d{4}-\d{2}-\d{2}[Tt](?:[01]\d|2[0-3]):[0-5]\d:(?:[0-5]\d|60)(?:\.\d+)?(?:[Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)",
    re.ASCII,
)
_JSON_TYPES = {
    dict: "an object",
    list: "an array",
    str: "a string",
    bool: "a boolean",
    int: "a number",
    float: "a number",
}


def check_version(value: Any) -> None:
    """Check the version. Raises: DecodeError unless specversion is "1.0"."""
    if value != "1.0":
        said = "no specversion" if value is None else "a specversion that is not supported"
        raise DecodeError(f'the CloudEvent has {said}; it must be the string "1.0"')


def check_required(value: Any, name: str) -> str:
    """Check a required attribute. Raises: DecodeError unless the value is a non-empty string without control
    characters.
    """
    if type(value) is str and value and value.isprintable():
        return value
    if value is None:
        raise DecodeError(f"the CloudEvent has no {name}")
    if type(value) is not str:
        raise DecodeError(f"the CloudEvent attribute {name} must be a string, not {_JSON_TYPES[type(value)]}")
    if not value:
        raise DecodeError(f"the CloudEvent attribute {name} is empty")
    # isprintable is the cheap test: some characters that it rejects are allowed, such as a no-break space
    if _FORBIDDEN.search(value):
        raise DecodeError(f"the CloudEvent attribute {name} holds control characters")
    return value


def check_source(value: Any) -> str:
    """Check the source. Raises: DecodeError unless the value can be a URI reference; a blank would make identities
    ambiguous.
    """
    source = check_required(value, "source")
    if " " in source:
        raise DecodeError("the CloudEvent attribute source holds a blank, which no URI reference can")
    return source


def check_optional(value: Any, name: str) -> str | None:
    """Check an optional attribute. None stays None (JSON null is an absent attribute). Raises: as `check_required`."""
    return None if value is None else check_required(value, name)


def check_time(value: Any) -> str | None:
    """Check a time. Raises: DecodeError unless the value is None or an RFC 3339 timestamp with a real date."""
    if value is None:
        return None
    text = check_required(value, "time")
    if _TIME.fullmatch(text):
        try:
            date.fromisoformat(text[:10])
        except ValueError:
            pass
        else:
            return text
    raise DecodeError("the CloudEvent attribute time is not an RFC 3339 timestamp like 2026-01-31T09:30:00Z")


@lru_cache(maxsize=1024)
def check_name(name: str) -> None:
    """Check a name. Raises: DecodeError unless it can name an extension attribute."""
    if not _NAME.fullmatch(name):
        raise DecodeError(
            "the CloudEvent has an extension attribute whose name is not made of 1 to 128 characters a-z and 0-9"
        )


def check_extension(name: str, value: Any) -> None:
    """Check an extension. Raises: DecodeError unless name and value can be an extension attribute of the JSON
    format.
    """
    check_name(name)
    kind = type(value)
    if kind is str:
        if not value.isprintable() and _FORBIDDEN.search(value):
            raise DecodeError(f"the CloudEvent extension {name} holds control characters")
    elif kind is int:
        if not -0x80000000 <= value <= 0x7FFFFFFF:
            raise DecodeError(f"the CloudEvent extension {name} is an integer beyond 32 bits; send it as a string")
    elif kind is not bool:
        said = "a number with a fraction" if kind is float else _JSON_TYPES[kind]
        raise DecodeError(f"the CloudEvent extension {name} must be a string, an integer or a boolean, not {said}")


def identity(source: str, id: str) -> str:  # noqa: A002 - the attribute's name
    """Source and id in one string; the first blank separates them, since a source has none."""
    return f"{source} {id}"


def event_attributes(event: Event) -> dict[str, str]:
    """Checked attributes of an event to publish; absent ones are left out.

    Raises: DecodeError when the event breaks the specification.
    """
    attributes = {
        "specversion": "1.0",
        "id": check_required(event.id, "id"),
        "source": check_source(event.source),
        "type": check_required(event.type, "type"),
    }
    if (subject := check_optional(event.subject, "subject")) is not None:
        attributes["subject"] = subject
    if (time := check_time(event.time)) is not None:
        attributes["time"] = time
    _add_extensions(attributes, event.extensions)
    return attributes


def _add_extensions(attributes: dict[str, str], extensions: Mapping[str, str]) -> None:
    for name, value in extensions.items():
        if name in CORE or name in DATA:
            raise DecodeError(f"the event has an extension named {name}, which is a name of the specification")
        check_extension(name, value)
        if not isinstance(value, str):
            raise DecodeError(f"the event's extension {name} must be text to be published")
        attributes[name] = value
