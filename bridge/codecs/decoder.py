"""Conversion of a message into the envelope of its source: first the codec, then the source's configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from hashlib import sha256
from typing import Any, Literal

from bridge.codecs.amqp_headers import decode_headers
from bridge.codecs.base import Codec, PreparedCodec
from bridge.codecs.cloudevents.attributes import check_name, check_time
from bridge.codecs.limits import DEFAULT_LIMITS, check_size
from bridge.codecs.schema import JsonSchema
from bridge.config.model.sources import LimitsConfig
from bridge.core import provenance
from bridge.core.errors import DecodeError, ExpressionError, UnreadableMessage
from bridge.core.message import RESERVED_HEADER_PREFIX, Envelope, Message, Position

IDENTITY_LIMIT = 512
"""Longest identity in characters. A longer identity is replaced by its hash, to limit the size of deduplication
windows."""

REQUIRED = frozenset({"id", "source", "type"})
OPTIONAL = frozenset({"subject", "time", "datacontenttype", "dataschema"})


class SourceDecoder:
    """Decoder of the messages of one source. Stateless between messages."""

    def __init__(
        self,
        codec: Codec,
        limits: LimitsConfig = DEFAULT_LIMITS,
        *,
        attributes: Mapping[str, Callable[[Any], Any]] | None = None,
        identity: Callable[[Any], str] | None = None,
        scope: Callable[..., Any] = dict,
        upcast: Callable[[Envelope], Envelope] | None = None,
        schema: JsonSchema | None = None,
        trusted: Literal["replay"] | None = None,
        amqp_headers: bool = False,
    ) -> None:
        """Configure the decoder.

        attributes, identity: called with the result of `scope` for the variables headers, key, topic, partition,
        offset, timestamp, message_id (the broker's own), payload and message (with raw bytes), given as keywords;
        absent ones are None.
        upcast: converts the payloads of older versions, before `schema` is applied; None: no conversion.
        trusted: with "replay", incoming `bridge.*` headers are kept and their message id is the identity.
        amqp_headers: header values may be in the encoding of AMQP, as Azure Event Hubs delivers them.
        """
        self._codec = codec
        self._limits = limits
        self._attributes = tuple((attributes or {}).items())
        self._identity = identity
        self._scope = scope
        self._upcast = upcast
        self._schema = schema
        self._trusted = trusted == "replay"
        self._amqp_headers = amqp_headers
        self._computed = bool(self._attributes) or identity is not None
        self.prepare = self._prepare if isinstance(codec, PreparedCodec) else None
        """Coroutine function to await before messages are decoded, where the codec has lookups; otherwise None."""

    async def _prepare(self, messages: Iterable[Message]) -> None:
        assert isinstance(self._codec, PreparedCodec)
        await self._codec.prepare_decode([self._with_text(message) for message in messages])

    def _with_text(self, message: Message) -> Message:
        """The message with decoded header values, where the source allows AMQP encoding."""
        if not self._amqp_headers or not message.headers:
            return message
        return replace(message, headers=decode_headers(message.headers))

    def decode(self, message: Message, position: Position) -> Envelope:
        """Decode a message. Raises: UnreadableMessage, DecodeError, SchemaError (a tombstone is not validated),
        ExpressionError.
        """
        if message.unreadable is not None:
            raise UnreadableMessage(message.unreadable.detail)
        body = message.body
        if body is not None:
            check_size(body, self._limits)
        message = self._with_text(message)
        if not self._trusted:
            for name, _ in message.headers:
                if name.startswith(RESERVED_HEADER_PREFIX):
                    message = _without_reserved(message)
                    break
        envelope = self._codec.decode(message, position)
        if self._computed:
            envelope = self._compute(envelope, message, position)
        if self._trusted:
            message_id = provenance.read(message).message_id
            if message_id:
                envelope = replace(envelope, message_id=message_id)
        if len(envelope.message_id) > IDENTITY_LIMIT:
            envelope = replace(envelope, message_id=_hash(envelope.message_id))
        if self._upcast is not None and body is not None:
            envelope = self._upcast(envelope)
        if self._schema is not None and body is not None:
            self._schema.validate(envelope.data)
        return envelope

    def _compute(self, envelope: Envelope, message: Message, position: Position) -> Envelope:
        # One object for all expressions: each conversion happens once
        variables = self._scope(
            headers=envelope.headers,
            key=envelope.key,
            topic=position.topic,
            partition=position.partition,
            offset=position.offset,
            timestamp=envelope.timestamp,
            message_id=message.message_id,
            payload=envelope.data,
            message=message,
        )
        changes: dict[str, Any] = {}
        extensions: dict[str, Any] | None = None
        for name, expression in self._attributes:
            value = expression(variables)
            if name in REQUIRED:
                changes[name] = _required(name, value)
            elif name in OPTIONAL:
                text = None if value is None else _text(name, value)
                changes[name] = _time(text) if name == "time" else text
            else:
                if extensions is None:
                    extensions = dict(envelope.extensions)
                if value is None:
                    extensions.pop(name, None)
                else:
                    extensions[name] = _extension(name, value)
        if extensions is not None:
            changes["extensions"] = extensions
        if self._identity is not None:
            identity = self._identity(variables)
            if not identity:
                raise ExpressionError("the source's identity is empty for this message", "the source's identity")
            changes["message_id"] = identity
        return replace(envelope, **changes)


def attribute_problem(name: str) -> str | None:
    """Problem of a name under a source's `attributes:`, for checking a configuration; None for a valid name."""
    if name in REQUIRED or name in OPTIONAL:
        return None
    if name in ("specversion", "data", "headers", "key", "topic", "payload"):
        return f"{name} cannot be set as an attribute"
    try:
        check_name(name)
    except DecodeError:
        return "the name of an attribute is made of a-z and 0-9"
    return None


def _without_reserved(message: Message) -> Message:
    return replace(
        message,
        headers=tuple(header for header in message.headers if not header[0].startswith(RESERVED_HEADER_PREFIX)),
    )


def _hash(identity: str) -> str:
    return "sha256:" + sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()


def _place(name: str) -> str:
    return f"the source's attribute {name}"


def _required(name: str, value: Any) -> str:
    text = "" if value is None else _text(name, value)
    if not text:
        raise ExpressionError(f"{_place(name)} is empty for this message", _place(name))
    return text


def _text(name: str, value: Any) -> str:
    """Text of an attribute's value. Numbers are rendered, whole ones without a fraction. Raises: ExpressionError."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    raise ExpressionError(f"{_place(name)} gives {type(value).__name__}, not text", _place(name))


def _time(text: str | None) -> str | None:
    try:
        return check_time(text)
    except DecodeError:
        place = _place("time")
        raise ExpressionError(f"{place} gives no RFC 3339 timestamp for this message", place) from None


def _extension(name: str, value: Any) -> str | int | bool:
    return value if isinstance(value, str | int | bool) else _text(name, value)
