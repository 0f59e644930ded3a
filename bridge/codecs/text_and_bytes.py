"""Codecs for bodies that stay unchanged: text and bytes."""

from __future__ import annotations

from dataclasses import dataclass

from bridge.codecs.content_type import content_type_of, decode_text
from bridge.codecs.header_attributes import binary_text, plain_message, read_plain
from bridge.codecs.limits import DEFAULT_LIMITS
from bridge.config.model.sources import LimitsConfig
from bridge.core.errors import DecodeError
from bridge.core.message import Envelope, Event, Message, Position


@dataclass(frozen=True, slots=True)
class TextCodec:
    """Codec for UTF-8 text."""

    limits: LimitsConfig = DEFAULT_LIMITS
    name: str = "text"

    def decode(self, message: Message, position: Position) -> Envelope:
        """See `Codec.decode`. Raises: DecodeError when the body is not UTF-8."""
        return read_plain(message, position, self.limits, decode_text, content_type_of(message) or "text/plain")

    def encode(self, event: Event) -> Message:
        """See `Codec.encode`. Data None becomes a tombstone. Raises: DecodeError when the data is no string."""
        if event.data is None:
            return plain_message(event, None, "text/plain; charset=utf-8")
        if not isinstance(event.data, str):
            raise DecodeError(f"the text codec writes strings, the event's data is {type(event.data).__name__}")
        return plain_message(event, binary_text(event.data, "data"), "text/plain; charset=utf-8")


@dataclass(frozen=True, slots=True)
class BytesCodec:
    """Codec for opaque bytes."""

    limits: LimitsConfig = DEFAULT_LIMITS
    name: str = "bytes"

    def decode(self, message: Message, position: Position) -> Envelope:
        """See `Codec.decode`. Raises: DecodeError when the body is too large."""
        media = content_type_of(message) or "application/octet-stream"
        return read_plain(message, position, self.limits, lambda body: body, media)

    def encode(self, event: Event) -> Message:
        """See `Codec.encode`. Data None becomes a tombstone; a string is written as UTF-8. Raises: DecodeError for any
        other type.
        """
        data = event.data
        if isinstance(data, str):
            data = binary_text(data, "data")
        if data is not None and not isinstance(data, bytes):
            raise DecodeError(f"the bytes codec writes bytes, the event's data is {type(data).__name__}")
        return plain_message(event, data, "application/octet-stream")
