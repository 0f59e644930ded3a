"""Dead letters: in the entity's own sub-queue, or as messages on another queue."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import replace

import orjson

from bridge.brokers import dead_letter
from bridge.core.bytetext import own_text
from bridge.core.message import RESERVED_HEADER_PREFIX, Headers, Message, Position
from bridge.core.provenance import Cause

REASON = "DeadLetterReason"
DESCRIPTION = "DeadLetterErrorDescription"

LIMIT = 4096
"""Most bytes of a description, as the service allows."""

_OURS = "\nbridge: "

REMEMBERED = 10_000
"""Number of dead letters of a subscription that are not written again when their messages come again."""

SHORT = 256
"""Bytes of a description for a message that is near the service's limit of properties."""


def describe(message: Message, position: Position, cause: Cause) -> list[tuple[str, str]]:
    """Reasons and descriptions for the service, which accepts nothing else; each smaller than the one before.

    The first contains all that fits: a sentence for people, then a line of JSON with the headers of a dead letter. The
    last is empty: the message itself is moved, and keeps its body, its properties and its place.
    """
    ours = tuple(each for each in message.headers if each[0].startswith(RESERVED_HEADER_PREFIX))
    bare = replace(message, body=None, key=None, headers=ours, content_type=None, partition_key=None)
    folded = (_fold(entry) for entry in dead_letter.ladder(bare, position, cause))
    whole = next((text for text in folded if len(text.encode()) <= LIMIT), "")
    short = cause.detail.encode("utf-8", "replace")[:SHORT].decode("utf-8", "ignore")
    return [(cause.reason, whole or short), (cause.reason, short), ("", "")]


def _fold(entry: Message) -> str:
    texts = {
        name.removeprefix(RESERVED_HEADER_PREFIX): own_text(value) for name, value in entry.headers if value is not None
    }
    del texts["reason"]
    detail = texts.pop("detail")
    return f"{detail}{_OURS}{orjson.dumps(texts).decode()}"


def unfold(headers: Headers) -> list[tuple[str, bytes | None]]:
    """Headers of a message from a dead-letter sub-queue, with `bridge.*` headers instead of the text of `describe`."""
    kept = [(name, value) for name, value in headers if not name.startswith(RESERVED_HEADER_PREFIX)]
    found = dict(kept)
    text, ours, line = own_text(found.get(DESCRIPTION) or b"").partition(_OURS)
    if not ours:
        return kept
    try:
        fields = orjson.loads(line)
    except orjson.JSONDecodeError:
        return kept
    if not isinstance(fields, dict):
        return kept
    texts = {"reason": own_text(found.get(REASON) or b""), "detail": text, **fields}
    return kept + [(RESERVED_HEADER_PREFIX + name, str(value).encode()) for name, value in texts.items()]


class DeadLetterQueue:
    """Another queue for the dead letters of a subscription; `{topic}` in its name stands for the original queue or
    topic.

    A process writes a dead letter once, even when its message cannot be settled and comes again.
    """

    def __init__(self, publish: Callable[[str, list[Message]], Awaitable[None]], template: str) -> None:
        """Create a dead-letter queue.

        publish: sends messages to a queue or topic.
        template: name of the queue, with or without `{topic}`.
        """
        self._publish = publish
        self._template = template
        self._written: OrderedDict[str, None] = OrderedDict()
        """Identities of the last dead letters."""

    async def write(self, message: Message, position: Position, cause: Cause) -> None:
        """Return when the queue has accepted the dead letter. Parts of a dead letter that is too large are left out.

        Raises: BrokerUnavailable, for all errors of the broker: the source must stop, not lose the message.
        """
        identity = _identity(message, position)
        if identity in self._written:
            return
        queue = self._template.replace("{topic}", position.topic.partition("/")[0])
        # Without a sequence number from the service, the position is valid in this process only
        message_id = identity if position.offset >= 0 else None

        async def send(entry: Message) -> None:
            await self._publish(queue, [replace(entry, message_id=message_id)])

        await dead_letter.write(send, queue, message, position, cause)
        self._written[identity] = None
        if len(self._written) > REMEMBERED:
            self._written.popitem(last=False)


def _identity(message: Message, position: Position) -> str:
    """Message id of the dead letter: the same at each delivery of the message, and unique to the message.

    The enqueued time distinguishes messages with the same number in queues that were deleted and created again.
    """
    facts = f"{position} {message.timestamp} {message.message_id}"
    return f"bridge-dead-letter-{hashlib.sha256(facts.encode()).hexdigest()}"
