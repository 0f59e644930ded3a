"""AMQP codec against published encodings, against itself, and against random bytes."""

from __future__ import annotations

import contextlib
import struct
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.servicebus.server.amqp import encoder
from tests.servicebus.server.amqp.decoder import decode, elements, pairs, skip
from tests.servicebus.server.amqp.encoder import EMPTY_LIST
from tests.servicebus.server.amqp.values import Described, Malformed, Symbol

# AMQP 1.0 part 1: the tables of the primitive types, and the two worked examples
BOOK = b"".join(
    [
        b"\x00\xa3\x11example:book:list\xc0\x40\x03",
        b"\xa1\x15AMQP for & by Dummies",
        b"\xe0\x25\x02\xa1\x0eRob J. Godfrey\x13Rafael H. Schloming",
        b"\x40",
    ]
)
PUBLISHED: list[tuple[str, bytes, Any]] = [
    ("null", b"\x40", None),
    ("true", b"\x41", True),
    ("false", b"\x42", False),
    ("boolean true", b"\x56\x01", True),
    ("boolean false", b"\x56\x00", False),
    ("ubyte", b"\x50\xff", 255),
    ("ushort", b"\x60\x01\x02", 258),
    ("uint", b"\x70\x00\x01\x00\x00", 65_536),
    ("smalluint", b"\x52\x80", 128),
    ("uint0", b"\x43", 0),
    ("ulong", b"\x80\xff\xff\xff\xff\xff\xff\xff\xff", 2**64 - 1),
    ("smallulong", b"\x53\x10", 16),
    ("ulong0", b"\x44", 0),
    ("byte", b"\x51\x80", -128),
    ("short", b"\x61\xff\xfe", -2),
    ("int", b"\x71\x80\x00\x00\x00", -(2**31)),
    ("smallint", b"\x54\xff", -1),
    ("long", b"\x81\x80\x00\x00\x00\x00\x00\x00\x00", -(2**63)),
    ("smalllong", b"\x55\x7f", 127),
    ("float", b"\x72\x3f\x80\x00\x00", 1.0),
    ("double", b"\x82\xc0\x00\x00\x00\x00\x00\x00\x00", -2.0),
    ("decimal32", b"\x74\x22\x50\x00\x01", b"\x22\x50\x00\x01"),
    ("decimal64", b"\x84" + bytes(8), bytes(8)),
    ("decimal128", b"\x94" + bytes(16), bytes(16)),
    ("char", b"\x73\x00\x01\xf6\x00", "😀"),
    ("timestamp", b"\x83\x00\x00\x01\x31\x1f\x6c\x2a\x00", 0x1311F6C2A00),
    ("uuid", b"\x98" + bytes(range(16)), uuid.UUID("00010203-0405-0607-0809-0a0b0c0d0e0f")),
    ("vbin8", b"\xa0\x02\x00\xff", b"\x00\xff"),
    ("vbin32", b"\xb0\x00\x00\x00\x02\x00\xff", b"\x00\xff"),
    ("str8", b"\xa1\x1eHello Glorious Messaging World", "Hello Glorious Messaging World"),
    ("str32", b"\xb1\x00\x00\x00\x1eHello Glorious Messaging World", "Hello Glorious Messaging World"),
    ("sym8", b"\xa3\x03URL", Symbol("URL")),
    ("sym32", b"\xb3\x00\x00\x00\x03URL", Symbol("URL")),
    ("list0", b"\x45", []),
    ("list8", b"\xc0\x03\x02\x41\x42", [True, False]),
    ("list32", b"\xd0\x00\x00\x00\x06\x00\x00\x00\x02\x41\x42", [True, False]),
    ("map8", b"\xc1\x09\x04\xa3\x01a\x41\xa3\x01b\x42", {"a": True, "b": False}),
    ("map32", b"\xd1\x00\x00\x00\x08\x00\x00\x00\x02\xa3\x01a\x41", {"a": True}),
    ("array8", b"\xe0\x04\x02\x50\x01\x02", [1, 2]),
    ("array32", b"\xf0\x00\x00\x00\x07\x00\x00\x00\x02\x50\x01\x02", [1, 2]),
    ("array of nothing", b"\xe0\x02\x03\x41", [True, True, True]),
    (
        "described URL",
        b"\x00\xa1\x03URL\xa1\x1ehttp://example.org/hello-world",
        Described("URL", "http://example.org/hello-world"),
    ),
    (
        "book with authors",
        BOOK,
        Described("example:book:list", ["AMQP for & by Dummies", ["Rob J. Godfrey", "Rafael H. Schloming"], None]),
    ),
]


