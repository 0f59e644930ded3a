"""Messages of other senders' libraries: AMQP values of every type, at every place, valid and broken."""

from __future__ import annotations

import json
import random
import struct
import uuid
from collections.abc import Callable, Mapping
from decimal import Decimal

from tests.servicebus.server import ServiceBusServer
from tests.servicebus.server.amqp import encoder
from tests.servicebus.server.amqp.encoder import NULL, described, mapping, sequence, string
from tests.servicebus.server.message import APPLICATION_PROPERTIES, DATA, PROPERTIES, SEQUENCE, VALUE, Message

Random = random.Random

DEEPEST = 64
"""Nesting levels that the SDK decodes."""


def char(text: str) -> bytes:
    return b"\x73" + struct.pack(">I", ord(text))


def decimal(value: Decimal, width: int) -> bytes:
    """Encode a decimal in the binary integer format, for coefficients without a second form.

    width: 4, 8 or 16 bytes.
    """
    exponent_bits, bias = {4: (8, 101), 8: (10, 398), 16: (14, 6176)}[width]
    sign, digits, exponent = value.as_tuple()
    coefficient = int("".join(map(str, digits)))
    assert isinstance(exponent, int)
    bits = (sign << (width * 8 - 1)) | ((exponent + bias) << (width * 8 - 1 - exponent_bits)) | coefficient
    return {4: b"\x74", 8: b"\x84", 16: b"\x94"}[width] + bits.to_bytes(width)


def nested(levels: int, inner: bytes = NULL) -> bytes:
    """Encode nested lists."""
    for _ in range(levels):
        inner = sequence([inner])
    return inner


def array(constructor: bytes, elements: list[bytes]) -> bytes:
    data = struct.pack(">I", len(elements)) + constructor + b"".join(elements)
    return b"\xf0" + struct.pack(">I", len(data)) + data


def number(code: int, raw: bytes) -> bytes:
    """Encode a number from these bytes; a float or double is finite, since a list with infinity makes a message
    unreadable."""
    return bytes((code, raw[0] & 0xBF if code in (0x72, 0x82) else raw[0])) + raw[1:]


SCALARS: tuple[Callable[[Random], bytes], ...] = (
    lambda r: char(r.choice("Aä漢😀")),
    lambda r: decimal(Decimal(r.randrange(10**6)).scaleb(-2), 4),
    lambda r: decimal(Decimal(r.randrange(10**15)).scaleb(-5), 8),
    lambda r: decimal(-Decimal(r.randrange(10**33)).scaleb(-20), 16),
    lambda r: r.choice((NULL, b"\x41", b"\x42", b"\x43", b"\x44", b"\x45", b"\x56\x01")),
    lambda r: bytes((r.choice((0x50, 0x51, 0x52, 0x53, 0x54, 0x55)), r.randrange(256))),
    lambda r: bytes((r.choice((0x60, 0x61)),)) + r.randbytes(2),
    lambda r: number(r.choice((0x70, 0x71, 0x72)), r.randbytes(4)),
    lambda r: number(r.choice((0x80, 0x81, 0x82, 0x83)), r.randbytes(8)),
    lambda r: encoder.guid(uuid.UUID(int=r.getrandbits(128))),
    lambda r: encoder.binary(r.randbytes(r.choice((0, 3, 300)))),
    lambda r: string("ü" * r.choice((0, 3, 300))),
    lambda r: encoder.symbol("s" * r.choice((0, 3, 300))),
)


def readable(r: Random, levels: int = 4) -> bytes:
    """Encode a value of any AMQP type."""
    match r.randrange(8) if levels else 7:
        case 0:
            return sequence([readable(r, levels - 1) for _ in range(r.randrange(4))])
        case 1:
            return mapping([(string(f"k{n}"), readable(r, levels - 1)) for n in range(r.randrange(4))])
        case 2:
            return b"\x00" + r.choice((string("x:y"), encoder.ulong(r.getrandbits(40)))) + readable(r, levels - 1)
        case 3:
            return array(b"\x71", [r.randbytes(4) for _ in range(r.randrange(300))])
        case 4:
            return array(b"\x00" + string("x:z") + b"\xa1", [b"\x02ab"] * r.randrange(1, 4))
        case 5:
            return nested(r.randrange(40), readable(r, 0))
        case _:
            return r.choice(SCALARS)(r)


