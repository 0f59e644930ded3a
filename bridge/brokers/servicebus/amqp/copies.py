"""Copies of peeked messages. Parts without a place in a message of the bridge are kept in their encoded form."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

from azure.servicebus import ServiceBusMessage, ServiceBusReceivedMessage
from azure.servicebus.amqp import AmqpAnnotatedMessage

from bridge.brokers.servicebus import sdk_internals
from bridge.brokers.servicebus.amqp import decoding, encoding, messages
from bridge.brokers.servicebus.amqp.encoding import FIELDS, Parts, Raw
from bridge.brokers.servicebus.amqp.messages import CONTENT_TYPE, PREFIX, PROPERTIES, TOMBSTONE
from bridge.brokers.servicebus.amqp.values import value_of
from bridge.core.errors import PublishFailed
from bridge.core.message import Headers, Message

_PARTITION_KEY = b"x-opt-partition-key"
_MESSAGE_ID = FIELDS.index("message_id")
_SHOWN = {"content_type": CONTENT_TYPE} | {field: PREFIX + name for name, field in PROPERTIES.items()}
"""Fields that become headers, with the names of these headers."""


def read(raw: ServiceBusReceivedMessage) -> Message:
    """A peeked message. The encoded form is included where publishing the message without it would lose parts."""
    message = messages.received(raw)
    payload = decoding.encoded(raw)
    if payload is None or message.unreadable is not None or not encoding.extend_encoder():
        return message
    try:
        own = encoding.parse(payload)
    except ValueError:
        return message  # its annotations are broken, and nothing else uses them
    try:
        plain = _plain(messages.outgoing(replace(message, content_type=None)))
    except PublishFailed:
        plain = None
    return message if plain == own else replace(message, native=sdk_internals.encode(encoding.outgoing(own)))


def outgoing(message: Message, cloudevents_prefix: str) -> ServiceBusMessage:
    """See `messages.outgoing`. In a copy, parts that the message still has unchanged keep their encoded form.

    Raises: PublishFailed.
    """
    if message.native is None:
        return messages.outgoing(message, cloudevents_prefix)
    try:
        own = encoding.parse(message.native)
        decoded = decoding.decode(message.native)
        if decoded.fault is not None:
            raise ValueError(decoded.fault.detail)
        source = messages.read(AmqpAnnotatedMessage(message=decoded))
    except Exception as error:
        raise PublishFailed("the encoded form is not an AMQP message (amqp_base64)") from error
    same_body = source.body == message.body
    fields, application, headers = _unchanged(own, source, message)
    rest = replace(message, native=None, headers=headers, body=b"" if same_body else message.body)
    sent = messages.outgoing(rest, cloudevents_prefix)
    plain = _plain(sent)
    if source.message_id is None and message.message_id is None:
        plain.fields[_MESSAGE_ID] = None  # the SDK has generated one
    if source.partition_key != message.partition_key:
        own.annotations.pop(_PARTITION_KEY, None)
    parts = Parts(
        ttl=own.ttl if message.time_to_live is None else plain.ttl,
        annotations=plain.annotations | own.annotations,
        fields=[mine or other for mine, other in zip(fields, plain.fields, strict=True)],
        application=application | {name: value for name, value in plain.application.items() if name not in application},
        body=own.body if same_body else plain.body,
        footer=own.footer,
    )
    amqp: Any = sent.raw_amqp_message
    amqp.encoded = encoding.outgoing(parts)
    return sent


def _plain(sent: ServiceBusMessage) -> Parts:
    """Parts of a message as the SDK sends it."""
    return encoding.parse(sdk_internals.encode(sdk_internals.to_amqp(sent.raw_amqp_message)))


def _unchanged(own: Parts, source: Message, message: Message) -> tuple[list[Raw | None], dict[Any, Raw], Headers]:
    """Fields and application properties that the message still has unchanged, and the remaining headers.

    source: the message as it was read. Parts that it did not show are kept.
    """
    shown, left = Counter(source.headers), Counter(message.headers)

    def is_kept(header: tuple[str, bytes | None]) -> bool:
        if not shown[header]:
            return header[0] != TOMBSTONE or source.body == message.body
        shown[header] -= 1
        left[header] -= 1
        if left[header] < 0:
            del left[header]  # it was changed or removed
            return False
        return True

    application = {
        name: value
        for name, value in own.application.items()
        if is_kept(messages.header(name, value_of(memoryview(value))))
    }
    fields = list(own.fields)
    for number, value in enumerate(own.fields):
        name = FIELDS[number]
        if value is None:
            continue
        if name == "message_id":
            kept = source.message_id == message.message_id
        elif name == "group_id":
            kept = source.key == message.key
        elif name in _SHOWN:
            kept = is_kept((_SHOWN[name], messages.field(name, value_of(memoryview(value)))))
        else:
            kept = True
        if not kept:
            fields[number] = None
    # Some headers come from parts with other names, such as the cause of a dead letter from its description
    left -= +shown
    found = []
    for header in message.headers:
        if left[header] > 0:
            left[header] -= 1
            found.append(header)
    return fields, application, tuple(found)
