"""Validation of ids, names and times before they are passed to an engine.

The limits are those of the Durable Task storage providers: at most 256 characters, no control characters, and none of
`/ \\ # ?`. Ids that begin with `@` are entities, and ids that begin with `bridge:` belong to the bridge. No payload
can name them. A refused text is not repeated in the error, because it may be any part of a payload.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime

from bridge.config.model.types import parse_duration
from bridge.core.errors import InvalidCommand
from bridge.core.system_names import PREFIX

LONGEST = 256
"""Maximum number of characters of an instance id, entity id or name."""

RESERVED_PREFIXES = ("@", "bridge:")

_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f-\x9f/\\#?\ud800-\udfff]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_LONGEST_DELAY = 3650 * 86400.0


def check_instance_id(text: str) -> str:
    """Check an instance id and return it. Raises: InvalidCommand."""
    if not text:
        raise InvalidCommand("the instance id is empty")
    if len(text) > LONGEST:
        raise InvalidCommand(f"the instance id has {len(text)} characters; at most {LONGEST} are possible")
    if text.startswith(RESERVED_PREFIXES):
        owner = "entities" if text[0] == "@" else "the bridge's own instances"
        prefix = "@" if text[0] == "@" else "bridge:"
        raise InvalidCommand(f"the instance id begins with {prefix!r}, which is kept for {owner}")
    if found := _FORBIDDEN.search(text):
        raise InvalidCommand(f"the instance id holds {_character(found[0])}, which ids cannot have")
    return text


def check_name(text: str, what: str) -> str:
    """Check a name and return it. what: the kind of name, for errors (`the event name`). Raises: InvalidCommand."""
    if not text.strip():
        raise InvalidCommand(f"{what} is empty")
    if len(text) > LONGEST:
        raise InvalidCommand(f"{what} has {len(text)} characters; at most {LONGEST} are possible")
    if found := _CONTROL.search(text):
        raise InvalidCommand(f"{what} holds {_character(found[0])}, which names cannot have")
    return text


def check_orchestration(name: str) -> str:
    """Check the name of an orchestration and return it. Raises: InvalidCommand."""
    return _not_own(check_name(name, "the orchestration name"), "the orchestration name")


def check_entity(entity: str, key: str) -> None:
    """Check the two parts of an entity's id, `@entity@key`. Raises: InvalidCommand."""
    check_name(entity, "the entity name")
    _not_own(entity, "the entity name")
    _check_part(entity, "the entity name")
    check_name(key, "the entity key")
    _check_part(key, "the entity key")
    if len(entity) + len(key) + 2 > LONGEST:
        raise InvalidCommand(f"the entity id has more than {LONGEST} characters")


def _check_part(text: str, what: str) -> None:
    """Check a part of an entity's id for characters that the SDK or an engine refuses. Raises: InvalidCommand."""
    if "@" in text:
        raise InvalidCommand(f"{what} holds an @, which separates the parts of an entity's id")
    if found := _FORBIDDEN.search(text):
        raise InvalidCommand(f"{what} holds {_character(found[0])}, which ids cannot have")


def parse_time(text: str, what: str) -> datetime:
    """Parse an RFC 3339 time into an aware time in UTC. Raises: InvalidCommand, without the text."""
    if _TIME.fullmatch(text):
        try:
            return datetime.fromisoformat(text.upper()).astimezone(UTC)
        except (ValueError, OverflowError):
            pass
    raise InvalidCommand(f"{what} is not an RFC 3339 time with an offset, like 2030-01-31T08:00:00Z")


def parse_delay(text: str, what: str) -> float:
    """Parse a duration into seconds. Raises: InvalidCommand, without the text."""
    try:
        seconds = parse_duration(text)
    except (ValueError, OverflowError):
        raise InvalidCommand(f"{what} is not a duration, like 30s or 1h30m") from None
    if not math.isfinite(seconds) or seconds > _LONGEST_DELAY:
        raise InvalidCommand(f"{what} is longer than ten years")
    return seconds


def _not_own(name: str, what: str) -> str:
    if name.lower().startswith(PREFIX):
        raise InvalidCommand(f"{what} begins with {PREFIX!r}, which is kept for the bridge's own")
    return name


def _character(character: str) -> str:
    code = ord(character)
    if 0xD800 <= code <= 0xDFFF:
        return "a lone surrogate"
    return f"the control character U+{code:04X}" if _CONTROL.match(character) else f"the character {character}"
