"""AMQP types that the SDK's decoder loses: timestamps become integers, and strings and binary alike become bytes.

This module extends the decoder to mark them. Where its table is not the known one, the marks are missing. The `time` of
a CloudEvent is then recognized by its name, and binary by not being UTF-8.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from azure.servicebus._pyamqp import _decode

from bridge.core import amqptext

_TIMESTAMP, _BINARY = 0x83, (0xA0, 0xB0)
_TIMES = ("cloudEvents:time", "cloudEvents_time")
_PROPERTIES_LIMIT = 65_536
"""Most bytes of a property; longer binary is a body, which needs no mark."""


class Timestamp(int):
    """AMQP timestamp in milliseconds since the epoch."""


class Binary(bytes):
    """AMQP binary, not a string."""


def header(name: str, value: Any) -> Any:
    """Application property, as text where only its AMQP type shows its meaning.

    Attributes of CloudEvents get the canonical form of their type, according to section 3.1.3.2 of the AMQP binding.
    """
    if isinstance(value, Timestamp):
        return amqptext.timestamp(value)
    if isinstance(value, bytes):
        if isinstance(value, Binary) or (amqptext.is_attribute(name) and not _is_text(value)):
            return amqptext.binary(name, bytes(value))
    elif type(value) is int and name in _TIMES:
        return amqptext.timestamp(value)
    return value


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def mark() -> bool:
    """Enter decoders that mark timestamps and binary into the SDK's table; False when it is not the known table."""
    table: Any = getattr(_decode, "_DECODE_BY_CONSTRUCTOR", None)
    if not isinstance(table, list) or len(table) != 256:
        return False
    for code in (_TIMESTAMP, *_BINARY):
        if not hasattr(table[code], "marks"):
            marking, kind = (_timestamps, Timestamp) if code == _TIMESTAMP else (_binary, Binary)
            table[code] = marking(table[code])
            table[code].marks = kind
    return True


def _timestamps(original: Callable[..., Any]) -> Callable[..., Any]:
    def decoder(buffer: memoryview, depth: int = 0) -> Any:
        rest, value = original(buffer, depth)
        return rest, Timestamp(value)

    return decoder


def _binary(original: Callable[..., Any]) -> Callable[..., Any]:
    def decoder(buffer: memoryview, depth: int = 0) -> Any:
        rest, value = original(buffer, depth)
        return rest, Binary(value) if len(value) <= _PROPERTIES_LIMIT else value

    return decoder


mark()
