"""Plain JSON: the body is the payload."""

from __future__ import annotations

from dataclasses import dataclass

from bridge.codecs.base import IN_BODY
from bridge.codecs.cloudevents.binary import around, encode_binary
from bridge.codecs.header_attributes import plain_message, read_plain, text_headers
from bridge.codecs.limits import DEFAULT_LIMITS, check_size, parse_json, write_json
from bridge.config.model.sources import LimitsConfig
from bridge.core.message import Envelope, Event, Message, Position

_MEDIA = "application/json"


@dataclass(frozen=True, slots=True)
class JsonCodec:
    """Codec for plain JSON. Attributes have defaults (no type, source from the topic) until the source's `attributes:`
    set them.
    """

    limits: LimitsConfig = DEFAULT_LIMITS
    name: str = "json"

    def decode(self, message: Message, position: Position) -> Envelope:
        """See `Codec.decode`. Raises: DecodeError."""
        return read_plain(message, position, self.limits, lambda body: parse_json(body, self.limits), _MEDIA)

    def encode(self, event: Event) -> Message:
        """See `Codec.encode`. Raises: DecodeError when the data has no JSON form."""
        return plain_message(event, write_json(event.data), _MEDIA)


@dataclass(frozen=True, slots=True)
class StandInCodec:
    """Replacement for `avro` and `protobuf`: attributes are headers as usual, and the data is JSON.

    Attributes that the original codecs read from the body (`recordname`, `schemaid`) are headers here.
    """

    limits: LimitsConfig = DEFAULT_LIMITS
    name: str = "stand-in"

    def decode(self, message: Message, position: Position) -> Envelope:
        """See `Codec.decode`. Raises: DecodeError."""
        data = None
        if message.body is not None:
            check_size(message.body, self.limits)
            data = parse_json(message.body, self.limits)
        given = {name: value for name, value in text_headers(message.headers).items() if name in IN_BODY}
        return around(message, position, data, "application/json", given)

    def encode(self, event: Event) -> Message:
        """See `Codec.encode`. Raises: DecodeError when the data has no JSON form."""
        return encode_binary(event)
