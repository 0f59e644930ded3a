"""Common part of codecs without an event format: attributes come from the message around the body."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from bridge.codecs.limits import check_size
from bridge.config.model.sources import LimitsConfig
from bridge.core.bytetext import bytes_of, text_of
from bridge.core.errors import DecodeError
from bridge.core.message import Envelope, Event, Headers, Message, Position

_LIKE_A_POSITION = re.compile(r"/*[0-9]+@[0-9]+")

MESSAGE_ID_HEADER = "message-id"
MESSAGE_TYPE_HEADER = "message-type"


def text_headers(headers: Headers) -> dict[str, str]:
    """Headers as text, as `text_of` makes it. The last value of a repeated name counts. A null value is no header."""
    return {name: text_of(value) for name, value in headers if value is not None}


def text_key(key: bytes | None) -> str | None:
    """The key as text, as `text_of` makes it."""
    return None if key is None else text_of(key)


def binary_key(key: str | None) -> bytes | None:
    """Bytes of a key. Raises: DecodeError when the key holds a lone surrogate."""
    return None if key is None else binary_text(key, "key")


def binary_text(text: str, what: str) -> bytes:
    """Bytes of a header value or key, as the reverse of `text_of`: received bytes are sent unchanged.

    Raises: DecodeError, naming `what`, for a lone surrogate.
    """
    try:
        return bytes_of(text)
    except UnicodeEncodeError:
        raise DecodeError(f"the event's {what} holds a lone surrogate, which UTF-8 cannot carry") from None


def read_plain(
    message: Message, position: Position, limits: LimitsConfig, read: Callable[[bytes], Any], media: str
) -> Envelope:
    """Envelope with the result of `read` for the body; a tombstone has no data and no content type.

    Raises: DecodeError, also for a body beyond the limits.
    """
    body = message.body
    if body is None:
        return plain_envelope(message, position, None, None)
    check_size(body, limits)
    return plain_envelope(message, position, read(body), media)


def plain_envelope(message: Message, position: Position, data: Any, content_type: str | None) -> Envelope:
    """Envelope with the default attributes: id and identity from the broker, source from the topic, no type."""
    id_ = message.message_id or str(position)
    # A sender's own id is unique within its entity only, and must not be taken for a position in the entity
    message_id = id_
    if message.message_id:
        slash = "/" if _LIKE_A_POSITION.fullmatch(message.message_id) else ""
        message_id = f"{position.cluster}/{position.topic}/{slash}{id_}"
    return Envelope(
        message_id,
        id_,
        f"/{position.topic}",
        "",
        data,
        position,
        datacontenttype=content_type,
        headers=text_headers(message.headers),
        key=text_key(message.key),
        timestamp=message.timestamp,
        message=message,
    )


def plain_message(event: Event, body: bytes | None, content_type: str) -> Message:
    """Message with the event's id and type as headers, since the body has no place for them."""
    headers = {MESSAGE_ID_HEADER: event.id, MESSAGE_TYPE_HEADER: event.type, **event.headers}
    headers["content-type"] = content_type
    return Message(
        body,
        key=binary_key(event.key),
        headers=tuple((name, binary_text(value, f"header {name}")) for name, value in headers.items()),
        message_id=event.id,
        content_type=content_type,
    )
