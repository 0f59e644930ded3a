"""Codec interface: payload formats of messages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

from bridge.core.message import Envelope, Event, Message, Position

RECORD_NAME, SCHEMA_ID = "recordname", "schemaid"
"""Extensions of an event: full name of its record or message, and the id of its schema, a number or a GUID."""
IN_BODY = (RECORD_NAME, SCHEMA_ID)
"""Extensions that codecs with a schema read from the body, and write into it."""


class Codec(Protocol):
    """Converter of messages into envelopes, and of events into messages. Stateless; safe to share."""

    @property
    def name(self) -> str: ...

    def decode(self, message: Message, position: Position) -> Envelope:
        """Decode a message. Raises: DecodeError, with a sentence that names the fault and never quotes the payload."""
        ...

    def encode(self, event: Event) -> Message:
        """Encode an event. Raises: DecodeError when the event's data cannot be written in this format."""
        ...


@runtime_checkable
class PreparedCodec(Protocol):
    """A codec that first has to look up schemas, and caches them."""

    async def prepare_decode(self, messages: Iterable[Message]) -> None:
        """Look up schemas before `decode` of these messages. Raises: RegistryUnavailable, an outage: try again."""
        ...

    async def prepare_encode(self, event: Event) -> None:
        """Look up schemas before `encode` of this event. Raises: RegistryUnavailable, SchemaError, DecodeError."""
        ...
