"""Structured content mode: the whole event is one JSON object."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from bridge.codecs.cloudevents.attributes import (
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
from bridge.codecs.header_attributes import binary_key, binary_text, text_key
from bridge.codecs.limits import parse_json, write_json
from bridge.config.model.sources import LimitsConfig
from bridge.core.errors import DecodeError
from bridge.core.message import Envelope, Event, Message, Position

MEDIA = "application/cloudevents+json"

_ABSENT = object()


def decode_structured(message: Message, position: Position, headers: dict[str, str], limits: LimitsConfig) -> Envelope:
    """Decode an event in structured mode. Raises: DecodeError."""
    if message.body is None:
        raise DecodeError("the message has neither a body nor ce_ headers, so it is no CloudEvent")
    event = parse_json(message.body, limits)
    if type(event) is not dict:
        if type(event) is list:
            raise DecodeError("the body is a JSON array; batches are not supported, send one CloudEvent a message")
        raise DecodeError("the body is JSON but not an object, so it is no CloudEvent")
    pop = event.pop
    version = pop("specversion", _ABSENT)
    if version is _ABSENT:
        raise DecodeError(
            "the body has no specversion and the message has no ce_ headers, so it is no CloudEvent "
            "(plain JSON is read with codec: json)"
        )
    check_version(version)
    id_ = check_required(pop("id", None), "id")
    source = check_source(pop("source", None))
    type_ = check_required(pop("type", None), "type")
    subject = check_optional(pop("subject", None), "subject")
    time = check_time(pop("time", None))
    content_type = check_optional(pop("datacontenttype", None), "datacontenttype")
    schema = check_optional(pop("dataschema", None), "dataschema")
    data = pop("data", None)
    encoded = pop("data_base64", None)
    if encoded is not None:
        if data is not None:
            raise DecodeError("the CloudEvent has both data and data_base64")
        data = _decode_base64(encoded, content_type, limits)
    elif content_type is not None:
        parse_content_type(content_type)
    # The remaining members are extensions, and no other object shares this dict
    if event:
        for name in [name for name, value in event.items() if value is None]:
            del event[name]
        for name, value in event.items():
            check_extension(name, value)
    return Envelope(
        identity(source, id_),
        id_,
        source,
        type_,
        data,
        position,
        subject,
        time,
        content_type,
        schema,
        event,
        headers,
        text_key(message.key),
        message.timestamp,
        message,
    )


def _decode_base64(text: Any, content_type: str | None, limits: LimitsConfig) -> Any:
    if type(text) is not str:
        raise DecodeError("the CloudEvent member data_base64 is not a string")
    try:
        body = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise DecodeError("the CloudEvent member data_base64 is not valid base64") from None
    return body if content_type is None else decode_data(body, parse_content_type(content_type), limits)


def encode_structured(event: Event) -> Message:
    """Encode an event in structured mode. Bytes become data_base64, None is left out, all other data is JSON. Raises:
    DecodeError.
    """
    document: dict[str, Any] = dict(event_attributes(event))
    if isinstance(event.data, bytes):
        document["datacontenttype"] = "application/octet-stream"
        document["data_base64"] = base64.b64encode(event.data).decode()
    elif event.data is not None:
        document["datacontenttype"] = "application/json"
        document["data"] = event.data
    key = event.key if event.key is not None else event.extensions.get("partitionkey")
    headers = {**event.headers, "content-type": MEDIA}
    return Message(
        write_json(document),
        key=binary_key(key),
        headers=tuple((name, binary_text(value, f"header {name}")) for name, value in headers.items()),
        message_id=event.id,
        content_type=MEDIA,
    )
