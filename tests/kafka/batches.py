"""Healthy and damaged Kafka record batches, built byte by byte as a broker could hold them.

Each builder takes a random source, a name and a number of records. It returns the bytes of one batch and the runs of
offsets, relative to the batch, that cannot be read.
"""

from __future__ import annotations

import gzip
import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache

import cramjam
from aiokafka.codec import lz4_encode
from aiokafka.record.util import calc_crc32c

HEADER = struct.Struct(">qiibIhiqqqhii")
"""Layout of a batch header: base offset, length, leader epoch, magic, CRC, attributes, last offset delta, first and
highest timestamp, producer id and epoch, first sequence, record count."""

Header = tuple[bytes, bytes | None]


def varint(value: int) -> bytes:
    """Encode a number as a zigzag varint."""
    number = (value << 1) ^ (value >> 63)
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def field_of(value: bytes | None) -> bytes:
    """Encode a field as its length and its bytes; length -1 is null."""
    return varint(-1) if value is None else varint(len(value)) + value


def record(
    delta: int, value: bytes | None, key: bytes | None = None, headers: Sequence[Header] = (), *, timestamp: int = 0
) -> bytes:
    """Encode one record, preceded by its length."""
    body = b"\0" + varint(timestamp) + varint(delta) + field_of(key) + field_of(value) + varint(len(headers))
    body += b"".join(varint(len(name)) + name + field_of(text) for name, text in headers)
    return varint(len(body)) + body


def batch(
    records: Sequence[bytes],
    *,
    attributes: int = 0,
    count: int | None = None,
    last: int | None = None,
    timestamp: int = 1_700_000_000_000,
    compress: Callable[[bytes], bytes] = bytes,
    producer: int = -1,
) -> bytes:
    """Build a batch with a correct checksum. last: last offset delta. count: record count that the header states."""
    count = len(records) if count is None else count
    last = len(records) - 1 if last is None else last
    body = struct.pack(
        ">hiqqqhii", attributes, last, timestamp, timestamp, producer, 0 if producer >= 0 else -1, -1, count
    )
    body += compress(b"".join(records))
    return struct.pack(">qiibI", 0, len(body) + 9, 0, 2, calc_crc32c(body)) + body


def xerial(data: bytes) -> bytes:
    """Compress with Snappy in the xerial framing, as Java producers do."""
    block = bytes(cramjam.snappy.compress_raw(data))
    return b"\x82SNAPPY\0" + struct.pack(">ii", 1, 1) + struct.pack(">i", len(block)) + block


CODECS: dict[int, Callable[[bytes], bytes]] = {
    0: bytes,
    1: gzip.compress,
    2: lambda data: bytes(cramjam.snappy.compress_raw(data)),
    3: lz4_encode,
    4: lambda data: bytes(cramjam.zstd.compress(data)),
}


@dataclass
class Expected:
    """Expected reading of one batch.

    size: number of offsets that the batch takes. healthy: values by relative offset. unreadable: first and last
    relative offset of each run that cannot be read. key_known: the keys of the runs are readable. rot: changes the
    bytes after the broker has accepted them. gap: kind of the offsets without a record.
    """

    data: bytes
    size: int
    healthy: dict[int, bytes]
    unreadable: list[tuple[int, int]] = field(default_factory=list)
    fault: str = ""
    key_known: bool = False
    rot: Callable[[bytearray], None] | None = None
    gap: str = ""


def values(rng: random.Random, name: str, count: int) -> list[bytes]:
    """Return record values that occur in no other batch."""
    return [f"{name}-{number}-".encode() + rng.randbytes(rng.choice((0, 1, 40, 300))) for number in range(count)]


def acceptable(rng: random.Random, name: str, count: int) -> Expected:
    """Build a batch that a real broker accepts.

    A real broker checks timestamps and codecs. 15 % of the batches have a header name that is not UTF-8.
    """
    codec = rng.choice(list(CODECS))
    bad = rng.randrange(count) if rng.random() < 0.15 else -1
    given = values(rng, name, count)
    records = [
        record(at, value, b"k", [(b"caf\xe9", b"1")] if at == bad else [("é".encode(), None)])
        for at, value in enumerate(given)
    ]
    data = batch(records, attributes=codec, compress=xerial if codec == 2 else CODECS[codec])
    rest = {at: value for at, value in enumerate(given) if at != bad}
    return Expected(data, count, rest, [(bad, bad)] if bad >= 0 else [], "header_name", key_known=True)


