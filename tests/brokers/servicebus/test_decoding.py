"""AMQP values at every place of a message: decoded, or named; no exception, and always a sequence number."""

from __future__ import annotations

import random
import time
import uuid
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.brokers.servicebus.amqp import decoding
from bridge.brokers.servicebus.amqp import values as amqp_values
from bridge.brokers.servicebus.amqp.values import decimal
from tests.brokers.servicebus import poison
from tests.servicebus.server.amqp import encoder
from tests.servicebus.server.amqp.encoder import NULL, described, mapping, sequence, string
from tests.servicebus.server.message import APPLICATION_PROPERTIES, DATA, PROPERTIES, VALUE, Message

assert amqp_values.extend_decoders()

NUMBERS = [Decimal(text) for text in ("0", "12.5", "-0.01", "1234567")]
PRECISE = Decimal("-9007199254740993.123456789012345678")


def with_property(value: bytes) -> bytes:
    return described(APPLICATION_PROPERTIES, mapping([(string("k"), value), (string("ok"), string("yes"))]))


def delivered(message: Message) -> bytes:
    message.sequence_number = 77
    return message.encode()


@pytest.mark.parametrize(
    ("encoded", "value"),
    [
        (poison.char("ä"), "ä"),
        (poison.char("😀"), "😀"),
        *((poison.decimal(number, width), number) for number in NUMBERS for width in (4, 8, 16)),
        (poison.decimal(PRECISE, 16), PRECISE),
        (bytes.fromhex("74 6cb8967f"), Decimal(9999999)),  # the form for coefficients that begin with 0b100
        (bytes.fromhex("74 78000000"), Decimal("Infinity")),
        (bytes.fromhex("84 f800000000000000"), Decimal("-Infinity")),
        (b"\x00" + string("their:type") + poison.char("x"), "x"),
        (poison.array(b"\x73", [b"\0\0\0a", b"\0\0\0b"]), ["a", "b"]),
        (mapping([(poison.char("k"), poison.char("v"))]), {"k": "v"}),
        (poison.nested(3, poison.char("z")), [[["z"]]]),
    ],
)  # fmt: skip
def test_values_that_the_sdk_does_not_know(encoded: bytes, value: Any) -> None:
    message = decoding.decode(with_property(encoded))
    assert message.fault is None
    assert message.application_properties == {b"k": value, b"ok": b"yes"}


def test_no_number_and_coefficients_that_are_too_large() -> None:
    assert decimal(bytes.fromhex("7c000000")).is_nan()
    assert decimal(bytes.fromhex("6fffffff")) == 0  # as in IEEE 754


@pytest.mark.parametrize("kind", sorted(poison.UNREADABLE))
def test_what_cannot_be_decoded_is_named_and_the_rest_is_kept(kind: str) -> None:
    value = poison.UNREADABLE[kind](random.Random(1))
    message = decoding.decode(with_property(value))
    assert message.fault is not None
    assert message.fault.raw == with_property(value)
    assert message.application_properties == {b"ok": b"yes"}
    body = decoding.decode(described(VALUE, sequence([value])) + described(0x72, mapping([])))
    assert body.fault is not None
    assert "body" in body.fault.detail


def test_the_number_is_found_beside_an_annotation_that_cannot_be_decoded() -> None:
    """Senders may set their own annotations, which the bridge does not need."""
    own = (encoder.symbol("x-theirs"), poison.nested(70))
    number = (encoder.symbol("x-opt-sequence-number"), encoder.int64(5))
    for pairs in ([own, number], [number, own]):
        message = decoding.decode(described(0x72, mapping(pairs)))
        assert (message.fault, message.message_annotations) == (None, {b"x-opt-sequence-number": 5})


def test_annotations_of_the_wrong_type_are_none() -> None:
    pairs = [
        (encoder.symbol("x-opt-sequence-number"), string("five")),
        (encoder.symbol("x-opt-locked-until"), encoder.timestamp(2**62)),
        (encoder.symbol("x-opt-enqueued-time"), string("yesterday")),
    ]
    assert decoding.decode(described(0x72, mapping(pairs))).message_annotations == {}


