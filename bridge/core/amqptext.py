"""Text of AMQP values for headers. Pure."""

from __future__ import annotations

import base64
from datetime import datetime, timedelta

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 -- the text says the zone
_CLOUDEVENTS = ("cloudEvents:", "cloudEvents_", "ce_")


def is_attribute(name: str) -> bool:
    """Report if a header is an attribute of a CloudEvent in binary mode."""
    return name.startswith(_CLOUDEVENTS)


def timestamp(milliseconds: int) -> str:
    """Format an AMQP timestamp as RFC 3339 in UTC; as its number where RFC 3339 has no such year."""
    try:
        moment = _EPOCH + timedelta(milliseconds=milliseconds)
    except OverflowError:
        return str(milliseconds)
    return moment.isoformat(timespec="milliseconds").removesuffix(".000") + "Z"


def binary(name: str, value: bytes) -> bytes:
    """Header value of AMQP binary: base64 in a CloudEvent attribute (by its specification), else unchanged."""
    return base64.b64encode(value) if is_attribute(name) else value