@pytest.mark.parametrize(("raw", "value"), [case[1:] for case in PUBLISHED], ids=[case[0] for case in PUBLISHED])
def test_published_encodings_are_read(raw: bytes, value: Any) -> None:
    assert decode(raw) == (value, len(raw))
    assert type(decode(raw)[0]) is type(value)
    assert decode(b"\x40" + raw + b"\x41", 1) == (value, len(raw) + 1)
    assert skip(raw) == len(raw)


@pytest.mark.parametrize("raw", [case[1] for case in PUBLISHED], ids=[case[0] for case in PUBLISHED])
def test_what_ends_early_is_malformed(raw: bytes) -> None:
    for end in range(len(raw)):
        with pytest.raises(Malformed):
            decode(raw[:end])
        with pytest.raises(Malformed):
            skip(raw[:end])


@pytest.mark.parametrize(
    ("raw", "written"),
    [
        (b"\x40", encoder.uint(None)),
        (b"\x41", encoder.boolean(True)),
        (b"\x50\x07", encoder.ubyte(7)),
        (b"\x60\x01\x02", encoder.ushort(258)),
        (b"\x43", encoder.uint(0)),
        (b"\x52\xff", encoder.uint(255)),
        (b"\x70\x00\x00\x01\x00", encoder.uint(256)),
        (b"\x70\x00\x00\x00\x00", encoder.full_uint(0)),
        (b"\x44", encoder.ulong(0)),
        (b"\x53\x10", encoder.ulong(16)),
        (b"\x80" + struct.pack(">Q", 1 << 40), encoder.ulong(1 << 40)),
        (b"\x71\xff\xff\xff\xff", encoder.int32(-1)),
        (b"\x81" + b"\xff" * 8, encoder.int64(-1)),
        (b"\x83\x00\x00\x01\x31\x1f\x6c\x2a\x00", encoder.timestamp(0x1311F6C2A00)),
        (b"\x98" + bytes(range(16)), encoder.guid(uuid.UUID(bytes=bytes(range(16))))),
        (b"\xa0\x01\x00", encoder.binary(b"\x00")),
        (b"\xb0\x00\x00\x01\x00" + bytes(256), encoder.binary(bytes(256))),
        (b"\xa1\x02\xc3\xa9", encoder.string("é")),
        (b"\xa3\x03URL", encoder.symbol("URL")),
        (b"\xc0\x03\x02\x41\x42", encoder.sequence([b"\x41", b"\x42"])),
        (b"\xc1\x05\x02\xa3\x01a\x41", encoder.mapping([(b"\xa3\x01a", b"\x41")])),
        (b"\xe0\x0a\x02\xa3\x03one\x03two", encoder.symbol_array(["one", "two"])),
        (b"\x00\x53\x24\x45", encoder.described(0x24, EMPTY_LIST)),
    ],
)
def test_values_are_written_as_published(raw: bytes, written: bytes) -> None:
    assert written == raw


# Values beside their encodings: Python types do not determine the AMQP type
Pair = tuple[bytes, Any]


def _of(encode: Any, values: st.SearchStrategy[Any]) -> st.SearchStrategy[Pair]:
    return values.map(lambda value: (encode(value), value))