UNREADABLE: dict[str, Callable[[Random], bytes]] = {
    "unknown type": lambda r: r.choice((b"\x57\0", b"\x99" + bytes(16), b"\x8f" + bytes(8), b"\x62\0\0", b"\x47")),
    "too deep": lambda r: nested(r.choice((65, 100, 3000))),
    "too deep, described": lambda r: b"\x00\x53\x01" * r.choice((70, 3000)) + NULL,
    "no character": lambda r: b"\x73" + struct.pack(">I", r.choice((0xD800, 0x110000, 0xFFFFFFFF))),
    "a list for a key": lambda r: mapping([(sequence([NULL]), NULL)]),
    "half a pair": lambda r: b"\xc1\x02\x01\x40",
    "more elements than bytes": lambda r: b"\xd0" + struct.pack(">II", 4, 60_000),
    "too many elements": lambda r: b"\xd0" + struct.pack(">II", 4, 70_000),
    "an array of nothing": lambda r: array(b"\x40", [b""] * 60_000),
    "bytes behind the elements": lambda r: b"\xc0\x04\x01\x40\x40\x40",
    "an empty array of an unknown type": lambda r: array(b"\x99", [bytes(16)] * 2),
}

PLACES = ("property", "field", "body")
NO_MORE: Mapping[str, object] = {}


def healthy(key: str, number: int, r: Random, session: bool, payload: Mapping[str, object] = NO_MORE) -> Message:
    """Create a readable message that starts order-KEY-NUMBER under the rules of `bus_setup`.

    Properties have any type; some messages have an unreadable annotation or footer, which is harmless. payload:
    additional members of the body.
    """
    more = [(string("odd"), readable(r)), (readable_key(r), readable(r))]
    message = _message(key, number, session, more, payload)
    if r.random() < 0.2:
        rotten = UNREADABLE[r.choice(sorted(UNREADABLE))](r)
        if r.random() < 0.5:
            message.annotations.append((encoder.symbol("x-theirs"), rotten))
        else:
            message.footer = described(0x78, mapping([(encoder.symbol("sum"), rotten)]))
    return message


def readable_key(r: Random) -> bytes:
    return string(f"p{r.randrange(10)}")


def unreadable(key: str, number: int, r: Random, session: bool, kind: str | None = None) -> Message:
    """Create a message that cannot be decoded, with the broken value at one of PLACES."""
    value = UNREADABLE[kind or r.choice(sorted(UNREADABLE))](r)
    message = _message(key, number, session, [])
    match r.choice(PLACES):
        case "property":
            message.application_properties = described(
                APPLICATION_PROPERTIES, mapping([(string("type"), string("start")), (string("bad"), value)])
            )
        case "field":  # `to`, or `correlation-id`
            fields = [string(str(message.message_id)), *[NULL] * 12]
            fields[r.choice((2, 5))] = value
            if session:
                fields[10] = string(key)
            message.properties = described(PROPERTIES, sequence(fields))
        case _:
            message.body = described(r.choice((VALUE, SEQUENCE)), sequence([value]))
    return message


def _message(
    key: str, number: int, session: bool, more: list[tuple[bytes, bytes]], payload: Mapping[str, object] = NO_MORE
) -> Message:
    fields = [string(f"{key}-{number}"), *[NULL] * 12]
    if session:
        fields[10] = string(key)
    raw = described(PROPERTIES, sequence(fields))
    raw += described(APPLICATION_PROPERTIES, mapping([(string("type"), string("start")), *more]))
    raw += described(DATA, encoder.binary(json.dumps({"id": f"{key}-{number}", **payload}).encode()))
    return Message(raw)


def store(server: ServiceBusServer, entity: str, message: Message) -> int:
    """Store the message in a queue unchanged. Returns its sequence number."""
    return server.queue(entity).accept(message)
