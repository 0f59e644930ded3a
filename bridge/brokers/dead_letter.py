"""Dead letters in ever smaller forms, and the only function that writes them. The same for all brokers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product

from bridge.core import provenance
from bridge.core.errors import BrokerUnavailable, PublishFailed, TargetRefused
from bridge.core.message import RESERVED_HEADER_PREFIX, Message, Position
from bridge.core.provenance import TOMBSTONE, Cause

DETAIL_LIMIT = 128
"""Longest detail in bytes after shortening."""

Send = Callable[[Message], Awaitable[object]]
"""Callback that sends a dead letter and returns when the topic has accepted it.

Raises: PublishFailed (the dead letter is refused), TargetRefused, BrokerUnavailable.
"""


@dataclass(frozen=True, slots=True)
class _Less:
    """Parts that a dead letter leaves out."""

    payload: bool = False
    headers: bool = False
    key: bool = False
    detail: bool = False
    executed: bool = False
    message_id: bool = False


_STEPS = (
    _Less(),
    _Less(payload=True),
    _Less(payload=True, headers=True),
    *(
        # `detail` changes fastest: a shortened sentence is the smallest loss, a missing identity the greatest
        _Less(True, True, True, detail, executed, message_id)
        for message_id, executed, detail in product((False, True), repeat=3)
    ),
)


def ladder(message: Message, position: Position, cause: Cause, *, keyless_tombstones: bool = True) -> Iterator[Message]:
    """Dead letters of a message, the most complete first; each later one leaves out more.

    The order is: whole; without the payload; without the message's own headers too; without the key; then with a
    shorter detail, without the executed routes, without the message id, and combinations of these. All carry position,
    reason and source, and `bridge.truncated` names the missing parts. A form equal to the one before is skipped.
    keyless_tombstones: False where the broker accepts no message with neither body nor key; the body is empty then.
    """
    before: Message | None = None
    for less in _STEPS:
        dead_letter = _dead_letter(message, position, cause, less, keyless_tombstones)
        if before is not None:
            if dead_letter == before:
                continue
            if (less.detail or less.executed or less.message_id) and dead_letter.size >= before.size:
                continue
        before = dead_letter
        yield dead_letter


async def write(
    send: Send, topic: str, message: Message, position: Position, cause: Cause, *, keyless_tombstones: bool = True
) -> None:
    """Write the most complete dead letter that the topic accepts.

    Raises: BrokerUnavailable, also where the topic refuses even the smallest: nothing was written, try again later.
    """
    refusal: PublishFailed | None = None
    for dead_letter in ladder(message, position, cause, keyless_tombstones=keyless_tombstones):
        try:
            await send(dead_letter)
        except PublishFailed as error:
            refusal = error.with_traceback(None)  # its traceback refers to this frame, which holds the message
            if isinstance(error, TargetRefused):
                break
        else:
            return
    raise BrokerUnavailable(f"the dead letter for {position} cannot be written to {topic}: {refusal}") from refusal


def _dead_letter(message: Message, position: Position, cause: Cause, less: _Less, keyless_tombstones: bool) -> Message:
    missing = []
    if less.payload and message.body:
        message = replace(message, body=b"")
        missing.append("payload")
    if less.headers:
        own = [name for name, _ in message.headers if not name.startswith(RESERVED_HEADER_PREFIX)]
        if own or message.content_type is not None:
            ours = tuple(each for each in message.headers if each[0].startswith(RESERVED_HEADER_PREFIX))
            message = replace(message, headers=ours, content_type=None)
            missing.append("headers")
    if less.key and (message.key is not None or message.partition_key is not None):
        message = replace(message, key=None, partition_key=None)
        missing.append("key")
    if less.detail and len(cause.detail.encode("utf-8", "replace")) > DETAIL_LIMIT:
        kept = cause.detail.encode("utf-8", "replace")[: DETAIL_LIMIT - len("…".encode())].decode("utf-8", "ignore")
        cause = replace(cause, detail=kept + "…", fingerprint=cause.name)
        missing.append("detail")
    if less.detail and cause.expression:
        cause = replace(cause, expression="")
        missing.append("expression")
    if less.executed and cause.executed:
        cause = replace(cause, executed=())
        missing.append("executed")
    if less.message_id and cause.message_id is not None:
        cause = replace(cause, message_id=None)
        missing.append("message-id")
    unreadable = message.unreadable is not None
    dead_letter = provenance.dead_letter(message, position, cause)
    if not keyless_tombstones and dead_letter.body is None and dead_letter.key is None:
        dead_letter = replace(dead_letter, body=b"")
        # An unreadable message may or may not have been a tombstone
        missing.insert(0, "payload" if unreadable else TOMBSTONE)
    return _mark(dead_letter, missing) if missing else dead_letter


def _mark(dead_letter: Message, missing: list[str]) -> Message:
    """Add the names of the missing parts to the dead letter, after those that were missing when it was written
    before.
    """
    earlier = next((value for name, value in dead_letter.headers if name == provenance.TRUNCATED), None)
    names = [*(earlier or b"").decode("utf-8", "replace").split(", "), *missing]
    value = ", ".join(dict.fromkeys(name for name in names if name))
    headers = tuple(each for each in dead_letter.headers if each[0] != provenance.TRUNCATED)
    return replace(dead_letter, headers=(*headers, (provenance.TRUNCATED, value.encode())))
