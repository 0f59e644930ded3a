"""Records of the lineage index, and the ids of messages that wait on an engine. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bridge.core.message import Position
from bridge.core.origin import index_ids
from bridge.core.provenance import Cause

DEAD_LETTER_RECORD = 1
"""Kind of the record of a dead letter."""

SIGNAL_RECORD = 2
"""Kind of the record of a signal to an entity, whose history the engine does not keep."""

RECORD_OPERATION = "record"
"""Operation of the entity LINEAGE that adds the record of a dead letter."""

_LONGEST = 500
"""Most characters of a detail in a record."""


def stored_ids(item: Mapping[str, Any]) -> set[str]:
    """Ids under which an index lists a message that waits on an engine. item: its JSON there."""
    letter = item.get("letter")
    if not isinstance(letter, dict):
        return set()
    message_id = item.get("id") or letter.get("id")
    at = letter.get("at")
    position = str(Position(*at)) if isinstance(at, list) and len(at) == 4 else None
    return index_ids(message_id if isinstance(message_id, str) else None, position)


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
