"""Size of the commands of one message."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from bridge.core.commands import Command, RoutedCommand, StartFirst
from bridge.core.errors import CommandsTooLarge

_DATA = ("input", "data", "output", "tags", "reason")


def check_volume(steps: Iterable[RoutedCommand], limit: int, left: int | None = None) -> int:
    """Bytes that the commands leave of `left` (None: of the limit).

    Raises: CommandsTooLarge if it would be negative.
    """
    if left is None:
        left = limit
    for step in steps:
        left -= command_bytes(step.command)
        if left < 0:
            raise CommandsTooLarge(
                f"route {step.route}: the commands of this message hold more than the {limit} bytes that "
                "limits.max_command_bytes allows"
            )
    return left


def command_bytes(command: Command) -> int:
    """Length of a command's input and data as JSON, in bytes."""
    total = 0
    for name in _DATA:
        value = getattr(command, name, None)
        if value is not None:
            total += _length(value)
    missing = getattr(command, "on_missing", None)
    return total + _length(missing.input) if isinstance(missing, StartFirst) else total


def _length(value: Any) -> int:
    if value.__class__ is str:
        return len(value) if value.isascii() else len(value.encode("utf-8", "surrogatepass"))
    try:
        return len(orjson.dumps(value))
    except TypeError:  # integers of more than 64 bits, or a result of `map`
        return len(json.dumps(_textual(value), default=str))


def _textual(value: Any) -> Any:
    """Copy of a value with keys that JSON accepts."""
    if isinstance(value, Mapping):
        return {str(key): _textual(member) for key, member in value.items()}
    return [_textual(member) for member in value] if isinstance(value, list | tuple) else value
