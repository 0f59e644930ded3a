"""The codecs `avro` and `protobuf`: the body is the data, and CloudEvents attributes are optional headers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from uuid import UUID

from bridge.codecs.base import IN_BODY, RECORD_NAME, SCHEMA_ID
from bridge.codecs.cloudevents.binary import around, message_around
from bridge.codecs.confluent import wire
from bridge.codecs.confluent.format import SchemaFormat
from bridge.codecs.confluent.registry import Registry
from bridge.codecs.confluent.schema_cache import SchemaCache
from bridge.codecs.confluent.schema_choice import SchemaChooser
from bridge.codecs.limits import DEFAULT_LIMITS, check_size
from bridge.config.model.sources import LimitsConfig
from bridge.core.errors import DecodeError
from bridge.core.message import Envelope, Event, Message, Position


class RegistryCodec:
    """Implementation of `bridge.codecs.base.Codec` and `PreparedCodec`."""

    def __init__(
        self,
        name: str,
        format: SchemaFormat,  # noqa: A002 -- the noun
        registry: Registry,
        limits: LimitsConfig = DEFAULT_LIMITS,
        chooser: SchemaChooser | None = None,
    ) -> None:
        """Create a registry codec. chooser: chooses the schema for `encode`; None: the codec only reads."""
        self.name = name
        self._format = format
        self._limits = limits
        self._schemas = SchemaCache(registry, format)
        self._chooser = chooser

    async def prepare_decode(self, messages: Iterable[Message]) -> None:
        """See `PreparedCodec`. Raises: RegistryUnavailable."""
        wanted = set()
        for message in messages:
            if message.body is not None:
                try:
                    wanted.add(wire.read(message, indexed=self._format.indexed).schema)
                except DecodeError:
                    continue  # decoding raises it again, and handles it
        await self._schemas.fetch(wanted)

    def decode(self, message: Message, position: Position) -> Envelope:
        """Decode a message after `prepare_decode`. Raises: DecodeError."""
        body = message.body
        if body is None:
            return around(message, position, None, None)
        check_size(body, self._limits)
        frame = wire.read(message, indexed=self._format.indexed)
        schema = self._schemas.get(frame.schema)
        data = schema.decode(body[frame.start :], frame.indexes, self._limits)
        found = {SCHEMA_ID: str(frame.schema)}
        record = schema.record_of(body[frame.start :], frame.indexes)
        if record:
            found[RECORD_NAME] = record
        return around(message, position, data, self._format.media, found)

    async def prepare_encode(self, event: Event) -> None:
        """See `PreparedCodec`. Raises: RegistryUnavailable, SchemaError, DecodeError."""
        if event.data is None:
            return
        own = _schema_id(event)
        if own is not None:
            await self._schemas.fetch([own])
        else:
            await self._for_writing().choose()

    def encode(self, event: Event) -> Message:
        """Encode an event after `prepare_encode`. Data None becomes a tombstone.

        Raises: DecodeError when the data does not fit, or the schema has no such record.
        """
        # Both are part of the body; as headers they could only contradict it
        bare = replace(event, extensions={name: each for name, each in event.extensions.items() if name not in IN_BODY})
        if event.data is None:
            return message_around(bare, None, self._format.media)
        chooser, own, record = self._for_writing(), _schema_id(event), event.extensions.get(RECORD_NAME)
        schema = self._schemas.get(own) if own is not None else chooser.chosen.schema
        body = schema.encode(event.data, record)
        indexes = schema.place(record)
        if not chooser.in_header:
            number = own if own is not None else chooser.chosen.ids.id
            return message_around(bare, wire.write(number, indexes) + body, self._format.media)
        guid = own if own is not None else chooser.chosen.ids.guid
        if not isinstance(guid, UUID):
            raise DecodeError(
                f"`schema_id: header` needs the GUID of the schema; use `prefix`, or give {SCHEMA_ID} as GUID"
            )
        return message_around(bare, body, self._format.media, ((wire.HEADER, wire.write(guid, indexes)),))

    def _for_writing(self) -> SchemaChooser:
        assert self._chooser is not None, "this codec only reads"
        return self._chooser


def _schema_id(event: Event) -> wire.SchemaId | None:
    text = event.extensions.get(SCHEMA_ID)
    if text is None:
        return None
    try:
        number = int(text) if text.isascii() and text.isdecimal() else UUID(text)
    except ValueError:
        number = -1
    if isinstance(number, int) and not 0 <= number < 2**32:
        raise DecodeError(f"the event's {SCHEMA_ID} is neither the number nor the GUID of a schema")
    return number
