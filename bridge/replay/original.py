"""Original message of a dead letter, as a source would receive it again. Pure."""

from __future__ import annotations

from dataclasses import replace

from bridge.core import provenance
from bridge.core.bytetext import own_text
from bridge.core.dead_letter import DeadLetter
from bridge.core.message import Message, Position
from bridge.core.stored_message import ReplayOf, StoredMessage


def stored_original(
    dead_letter: DeadLetter,
    message: Message,
    *,
    source: str,
    broker: str,
    dead_letter_topic: str,
    replay: ReplayOf,
    edited: bytes | None = None,
) -> StoredMessage:
    """Message behind a dead letter, for storage in a replay queue.

    The `bridge.*` headers stay in the message: its next dead letter needs them. A source that does not trust them
    ignores them. Position, time and identity are those of the original.
    dead_letter, message: dead letter of the source, and the message that has it.
    source, broker: names of the source that executes the message, and of its broker.
    dead_letter_topic: topic of the next dead letter.
    edited: body that replaces that of the dead letter.
    """
    added = {provenance.JOB: replay.job.encode()}
    if edited is not None:
        added[provenance.EDITED_FROM] = dead_letter.id.encode("utf-8", "replace")
        # The edited body may be whole where that of the dead letter was not
        parts = ", ".join(part for part in _truncated(message) if part != "payload")
        added[provenance.TRUNCATED] = parts.encode()
    kept = tuple(header for header in message.headers if header[0] not in added)
    added = {name: value for name, value in added.items() if value}
    position = original_position(dead_letter, message)
    return StoredMessage(
        replace(
            message,
            body=message.body if edited is None else edited,
            headers=kept + tuple(added.items()),
            timestamp=_timestamp(dead_letter, message),
            timestamp_ms=None,
            message_id=None,
            native=None,
        ),
        position,
        broker,
        dead_letter_topic.replace("{topic}", position.topic.partition("/")[0]),
        source,
        dead_letter.message_id,
        dead_letter.config,
        dead_letter.executed,
        True,
        replay,
    )


def original_position(dead_letter: DeadLetter, message: Message) -> Position:
    """Position of the message that failed; that of the dead letter where its writer has stated none."""
    origin, place = dead_letter.origin, dead_letter.position
    if origin.topic is None or origin.offset is None:
        return place
    cluster = _text(message, provenance.CLUSTER) or place.cluster
    return Position(cluster, origin.topic, origin.partition or 0, origin.offset)


def missing_parts(message: Message) -> tuple[str, ...]:
    """Parts of the original that its dead letter lacks, because it would have been too large."""
    return tuple(part for part in _truncated(message) if part in ("payload", "headers", "key"))


def _truncated(message: Message) -> list[str]:
    return (_text(message, provenance.TRUNCATED) or "").split(", ")


def _timestamp(dead_letter: DeadLetter, message: Message) -> float | None:
    stated = _text(message, provenance.TIMESTAMP)
    if stated is None:
        return message.timestamp if dead_letter.format != "bridge" else None
    try:
        return float(stated)
    except ValueError:
        return None


def _text(message: Message, name: str) -> str | None:
    return next((own_text(value) for each, value in message.headers if each == name and value is not None), None)
