"""Values of AMQP as the text of headers. Pure."""

from __future__ import annotations

import base64
from datetime import datetime, timedelta

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 -- the text says the zone
_CLOUDEVENTS = ("cloudEvents:", "cloudEvents_", "ce_")


def is_attribute(name: str) -> bool:
    """Tell whether a header is an attribute of a CloudEvent in binary mode."""
    return name.startswith(_CLOUDEVENTS)


def timestamp(milliseconds: int) -> str:
    """An AMQP timestamp as RFC 3339 in UTC; its number where RFC 3339 has no such year."""
    try:
        moment = _EPOCH + timedelta(milliseconds=milliseconds)
    except OverflowError:
        return str(milliseconds)
    return moment.isoformat(timespec="milliseconds").removesuffix(".000") + "Z"


def binary(name: str, value: bytes) -> bytes:
    """AMQP binary as a header: base64 in an attribute of a CloudEvent, as its specification says; else as it is."""
    return base64.b64encode(value) if is_attribute(name) else value
