"""Dead letters as people see them: JSON types, with payload only on request. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bridge.app.dead_letters.reading import FoundDeadLetter


def facts_of(found: FoundDeadLetter, payload: bool = False) -> dict[str, Any]:
    """Facts of a dead letter. payload: add headers, body, and the text of a foreign program's error."""
    dead_letter, message, mark = found.dead_letter, found.message, found.mark
    facts: dict[str, Any] = {
        "id": dead_letter.id,
        "state": found.state,
        "state_since": None if mark is None else shown_time(mark.at),
        "state_job": None if mark is None else mark.job or None,
        "state_by": None if mark is None else mark.by or None,
        "state_reason": None if mark is None else mark.reason or None,
        "time": shown_time(dead_letter.failed_at),
        "reason": dead_letter.reason,
        "detail": dead_letter.detail,
        "expression": dead_letter.expression,
        "error": dead_letter.error,
        "source": dead_letter.source,
        "route": dead_letter.route,
        "executed": list(dead_letter.executed),
        "attempts": dead_letter.attempts,
        "replays": dead_letter.replays or None,
        "config": dead_letter.config,
        "message_id": dead_letter.message_id,
        "key": None if message.key is None else message.key.decode("utf-8", "backslashreplace"),
        "origin": str(dead_letter.origin),
        "group": dead_letter.fingerprint,
        "format": dead_letter.format,
        "size": message.size,
    }
    if payload:
        facts["foreign_detail"] = dead_letter.foreign_detail
        facts["headers"] = {
            name: "" if value is None else value.decode("utf-8", "backslashreplace") for name, value in message.headers
        }
        facts["body"] = None if message.body is None else message.body.decode("utf-8", "backslashreplace")
    return facts


def shown_time(seconds: float | None) -> str:
    """RFC 3339 in UTC; empty for a time that is unknown or out of range."""
    if seconds is None:
        return ""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    except (OverflowError, ValueError, OSError):
        return ""
