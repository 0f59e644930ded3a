"""Header values in AMQP's encoding, as Azure Event Hubs delivers them on its Kafka endpoint for AMQP senders.

Event Hubs leaves the values encoded: `a1 03 61 62 63` for the string `abc`. Pure.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any
from uuid import UUID

from bridge.codecs.numbers import single_to_json
from bridge.core.bytetext import amqp_binary, amqp_timestamp
from bridge.core.message import Headers


def decode_headers(headers: Headers) -> Headers:
    """Headers with their values as text for an AMQP sender; the same headers for any other sender.

    One or a few letters may be both text and an AMQP value (`A` is `true`). Headers count as AMQP when at least one
    value is exactly one AMQP value and not printable text. Then every value that is an AMQP value is decoded.
    """
    found = [(name, value, None if value is None else _decode(name, value)) for name, value in headers]
    if not any(decoded is not None and value is not None and not _is_text(value) for _, value, decoded in found):
        return headers
    return tuple((name, value if decoded is None else decoded[0]) for name, value, decoded in found)


def _is_text(value: bytes) -> bool:
    try:
        return value.decode().isprintable()
    except UnicodeDecodeError:
        return False


def _decode(name: str, value: bytes) -> tuple[bytes | None] | None:
    """Text of exactly one primitive AMQP value; None for anything else."""
    if not value:
        return None
    code, rest = value[0], value[1:]
    if code in _CONSTANTS:
        return (_CONSTANTS[code],) if not rest else None
    if code == _BOOLEAN and rest not in (b"\0", b"\1"):
        return None
    if code in _NUMBERS:
        form, convert = _NUMBERS[code]
        return (convert(struct.unpack(form, rest)[0]).encode(),) if len(rest) == struct.calcsize(form) else None
    size = {0xA: 1, 0xB: 4}.get(code >> 4)
    if size is None or int.from_bytes(rest[:size]) != len(rest) - size or len(rest) < size:
        return None
    content = rest[size:]
    if code & 0xF == 0:
        return (amqp_binary(name, content),)
    if code & 0xF not in (1, 3):
        return None
    try:
        content.decode()
    except UnicodeDecodeError:
        return None
    return (content,)


_BOOLEAN = 0x56
_CONSTANTS: dict[int, bytes | None] = {0x40: None, 0x41: b"true", 0x42: b"false", 0x43: b"0", 0x44: b"0"}
_NUMBERS: dict[int, tuple[str, Callable[[Any], str]]] = {
    0x50: (">B", str), 0x51: (">b", str), 0x52: (">B", str), 0x53: (">B", str), 0x54: (">b", str), 0x55: (">b", str),
    _BOOLEAN: (">?", lambda value: "true" if value else "false"), 0x60: (">H", str), 0x61: (">h", str),
    0x70: (">I", str), 0x71: (">i", str), 0x72: (">f", lambda value: str(single_to_json(value))),
    0x80: (">Q", str), 0x81: (">q", str), 0x82: (">d", str), 0x83: (">q", amqp_timestamp),
    0x98: (">16s", lambda value: str(UUID(bytes=value))),
}  # fmt: skip
"""Layout of the value and its conversion to text, by constructor. Decimals and characters are left unchanged."""
