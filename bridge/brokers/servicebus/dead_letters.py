"""Dead letters: in the entity's own sub-queue, or as messages on another queue."""

from __future__ import annotations

from dataclasses import replace

import orjson

from bridge import provenance
from bridge.brokers.servicebus.sender import Senders
from bridge.bytetext import own_text
from bridge.errors import BrokerUnavailable, PublishFailed
from bridge.message import RESERVED_HEADER_PREFIX, Headers, Message, Position
from bridge.provenance import Cause

REASON = "DeadLetterReason"
DESCRIPTION = "DeadLetterErrorDescription"

LIMIT = 4096
"""Bytes of a description, as the service allows them."""

_OURS = "\nbridge: "


def describe(message: Message, position: Position, cause: Cause) -> tuple[str, str]:
    """Reason and description for the service, which takes nothing else: a sentence for people, then a line of JSON with
    what `provenance.dead_letter` would put into headers.
    """
    letter = provenance.dead_letter(message, position, cause)
    told = {
        name.removeprefix(RESERVED_HEADER_PREFIX): own_text(value)
        for name, value in letter.headers
        if name.startswith(RESERVED_HEADER_PREFIX) and value is not None
    }
    told.pop("reason", None)
    told.pop("detail", None)
    line = orjson.dumps(told).decode()
    room = LIMIT - len(cause.detail.encode()) - len(_OURS)
    if len(line.encode()) > room:
        # A list of routes is all that can be long; without it a replay repeats them
        told = {name: value for name, value in told.items() if name != "executed"} | {"truncated": "executed"}
        line = orjson.dumps(told).decode()
    if len(line.encode()) > room:
        return cause.reason, cause.detail
    return cause.reason, f"{cause.detail}{_OURS}{line}"


def unfold(headers: Headers) -> list[tuple[str, bytes | None]]:
    """Headers of a message from a dead-letter sub-queue, with `bridge.*` headers instead of what `describe` folded."""
    kept = [(name, value) for name, value in headers if not name.startswith(RESERVED_HEADER_PREFIX)]
    found = dict(kept)
    text, ours, line = own_text(found.get(DESCRIPTION) or b"").partition(_OURS)
    if not ours:
        return kept
    try:
        told = orjson.loads(line)
    except orjson.JSONDecodeError:
        return kept
    if not isinstance(told, dict):
        return kept
    texts = {"reason": own_text(found.get(REASON) or b""), "detail": text, **told}
    return kept + [(RESERVED_HEADER_PREFIX + name, str(value).encode()) for name, value in texts.items()]


class DeadLetterQueue:
    """Another queue for the dead letters of a subscription; `{topic}` in its name stands for the origin's."""

    def __init__(self, senders: Senders, template: str) -> None:
        self._senders = senders
        self._template = template

    async def write(self, message: Message, position: Position, cause: Cause) -> None:
        """Return when the dead letter is taken. One that is too large goes without its payload.

        Raises: BrokerUnavailable; whatever else stops it must stop the source, not lose the message.
        """
        queue = self._template.replace("{topic}", position.topic.partition("/")[0])
        letter = replace(provenance.dead_letter(message, position, cause), message_id=None)
        try:
            try:
                await self._senders.publish(queue, [letter])
            except PublishFailed:
                headers = (*letter.headers, (provenance.TRUNCATED, b"payload"))
                await self._senders.publish(queue, [replace(letter, body=b"", headers=headers)])
        except PublishFailed as error:
            raise BrokerUnavailable(f"the dead letter for {position} cannot be written: {error}") from error
