"""Conversion of messages between AMQP and the bridge. Pure."""

from __future__ import annotations

import datetime
import math
import uuid
from collections.abc import Iterable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import orjson
from azure.servicebus import ServiceBusMessage, ServiceBusReceivedMessage
from azure.servicebus.amqp import AmqpAnnotatedMessage, AmqpMessageBodyType, AmqpMessageProperties

from bridge.brokers.servicebus import dead_letters
from bridge.brokers.servicebus.amqp import decoding
from bridge.brokers.servicebus.amqp.values import Binary, Timestamp
from bridge.core.bytetext import MARK, amqp_binary, amqp_timestamp, bytes_of, is_cloudevents_attribute, text_of
from bridge.core.errors import PublishFailed
from bridge.core.message import Message, Unreadable

PROPERTIES = {
    "subject": "subject",
    "correlation_id": "correlation_id",
    "to": "to",
    "reply_to": "reply_to",
    "reply_to_session_id": "reply_to_group_id",
}
"""Properties that become headers `servicebus.subject` and so on, in both directions, with their AMQP names."""

_ENQUEUED, _PARTITION_KEY = b"x-opt-enqueued-time", b"x-opt-partition-key"

_TIMES = ("cloudEvents:time", "cloudEvents_time")

_PLAIN = 40
"""Most zeros of a decimal that are written out."""

PREFIX = "servicebus."
CONTENT_TYPE = "content-type"
TOMBSTONE = PREFIX + "tombstone"
"""Property of an empty message that stands for one without a body, which AMQP does not have."""
SESSION_LIMIT = 128
"""Most characters of a session id, partition key or message id, as the service allows."""


def received(raw: ServiceBusReceivedMessage, key: bytes | None = None) -> Message:
    """Convert a received message. Never raises.

    Application properties become headers, with numbers and dates as text. The session id becomes the key. key: of the
    session in which the message came. A message that cannot be decoded has `unreadable` set, and its whole encoded form
    as body.
    """
    fault = decoding.fault(raw)
    try:
        message = read(raw.raw_amqp_message)
    except Exception as error:
        detail = f"the AMQP message holds what has no place in a message of the bridge ({type(error).__name__})"
        message = Message(decoding.encoded(raw), None, (), unreadable=Unreadable("amqp_value", detail, key is not None))
    if fault is not None:
        unreadable = Unreadable(fault.word, fault.detail, fault.key_known or key is not None)
        message = replace(message, body=fault.raw, unreadable=unreadable)
    return message if key is None else replace(message, key=key)


def read(amqp: AmqpAnnotatedMessage) -> Message:
    """Read a message directly from its AMQP form, because every property of the SDK's own message searches all
    properties.
    """
    headers: list[tuple[str, bytes | None]] = []
    application = amqp.application_properties
    if application:
        for name, value in application.items():
            text = _text(name)
            if text != TOMBSTONE:
                headers.append((text, None if value is None else _bytes(typed(text, value))))
        if dead_letters.REASON in application or dead_letters.REASON.encode() in application:
            headers = dead_letters.unfold(tuple(headers))
    key = message_id = content_type = None
    properties = amqp.properties
    if properties is not None:
        key = properties.group_id
        if properties.content_type is not None:
            content_type = _text(properties.content_type)
            headers.append((CONTENT_TYPE, content_type.encode()))
        if properties.message_id is not None:
            message_id = _text(properties.message_id)
        for name, field in PROPERTIES.items():
            value = getattr(properties, field)
            if value is not None:
                headers.append((PREFIX + name, _bytes(value)))
    annotations: dict[Any, Any] = amqp.annotations or {}
    arrived = annotations.get(_ENQUEUED)
    partition_key = annotations.get(_PARTITION_KEY)
    body = _body(amqp)
    return Message(
        None if not body and application and (TOMBSTONE in application or TOMBSTONE.encode() in application) else body,
        None if key is None else _bytes(key),
        tuple(headers),
        None if arrived is None else arrived / 1000,
        message_id,
        content_type,
        None if partition_key is None else _text(partition_key),
    )


def header(name: str | bytes, value: Any) -> tuple[str, bytes | None]:
    """Header for an application property."""
    text = _text(name)
    return text, None if value is None else _bytes(typed(text, value))


def typed(name: str, value: Any) -> Any:
    """Application property, as text where only its AMQP type shows its meaning.

    Attributes of CloudEvents get the canonical form of their type, according to section 3.1.3.2 of the AMQP binding.
    """
    if isinstance(value, Timestamp):
        return amqp_timestamp(value)
    if isinstance(value, bytes):
        if isinstance(value, Binary) or (is_cloudevents_attribute(name) and not _is_text(value)):
            return amqp_binary(name, bytes(value))
    elif type(value) is int and name in _TIMES:
        return amqp_timestamp(value)
    return value


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def field(name: str, value: Any) -> bytes:
    """Header value for a field of the properties section."""
    return _text(value).encode() if name == "content_type" else _bytes(value)


def _body(amqp: AmqpAnnotatedMessage) -> bytes | None:
    kind, body = amqp.body_type, amqp.body
    if kind is AmqpMessageBodyType.DATA:
        return b"".join(body)
    if kind is AmqpMessageBodyType.VALUE:
        return None if body is None else _bytes(body)
    return orjson.dumps([_plain(part) for part in body])


