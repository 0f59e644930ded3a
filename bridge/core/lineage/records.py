"""Records of the lineage index, and the ids of messages that wait on an engine. Pure."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from typing import Any

from bridge.core.commands import Command
from bridge.core.message import Position
from bridge.core.origin import MessageOrigin, index_ids
from bridge.core.provenance import Cause

DEAD_LETTER_RECORD = 1
"""Kind of the record of a dead letter."""

COMMAND_RECORD = 2
"""Kind of the record of a command that no history names: a signal to an entity, terminate, suspend or resume."""

RECORD_OPERATION = "record"
"""Operation of the entity LINEAGE that adds a record."""

DUPLICATE_RECORD = 3
"""Kind of the record of a repeated command, under the position of its delivery; on a remote engine."""

_LONGEST = 500
"""Most characters of a detail in a record."""


def stored_ids(item: Mapping[str, Any]) -> tuple[str, ...]:
    """Ids under which an index lists a message that waits on an engine. item: its JSON there."""
    document = item.get("letter")
    if not isinstance(document, dict):
        return ()
    message_id = item.get("id") or document.get("id")
    at = document.get("at")
    position = str(Position(*at)) if isinstance(at, list) and len(at) == 4 else None
    return index_ids(message_id if isinstance(message_id, str) else None, position)


def ordering_keys(value: Mapping[str, Any]) -> Iterator[str]:
    """Text of the ordering key in the state, or an operation, of a quarantine entity, if it is text.

    It is there as base64 of a letter and the key.
    """
    key = value.get("key")
    if isinstance(key, str):
        try:
            yield base64.b64decode(key)[1:].decode()
        except ValueError:
            return


def command_record(command: Command, origin: MessageOrigin) -> dict[str, Any]:
    """Record of a command for an instance, without payload."""
    return {
        "id": origin.message_id,
        "position": origin.position,
        "route": origin.route,
        "part": origin.part,
        "instance_id": getattr(command, "instance_id", None),
        "command": type(command).__name__.lower(),
    }


def dead_letter_record(cause: Cause, position: Position, topic: str) -> dict[str, Any]:
    """Record of a dead letter, without payload. topic: of the dead letter."""
    return {
        "id": cause.message_id,
        "position": str(position),
        "topic": topic,
        "source": cause.source,
        "route": cause.route,
        "reason": cause.reason,
        "detail": cause.detail[:_LONGEST],
        "attempts": cause.attempts,
        "executed": list(cause.executed),
        "config": cause.config,
    }