def test_whether_the_key_is_hurt() -> None:
    fields = [NULL] * 13
    fields[10] = string("key")
    fields[2] = poison.nested(70)
    message = decoding.decode(described(PROPERTIES, sequence(fields)))
    assert message.properties.group_id == b"key"
    assert message.fault is not None
    assert message.fault.key_known
    fields[10] = poison.nested(70)
    fault = decoding.decode(described(PROPERTIES, sequence(fields))).fault
    assert fault is not None
    assert not fault.key_known
    fault = decoding.decode(b"\x00\x53\x73\xd0\x00\x00\x00\xff").fault
    assert fault is not None
    assert not fault.key_known


@pytest.mark.parametrize("descriptor", [b"\x80" + (0x75).to_bytes(8), encoder.symbol("amqp:data:binary")])
def test_descriptors_in_their_long_forms(descriptor: bytes) -> None:
    message = decoding.decode(b"\x00" + descriptor + encoder.binary(b"x"))
    assert (message.fault, message.data) == (None, [b"x"])


@pytest.mark.parametrize(
    "payload",
    [
        described(0x7A, NULL),
        string("no section"),
        described(DATA, string("x"))[:-2],
        described(VALUE, b"\x10"),
        described(APPLICATION_PROPERTIES, mapping([(string("k"), b"\x10")])),
        described(DATA, sequence([NULL])),
        described(PROPERTIES, sequence([NULL] * 14)),
        described(PROPERTIES, mapping([])),
        described(APPLICATION_PROPERTIES, sequence([])),
        b"\x00" * 5000,
    ],
)
def test_broken_structures(payload: bytes) -> None:
    assert decoding.decode(payload).fault is not None


def test_a_bomb_is_bounded() -> None:
    """A few bytes that represent millions of values."""
    bomb = sequence([poison.array(b"\x40", [b""] * 65_000)] * 20_000)
    large = sequence([b"\x45"] * 60_000)
    begun = time.monotonic()
    assert decoding.decode(described(VALUE, bomb)).fault is not None
    assert decoding.decode(described(VALUE, sequence([large] * 20))).fault is not None
    assert time.monotonic() - begun < 5


@given(st.binary(max_size=200))
def test_any_bytes(payload: bytes) -> None:
    decoding.decode(payload)


@given(st.randoms(use_true_random=False), st.booleans())
def test_any_message(r: random.Random, session: bool) -> None:
    message = decoding.decode(delivered(poison.healthy("k", 1, r, session)))
    assert message.fault is None
    assert message.message_annotations[b"x-opt-sequence-number"] == 77
    message = decoding.decode(delivered(poison.unreadable("k", 1, r, session)))
    assert message.fault is not None
    assert message.message_annotations[b"x-opt-sequence-number"] == 77
    assert message.fault.key_known


@given(st.randoms(use_true_random=False))
def test_any_message_with_one_byte_changed(r: random.Random) -> None:
    payload = bytearray(delivered(poison.healthy("k", 1, r, True)))
    payload[r.randrange(len(payload))] = r.randrange(256)
    decoding.decode(bytes(payload))


def test_delivery_annotations_are_passed_over_where_the_lock_is_named_already() -> None:
    token = uuid.UUID(int=7)
    raw = described(0x71, mapping([(encoder.symbol("x-opt-lock-token"), encoder.guid(token))])) + with_property(
        string("x")
    )
    whole, named = decoding.decode(raw), decoding.decode(raw, named=True)
    assert whole.delivery_annotations == {b"x-opt-lock-token": token}
    assert named.delivery_annotations is None
    assert whole.application_properties == named.application_properties
    assert decoding.has_token(token.bytes_le, named)
    assert decoding.has_token(b"7", whole)
    assert not decoding.has_token(b"7", named)


def test_a_message_that_is_cut_anywhere_is_unreadable_or_has_lost_whole_sections() -> None:
    raw = with_property(string("x")) + described(0x72, mapping([])) + described(PROPERTIES, sequence([string("id")]))
    ends = {len(with_property(string("x"))), len(with_property(string("x"))) + len(described(0x72, mapping([]))), 0}
    assert {cut for cut in range(len(raw)) if decoding.decode(raw[:cut]).fault is None} == ends