def _bytes(value: Any) -> bytes:
    match value:
        case bytes():
            return bytes(value)
        case str():
            return value.encode()
        case bool():
            return b"true" if value else b"false"
        case int() | float() | uuid.UUID():
            return str(value).encode()
        case Decimal():
            return _decimal(value).encode()
        case datetime.datetime():
            return value.isoformat().encode()
        case None:
            return b""
        case _:
            return orjson.dumps(_plain(value))


def _plain(value: Any) -> Any:
    """JSON types for a value within a list or map. Raises: ValueError for a value that JSON would change."""
    match value:
        case bytes():
            return text_of(value)
        case dict():
            found = {_text(name): _plain(part) for name, part in value.items()}
            if len(found) < len(value):
                raise ValueError("keys of a map differ only in their AMQP type")
            return found
        case list() | tuple():
            return [_plain(part) for part in value]
        case None | str() | bool() | int():
            return value
        case float():
            if not math.isfinite(value):
                raise ValueError("JSON has no NaN or infinity")
            return float(value)  # also where the SDK has a class of its own, for a described one
        case Decimal():
            return _decimal(value)
        case _:
            return str(value)


def _decimal(value: Decimal) -> str:
    """Text of a decimal, without an exponent where this is not long."""
    return f"{value:f}" if value.is_finite() and abs(int(value.as_tuple().exponent)) <= _PLAIN else str(value)


def _text(value: Any) -> str:
    """Text of an id or name. The client reads strings and binary alike as bytes, and the AMQP type is not kept."""
    return text_of(value) if isinstance(value, bytes) else str(value)


def outgoing(message: Message, cloudevents_prefix: str = "cloudEvents_") -> ServiceBusMessage:
    """Convert a message for sending.

    Headers become application properties, as text where they are UTF-8. The Kafka prefix `ce_` of CloudEvents
    attributes is replaced. A message without a body is sent as an empty one with the property `servicebus.tombstone`.
    cloudevents_prefix: replaces `ce_`. Raises: PublishFailed when a key or a header cannot be carried.
    """
    given: dict[str, Any] = {}
    properties: dict[str | bytes, Any] = {}
    content_type = message.content_type
    for name, value in message.headers:
        if value is None:
            properties[name] = None
        elif name.lower() == CONTENT_TYPE:
            content_type = content_type or text_of(value)
        elif name.startswith(PREFIX) and name[len(PREFIX) :] in PROPERTIES:
            given[name[len(PREFIX) :]] = _given(name[len(PREFIX) :], value)
        else:
            if name.startswith("ce_"):
                name = cloudevents_prefix + name[3:]
            properties[name] = _property(value)
    if message.body is None:
        properties[TOMBSTONE] = True
    if message.key is not None:
        given["session_id"] = _identifier("key", message.key)
    if message.partition_key is not None and message.key is None:
        given["partition_key"] = _identifier("partition key", message.partition_key.encode())
    if message.time_to_live is not None:
        given["time_to_live"] = datetime.timedelta(seconds=message.time_to_live)
    if message.enqueue_at is not None:
        given["scheduled_enqueue_time_utc"] = datetime.datetime.fromtimestamp(message.enqueue_at, datetime.UTC)
    sent = ServiceBusMessage(
        message.body or b"", application_properties=properties or None, content_type=content_type, **given
    )
    if message.message_id is not None:
        _identify(sent, message.message_id)
    return sent


def _identify(sent: ServiceBusMessage, message_id: str) -> None:
    """Set the message id: text, or AMQP binary where its bytes are not UTF-8. Raises: PublishFailed."""
    data = bytes_of(message_id)
    if text_of(data) != message_id or MARK not in message_id:
        sent.message_id = _identifier("message id", message_id.encode())
    elif len(data) > SESSION_LIMIT:
        raise PublishFailed(f"the message id has {len(data)} bytes; Service Bus allows 1 to {SESSION_LIMIT}")
    else:
        # The SDK's own property accepts text only
        properties = sent.raw_amqp_message.properties or AmqpMessageProperties()
        properties.message_id = data
        sent.raw_amqp_message.properties = properties


def _given(name: str, value: bytes) -> str | bytes:
    """Value of a message property as text. A correlation id that is not UTF-8 stays binary."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value if name == "correlation_id" else text_of(value)


def _property(value: bytes) -> str | bytearray:
    try:
        return value.decode()
    except UnicodeDecodeError:
        # Given bytes, the SDK would decode them too, and fail
        return bytearray(value)


def _identifier(what: str, value: bytes) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise PublishFailed(f"the {what} is not UTF-8 text, which Service Bus requires") from None
    if not 1 <= len(text) <= SESSION_LIMIT:
        raise PublishFailed(f"the {what} has {len(text)} characters; Service Bus allows 1 to {SESSION_LIMIT}")
    return text


def runs(messages: Iterable[Message]) -> list[list[Message]]:
    """Messages grouped for batches, in order: a partitioned entity requires one session or partition key in each
    batch.
    """
    found: dict[tuple[bytes | None, str | None], list[Message]] = {}
    for message in messages:
        found.setdefault((message.key, message.partition_key), []).append(message)
    return list(found.values())