SCALARS: st.SearchStrategy[Pair] = st.one_of(
    st.just((encoder.NULL, None)),
    _of(encoder.boolean, st.booleans()),
    _of(encoder.ubyte, st.integers(0, 2**8 - 1)),
    _of(encoder.ushort, st.integers(0, 2**16 - 1)),
    _of(encoder.uint, st.integers(0, 2**32 - 1)),
    _of(encoder.full_uint, st.integers(0, 2**32 - 1)),
    _of(encoder.ulong, st.integers(0, 2**64 - 1)),
    _of(encoder.int32, st.integers(-(2**31), 2**31 - 1)),
    _of(encoder.int64, st.integers(-(2**63), 2**63 - 1)),
    _of(encoder.timestamp, st.integers(-(2**63), 2**63 - 1)),
    _of(encoder.guid, st.uuids()),
    _of(encoder.binary, st.binary(max_size=300)),
    _of(encoder.string, st.text(max_size=150)),
    _of(encoder.symbol, st.text(st.characters(max_codepoint=127), max_size=300)),
    _of(encoder.int64_array, st.lists(st.integers(-(2**63), 2**63 - 1), max_size=40)),
    _of(encoder.string_array, st.lists(st.text(max_size=20), max_size=20)),
)


def _containers(inner: st.SearchStrategy[Pair]) -> st.SearchStrategy[Pair]:
    lists = st.lists(inner, max_size=300).map(
        lambda items: (encoder.sequence([raw for raw, _ in items]), [value for _, value in items])
    )
    keys = st.text(max_size=8)
    maps = st.dictionaries(keys, inner, max_size=20).map(
        lambda items: (
            encoder.mapping([(encoder.string(key), raw) for key, (raw, _) in items.items()]),
            {key: value for key, (_, value) in items.items()},
        )
    )
    described = st.tuples(st.integers(0, 2**64 - 1), inner).map(
        lambda pair: (encoder.described(pair[0], pair[1][0]), Described(pair[0], pair[1][1]))
    )
    return st.one_of(lists, maps, described)


VALUES = st.recursive(SCALARS, _containers, max_leaves=25)


@given(VALUES, st.binary(max_size=5), st.binary(max_size=5))
def test_what_is_written_is_read_back(pair: Pair, before: bytes, after: bytes) -> None:
    raw, value = pair
    data = before + raw + after
    assert decode(data, len(before)) == (value, len(before) + len(raw))
    assert skip(data, len(before)) == len(before) + len(raw)


@given(st.lists(VALUES, max_size=20))
def test_elements_are_cut_without_decoding(items: list[Pair]) -> None:
    assert elements(encoder.sequence([raw for raw, _ in items])) == [raw for raw, _ in items]
    keyed = [(encoder.string(str(number)), raw) for number, (raw, _) in enumerate(items)]
    assert pairs(encoder.mapping(keyed)) == keyed


@given(VALUES, st.data())
def test_every_part_of_a_value_is_malformed(pair: Pair, data: st.DataObject) -> None:
    raw = pair[0]
    end = data.draw(st.integers(0, len(raw) - 1))
    with pytest.raises(Malformed):
        decode(raw[:end])


@given(st.binary(max_size=200))
def test_noise_is_read_or_malformed(raw: bytes) -> None:
    for read in (decode, skip, elements, pairs):
        with contextlib.suppress(Malformed):
            read(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b"\x3f",
        b"\x56\x02",
        b"\xa1\x02\xc3\x28",  # not UTF-8
        b"\xa3\x01\xff",  # not ASCII
        b"\x73\x00\x11\x00\x00",  # beyond Unicode
        b"\xc0\x04\x02\x41\x42\x40",  # more bytes than elements
        b"\xc1\x04\x03\x41\x42\x40",  # a key without a value
        b"\xc1\x04\x02\x45\x40\x40",
        b"\xc1\x03\x02\x45\x40",  # a list as a key
        b"\xf0\x00\x00\x00\x05\xff\xff\xff\xff\x40",  # four billion nulls in one byte
        b"\xd0\x00\x00\x00\x02\x00\x00\x00\x00",  # a size smaller than the count
        b"\xc0\x01" * 5_000,
        b"\x00" * 50_000,  # descriptors of descriptors
        b"\xc0\xff\x01" * 3_000,
    ],
)
def test_impossible_values_are_malformed(raw: bytes) -> None:
    with pytest.raises(Malformed):
        decode(raw)
