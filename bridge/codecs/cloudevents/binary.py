"""Binary content mode: attributes are headers, the body is the data (Kafka and AMQP protocol bindings)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from bridge.codecs.cloudevents.attributes import (
    CORE,
    check_extension,
    check_optional,
    check_required,
    check_source,
    check_time,
    check_version,
    event_attributes,
    identity,
)
from bridge.codecs.content_type import decode_data, parse_content_type
from bridge.codecs.header_attributes import binary_key, binary_text, plain_envelope, text_headers, text_key
from bridge.codecs.limits import write_json
from bridge.config.model.sources import LimitsConfig
from bridge.core.bytetext import MARK
from bridge.core.errors import DecodeError
from bridge.core.message import Envelope, Event, Headers, Message, Position

PREFIXES = ("ce_", "cloudEvents:", "cloudEvents_")
_JSON = "application/json"


def attributes_of(message: Message, headers: dict[str, str]) -> dict[str, str]:
    """Attributes found in the headers, by name without prefix; empty when this is not binary mode.

    headers: those of the message as text, as `text_headers` makes it. Raises: DecodeError when an attribute is not
    valid UTF-8.
    """
    found: dict[str, str] = {}
    for header, text in headers.items():
        if header.startswith(PREFIXES):
            if MARK in text:
                _check_utf8(message, header)
            found[header[3:] if header.startswith("ce_") else header[12:]] = text
    return found


def _check_utf8(message: Message, header: str) -> None:
    """Check the bytes of a header whose text contains the mark for non-UTF-8 bytes; a sender may also send the mark
    itself.
    """
    for name, value in message.headers:
        if name == header and value is not None:
            try:
                value.decode()
            except UnicodeDecodeError:
                raise DecodeError("a CloudEvent attribute in the headers is not valid UTF-8") from None


def decode_binary(
    message: Message,
    position: Position,
    attributes: dict[str, str],
    content_type: str | None,
    headers: dict[str, str],
    limits: LimitsConfig,
) -> Envelope:
    """Decode an event in binary mode. Without a content type the data is JSON, as in structured mode; an empty body is
    no data.

    Raises: DecodeError.
    """
    content_type = content_type or check_optional(attributes.get("datacontenttype"), "datacontenttype")
    data = _data(message.body, content_type, limits)
    return _envelope(message, position, attributes, content_type, headers, data)


def around(
    message: Message,
    position: Position,
    data: Any,
    content_type: str | None,
    more: Mapping[str, str] | None = None,
) -> Envelope:
    """Envelope for data that was decoded elsewhere.

    The attributes come from `ce_` headers where there are any, otherwise the envelope has the defaults of a message
    without an event format. more: further extensions. Raises: DecodeError.
    """
    headers = text_headers(message.headers)
    attributes = attributes_of(message, headers) if headers else None
    if attributes:
        envelope = _envelope(message, position, attributes, content_type, headers, data)
    else:
        envelope = plain_envelope(message, position, data, content_type)
    return replace(envelope, extensions={**envelope.extensions, **more}) if more else envelope


def _envelope(
    message: Message,
    position: Position,
    attributes: dict[str, str],
    content_type: str | None,
    headers: dict[str, str],
    data: Any,
) -> Envelope:
    get = attributes.get
    check_version(get("specversion"))
    id_ = check_required(get("id"), "id")
    source = check_source(get("source"))
    type_ = check_required(get("type"), "type")
    extensions: dict[str, Any] = {}
    for name, value in attributes.items():
        if name not in CORE:
            check_extension(name, value)
            extensions[name] = value
    return Envelope(
        identity(source, id_),
        id_,
        source,
        type_,
        data,
        position,
        check_optional(get("subject"), "subject"),
        check_time(get("time")),
        content_type,
        check_optional(get("dataschema"), "dataschema"),
        extensions,
        headers,
        text_key(message.key),
        message.timestamp,
        message,
    )


def _data(body: bytes | None, content_type: str | None, limits: LimitsConfig) -> Any:
    if body is None:
        return None
    parsed = parse_content_type(content_type or _JSON)
    if not body and parsed.kind == "json":
        return None
    return decode_data(body, parsed, limits)


def encode_binary(event: Event) -> Message:
    """Encode an event in binary mode. Bytes are written unchanged, all other data as JSON (None as `null`). Raises:
    DecodeError.
    """
    if isinstance(event.data, bytes):
        return message_around(event, event.data, "application/octet-stream")
    return message_around(event, write_json(event.data), _JSON)


def message_around(event: Event, body: bytes | None, content_type: str, more: Headers = ()) -> Message:
    """Message with the event's attributes as headers, and the headers `more`. Raises: DecodeError."""
    attributes = event_attributes(event)
    key = event.key if event.key is not None else event.extensions.get("partitionkey")
    headers = {**event.headers, "content-type": content_type}
    headers.update((f"ce_{name}", value) for name, value in attributes.items())
    return Message(
        body,
        key=binary_key(key),
        headers=(*((name, binary_text(value, f"header {name}")) for name, value in headers.items()), *more),
        message_id=event.id,
        content_type=content_type,
    )
