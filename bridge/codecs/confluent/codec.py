"""The codecs `avro` and `protobuf`: the body is the data, and CloudEvents attributes are headers, if there are any."""

from __future__ import annotations

from collections.abc import Iterable

from bridge.codecs.cloudevents.binary import around, message_around
from bridge.codecs.confluent import wire
from bridge.codecs.confluent.format import Format
from bridge.codecs.confluent.registry import Registry
from bridge.codecs.confluent.schemas import Schemas
from bridge.codecs.confluent.writing import Writing
from bridge.codecs.limits import DEFAULT_LIMITS, Limits, check_size
from bridge.envelope import Envelope, Event
from bridge.errors import DecodeError
from bridge.message import Message, Position


class RegistryCodec:
    """Implements `bridge.codecs.base.Codec` and `PreparedCodec`."""

    def __init__(
        self,
        name: str,
        format: Format,  # noqa: A002 -- the noun
        registry: Registry,
        limits: Limits = DEFAULT_LIMITS,
        writing: Writing | None = None,
    ) -> None:
        """writing: what `encode` writes; None: this one only reads."""
        self.name = name
        self._format = format
        self._limits = limits
        self._schemas = Schemas(registry, format)
        self._writing = writing

    async def prepare_decode(self, messages: Iterable[Message]) -> None:
        """See `PreparedCodec`. Raises: RegistryUnavailable."""
        wanted = set()
        for message in messages:
            if message.body is not None:
                try:
                    wanted.add(wire.read(message, indexed=False).schema)
                except DecodeError:
                    continue  # told again, and judged, when it is decoded
        await self._schemas.fetch(wanted)

    def decode(self, message: Message, position: Position) -> Envelope:
        """After `prepare_decode` of this message. Raises: DecodeError."""
        body, data = message.body, None
        if body is not None:
            check_size(body, self._limits)
            frame = wire.read(message, indexed=self._format.indexed)
            data = self._schemas.get(frame.schema).decode(body[frame.start :], frame.indexes, self._limits)
        return around(message, position, data, self._format.media if body is not None else None)

    async def prepare_encode(self) -> None:
        """See `PreparedCodec`. Raises: RegistryUnavailable, SchemaError, DecodeError."""
        assert self._writing is not None, "this codec only reads"
        await self._writing.choose()

    def encode(self, event: Event) -> Message:
        """After `prepare_encode`. Data None becomes a tombstone. Raises: DecodeError when the data does not fit."""
        assert self._writing is not None, "this codec only reads"
        if event.data is None:
            return message_around(event, None, self._format.media)
        choice = self._writing.chosen
        body = choice.schema.encode(event.data)
        if not self._writing.in_header:
            return message_around(event, wire.write(choice.ids.id, choice.schema.indexes) + body, self._format.media)
        if choice.ids.guid is None:
            raise DecodeError("the registry gives no GUIDs, which `schema_id: header` needs; use `prefix`")
        header = wire.write(choice.ids.guid, choice.schema.indexes)
        return message_around(event, body, self._format.media, ((wire.HEADER, header),))
