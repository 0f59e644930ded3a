"""Dead letters as people see them: JSON types, with payload only on request. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bridge.app.dead_letters.reading import Found


def facts_of(found: Found, payload: bool = False) -> dict[str, Any]:
    """Facts of a dead letter. payload: add headers, body, and the text of a foreign program's error."""
    letter, message, mark = found.letter, found.message, found.mark
    facts: dict[str, Any] = {
        "id": letter.id,
        "state": found.state,
        "state_since": None if mark is None else shown_time(mark.at),
        "state_job": None if mark is None else mark.job or None,
        "state_by": None if mark is None else mark.by or None,
        "state_reason": None if mark is None else mark.reason or None,
        "time": shown_time(letter.failed_at),
        "reason": letter.reason,
        "detail": letter.detail,
        "expression": letter.expression,
        "error": letter.error,
        "source": letter.source,
        "route": letter.route,
        "executed": list(letter.executed),
        "attempts": letter.attempts,
        "replays": letter.replays or None,
        "config": letter.config,
        "message_id": letter.message_id,
        "key": None if message.key is None else message.key.decode("utf-8", "backslashreplace"),
        "origin": str(letter.origin),
        "group": letter.fingerprint,
        "format": letter.format,
        "size": message.size,
    }
    if payload:
        facts["foreign_detail"] = letter.foreign_detail
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
