"""Bounds of everything that listings show without payloads, so that a page of them fits a client's message."""

from __future__ import annotations

from collections.abc import Mapping

MAX_NAME = 1024
"""Longest name of an orchestration, activity, event or operation, and longest version, in characters."""

MAX_TAGS = 64 * 1024
"""Size of all tags of one instance or activity, in bytes."""

MAX_CUSTOM_STATUS = 1024 * 1024
"""Largest custom status, in bytes."""


MAX_EVENT = 3 * 1024 * 1024
"""Largest data of an event, in bytes: workers take messages of 4 MiB."""


class BeyondBound(Exception):
    """Something too large, with its bound, to follow "The call" or "The answer"."""


def check_name(what: str, name: str) -> None:
    """Raises: BeyondBound for a name or version beyond its bound."""
    if len(name) > MAX_NAME:
        raise BeyondBound(f"has {what} of {len(name)} characters; at most {MAX_NAME} are allowed")


def check_tags(tags: Mapping[str, str]) -> None:
    """Raises: BeyondBound for tags beyond their bound."""
    if tags:
        size = sum(_size(key) + _size(value) for key, value in tags.items())
        if size > MAX_TAGS:
            raise BeyondBound(f"has tags of {size} bytes; at most {MAX_TAGS} are allowed")


def check_custom_status(status: str) -> None:
    """Raises: BeyondBound for a custom status beyond its bound."""
    if len(status) * 4 > MAX_CUSTOM_STATUS and (size := _size(status)) > MAX_CUSTOM_STATUS:
        raise BeyondBound(f"has a custom status of {size} bytes; at most {MAX_CUSTOM_STATUS} are allowed")


def check_event(data: str) -> None:
    """Raises: BeyondBound for an event's data beyond its bound."""
    if len(data) * 4 > MAX_EVENT and (size := _size(data)) > MAX_EVENT:
        raise BeyondBound(f"has event data of {size} bytes; at most {MAX_EVENT} are allowed")


def _size(value: str) -> int:
    return len(value.encode())