def healthy(rng: random.Random, name: str, count: int) -> Expected:
    """Build a healthy batch with any codec, any keys, null header values and unusual timestamps."""
    codec = rng.choice(list(CODECS))
    given = values(rng, name, count)
    records = [
        record(
            at,
            value,
            rng.choice((None, b"", b"k", rng.randbytes(9))),
            [(b"x", None), (b"x", b"\xff"), ("é".encode(), b"")][: rng.randrange(4)],
            timestamp=rng.choice((0, 5, -(10**14), 10**17)),
        )
        for at, value in enumerate(given)
    ]
    compress = rng.choice((xerial, CODECS[2])) if codec == 2 else CODECS[codec]
    return Expected(batch(records, attributes=codec, compress=compress), count, dict(enumerate(given)))


def compacted(rng: random.Random, name: str, count: int) -> Expected:
    """Build a batch in which some records are missing, possibly the last one."""
    given = dict(enumerate(values(rng, name, count)))
    kept = {at: value for at, value in given.items() if rng.random() < 0.6}
    records = [record(at, value) for at, value in kept.items()]
    return Expected(batch(records, last=count - 1), count, kept, gap="compacted")


def _one_bad(rng: random.Random, name: str, count: int, bad: Callable[[int, bytes], bytes], **known: bool) -> Expected:
    codec = rng.choice(list(CODECS))
    given = values(rng, name, count)
    which = rng.randrange(count)
    records = [bad(at, value) if at == which else record(at, value, b"k") for at, value in enumerate(given)]
    rest = {at: value for at, value in enumerate(given) if at != which}
    return Expected(
        batch(records, attributes=codec, compress=CODECS[codec]), count, rest, [(which, which)], "record",
        known.get("key_known", False),
    )  # fmt: skip


def header_name(rng: random.Random, name: str, count: int) -> Expected:
    """Build a batch with one record whose header name is not UTF-8."""
    found = _one_bad(
        rng, name, count, lambda at, value: record(at, value, b"k", [(b"caf\xe9", b"1"), (b"ok", b"2")]), key_known=True
    )
    found.fault = "header_name"
    return found


def bad_field(rng: random.Random, name: str, count: int) -> Expected:
    """Build a batch with a wrong length or count inside one record; the length of the record itself is right."""

    def bad(at: int, value: bytes) -> bytes:
        front = b"\0" + varint(0) + varint(at)
        body = rng.choice(
            (
                front + varint(99_999) + b"k" + field_of(value) + varint(0),
                front + b"\xff" * 11,
                front,
            )
        )
        return varint(len(body)) + body

    return _one_bad(rng, name, count, bad)


def bad_tail(rng: random.Random, name: str, count: int) -> Expected:
    """Build a batch with one record whose key is readable and whose rest is not."""

    def bad(at: int, value: bytes) -> bytes:
        front = b"\0" + varint(0) + varint(at) + field_of(b"k")
        body = front + rng.choice(
            (
                varint(70_000) + value,
                field_of(value) + varint(-3),
                field_of(value) + varint(7),
                field_of(value) + varint(1) + varint(-1) + varint(0),
                field_of(value) + varint(0) + b"more",
                field_of(value),
            )
        )
        return varint(len(body)) + body

    return _one_bad(rng, name, count, bad, key_known=True)


def bad_offset(rng: random.Random, name: str, count: int) -> Expected:
    """Build a batch with one record whose offset is wrong or unreadable; the neighbours determine its offset."""

    def bad(at: int, value: bytes) -> bytes:
        body = rng.choice((b"\0", b"\0" + varint(0), b"\0" + b"\xff" * 20, b"\0" + varint(0) + b"\xff" * 11))
        return rng.choice((record(count + 7, value), record(-1 - at, value), varint(len(body)) + body))

    return _one_bad(rng, name, count, bad)


def bad_length(rng: random.Random, name: str, count: int) -> Expected:
    """Build a batch with a wrong record length; no later record of the batch can be read."""
    given = values(rng, name, count)
    which = rng.randrange(count)
    records = [record(at, value, b"k") for at, value in enumerate(given)]
    records[which] = rng.choice(
        (
            varint(1 << 20) + records[which][2:],
            varint(-5) + records[which][2:],
            b"\xff" * 12,
        )
    )
    rest = {at: value for at, value in enumerate(given) if at < which}
    return Expected(batch(records), count, rest, [(which, count - 1)], "record")


def wrong_count(rng: random.Random, name: str, count: int) -> Expected:
    """Build a batch whose header states fewer or more records than it contains."""
    given = values(rng, name, count)
    records = [record(at, value) for at, value in enumerate(given)]
    received = rng.choice((0, count - 1, -4)) if rng.random() < 0.5 else count + 2
    if received > count:
        # The last offset delta covers the missing records
        return Expected(
            batch(records, count=received, last=count + 1),
            count + 2,
            dict(enumerate(given)),
            [(count, count + 1)],
            "record",
        )
    first = max(0, received)
    return Expected(
        batch(records, count=received), count, dict(enumerate(given[:first])), [(first, count - 1)], "record"
    )


