"""The codecs: one decoder for both content modes, and an encoder for each."""

from __future__ import annotations

from dataclasses import dataclass

from bridge.codecs.cloudevents.binary import attributes_of, decode_binary, encode_binary
from bridge.codecs.cloudevents.structured import decode_structured, encode_structured
from bridge.codecs.content_type import content_type_of, parse_content_type
from bridge.codecs.header_attributes import text_headers
from bridge.codecs.limits import DEFAULT_LIMITS, check_size
from bridge.config.model.sources import LimitsConfig
from bridge.core.errors import DecodeError
from bridge.core.message import Envelope, Event, Message, Position


@dataclass(frozen=True, slots=True)
class CloudEventsCodec:
    """Codec that reads both content modes, and writes structured mode."""

    limits: LimitsConfig = DEFAULT_LIMITS
    name: str = "cloudevents"

    def decode(self, message: Message, position: Position) -> Envelope:
        """See `Codec.decode`. Raises: DecodeError."""
        return _decode(message, position, self.limits)

    def encode(self, event: Event) -> Message:
        """See `Codec.encode`. Raises: DecodeError."""
        return encode_structured(event)


@dataclass(frozen=True, slots=True)
class CloudEventsBinaryCodec:
    """Codec that reads both content modes, and writes binary mode."""

    limits: LimitsConfig = DEFAULT_LIMITS
    name: str = "cloudevents-binary"

    def decode(self, message: Message, position: Position) -> Envelope:
        """See `Codec.decode`. Raises: DecodeError."""
        return _decode(message, position, self.limits)

    def encode(self, event: Event) -> Message:
        """See `Codec.encode`. Raises: DecodeError."""
        return encode_binary(event)


def _decode(message: Message, position: Position, limits: LimitsConfig) -> Envelope:
    """Decode by mode. The content type decides the mode; without one of CloudEvents, `ce_` headers mean binary mode."""
    if message.body is not None:
        check_size(message.body, limits)
    content_type = content_type_of(message)
    headers = text_headers(message.headers)
    if content_type is not None:
        mode = parse_content_type(content_type).cloudevents
        if mode == "json":
            return decode_structured(message, position, headers, limits)
        if mode == "batch":
            raise DecodeError("the message is a batch of CloudEvents, which is not supported: send one event a message")
        if mode == "unknown":
            raise DecodeError("the message is a CloudEvent in a format other than JSON, which is not supported")
    attributes = attributes_of(message, headers) if headers else None
    if attributes:
        return decode_binary(message, position, attributes, content_type, headers, limits)
    return decode_structured(message, position, headers, limits)