def unknown_codec(rng: random.Random, name: str, count: int) -> Expected:
    """Build a batch with a compression codec that Kafka does not define."""
    records = [record(at, value) for at, value in enumerate(values(rng, name, count))]
    return Expected(batch(records, attributes=rng.choice((5, 6, 7))), count, {}, [(0, count - 1)], "codec")


def damaged_codec(rng: random.Random, name: str, count: int) -> Expected:
    """Build a batch whose compressed data cannot be decompressed; the checksum is right."""
    codec = rng.randrange(1, 5)

    def spoil(data: bytes) -> bytes:
        packed = CODECS[codec](data)
        return rng.choice((packed[: len(packed) // 2], b"\xfe" * 40, packed[:3] + b"\xff" * 30))

    records = [record(at, value + bytes(2000)) for at, value in enumerate(values(rng, name, count))]
    return Expected(batch(records, attributes=codec, compress=spoil), count, {}, [(0, count - 1)], "codec")


def bomb(rng: random.Random, name: str, count: int, size: int = 8 << 20) -> Expected:
    """Build a batch that is small when compressed and `size` bytes large when decompressed."""
    codec = rng.randrange(1, 5)
    compress = rng.choice((xerial, CODECS[2])) if codec == 2 else CODECS[codec]
    return Expected(_inflating(codec, compress, count, size), count, {}, [(0, count - 1)], "inflated_size")


@cache
def _inflating(codec: int, compress: Callable[[bytes], bytes], count: int, size: int) -> bytes:
    """Batch of a bomb. The same few occur again and again, and each takes up to 100 ms."""
    return batch([record(at, bytes(size // count)) for at in range(count)], attributes=codec, compress=compress)


def rotten(rng: random.Random, name: str, count: int) -> Expected:
    """Build a batch in which one bit of the checksum, or of the bytes that the checksum covers, flips on disk."""

    def rot(data: bytearray) -> None:
        at = rng.randrange(17, len(data))
        data[at] ^= 1 << rng.randrange(8)

    made = healthy(rng, name, count)
    return Expected(made.data, count, {}, [(0, count - 1)], "crc", rot=rot)


def unknown_magic(rng: random.Random, name: str, count: int) -> Expected:
    """Build a batch whose magic byte names an unknown record format."""

    def rot(data: bytearray) -> None:
        data[16] = rng.choice((3, 9, 127))

    return Expected(healthy(rng, name, count).data, count, {}, [(0, count - 1)], "magic", rot=rot)


DAMAGES: dict[str, Callable[[random.Random, str, int], Expected]] = {
    each.__name__: each
    for each in (
        header_name, bad_field, bad_offset, bad_tail, bad_length, wrong_count, unknown_codec, damaged_codec, bomb,
        rotten, unknown_magic,
    )
}  # fmt: skip


@dataclass
class Log:
    """Content of one partition, with the entries that a consumer should receive, in order.

    entries: first and last offset, and the value; None for an unreadable run. gaps: number of offsets without a record.
    """

    batches: list[bytes] = field(default_factory=list)
    entries: list[tuple[int, int, bytes | None]] = field(default_factory=list)
    faults: list[tuple[int, int, str, bool]] = field(default_factory=list)
    """Unreadable runs: first and last offset, fault, and whether the key is known."""
    gaps: int = 0
    end: int = 0

    def fault(self, offset: int) -> tuple[str, bool]:
        """Return the fault of the run that contains the offset, and whether the key of the run is known."""
        return next((fault, known) for first, last, fault, known in self.faults if first <= offset <= last)

    def add(self, expected: Expected) -> None:
        """Append a batch."""
        data = bytearray(expected.data)
        struct.pack_into(">q", data, 0, self.end)
        if expected.rot is not None:
            expected.rot(data)
        found: list[tuple[int, int, bytes | None]] = [
            (self.end + at, self.end + at, value) for at, value in expected.healthy.items()
        ]
        for first, last in expected.unreadable:
            found.append((self.end + first, self.end + last, None))
            self.faults.append((self.end + first, self.end + last, expected.fault, expected.key_known))
        found.sort()
        self.entries += found
        self.gaps += expected.size - sum(last - first + 1 for first, last, _ in found)
        self.batches.append(bytes(data))
        self.end += expected.size


def mixed(rng: random.Random, name: str, batches: int, damages: Sequence[str] = tuple(DAMAGES)) -> Log:
    """Build a log of healthy batches with damaged ones among them."""
    log = Log()
    for number in range(batches):
        count = rng.randrange(1, 9)
        made = f"{name}.{number}"
        roll = rng.random()
        if roll < 0.3:
            log.add(DAMAGES[rng.choice(damages)](rng, made, count))
        elif roll < 0.45:
            log.add(compacted(rng, made, count))
        else:
            log.add(healthy(rng, made, count))
    return log
