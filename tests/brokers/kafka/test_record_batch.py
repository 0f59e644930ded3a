"""Parsing of batches and partitions without a broker: all healthy records, and no damaged one as healthy."""

from __future__ import annotations

import random
import re
import struct
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from bridge.brokers.kafka.connection import Connection
from bridge.brokers.kafka.log.compression import CodecError, decompress
from bridge.brokers.kafka.log.fetch_cursor import PartitionData
from bridge.brokers.kafka.log.partition_log import PartitionLog
from bridge.brokers.kafka.log.records import SMALL, Bounds
from bridge.brokers.kafka.log.splitting import split
from bridge.config.model.brokers import KafkaBrokerConfig
from bridge.config.model.sources import OnUnreadable
from bridge.core.bytetext import text_of
from tests.kafka.batches import (
    CODECS,
    DAMAGES,
    Log,
    batch,
    bomb,
    field_of,
    healthy,
    mixed,
    record,
    varint,
    xerial,
)

LIMIT = 1 << 20


def reader(
    start: int = 0, treatment: OnUnreadable = "dead_letter", gaps: Counter[str] | None = None, limit: int = LIMIT
) -> PartitionLog:
    return PartitionLog(
        "t", 0, start, bounds=Bounds(limit, 500_000, 1_000), low_water=1 << 20, treatment=lambda _: treatment, gaps=gaps
    )


def read(log: Log, given: PartitionLog, rng: random.Random) -> list[tuple[int, int, bytes | None]]:
    """Return all entries that the reader returns for fetches of random sizes; damage is confirmed at the first
    suspicion."""
    bases = [struct.unpack_from(">q", data)[0] for data in log.batches]
    found: list[tuple[int, int, bytes | None]] = []
    while given.position < log.end and not given.stopped:
        if given.wants and given.cursor.fetch_offset < log.end:
            first = max(number for number, base in enumerate(bases) if base <= given.cursor.fetch_offset)
            data = b"".join(log.batches[first:])[: len(log.batches[first]) + rng.randrange(2000)]
            given.accept(given.cursor.fetch_offset, PartitionData(data, log.end, log.end, None))
        for first, last, message in given.take(rng.randrange(1, 7)):
            found.append((first, last, None if message.unreadable else message.body))
            if message.unreadable is not None:
                assert log.fault(first) == (message.unreadable.fault, message.unreadable.key_known)
        if (suspect := given.suspect) is not None:
            after = [base for base in [*bases, log.end] if base > suspect.base]
            given.confirm(suspect, after[0] if suspect.last is None else None)
    return found


def test_damage_costs_what_is_damaged_and_nothing_else() -> None:
    for seed in range(300):
        rng = random.Random(seed)
        log = mixed(rng, "b", 12)
        gaps: Counter[str] = Counter()
        given = reader(gaps=gaps)
        assert read(log, given, rng) == log.entries, seed
        assert gaps == Counter({"compacted": log.gaps} if log.gaps else {}), seed
        # Each offset has an entry or a named gap
        covered = sum(last - first + 1 for first, last, _ in log.entries) + gaps.total()
        assert covered == given.position == log.end, seed


@pytest.mark.parametrize("damage", sorted(DAMAGES))
def test_reading_may_begin_anywhere(damage: str) -> None:
    for seed in range(20):
        rng = random.Random(f"{damage}{seed}")
        log = Log()
        log.add(healthy(rng, "before", 3))
        log.add(DAMAGES[damage](rng, "damaged", 6))
        log.add(healthy(rng, "after", 3))
        start = rng.randrange(log.end)
        expected = [(max(first, start), last, value) for first, last, value in log.entries if last >= start]
        assert read(log, reader(start), rng) == expected, seed


@pytest.mark.parametrize("damage", sorted(DAMAGES))
def test_a_partition_stops_before_what_cannot_be_read(damage: str) -> None:
    rng = random.Random(damage)
    log = Log()
    log.add(healthy(rng, "before", 3))
    log.add(DAMAGES[damage](rng, "damaged", 6))
    log.add(healthy(rng, "after", 3))
    given = reader(treatment="stop_partition")
    at = next(first for first, _, value in log.entries if value is None)
    assert read(log, given, rng) == [entry for entry in log.entries if entry[0] < at]
    assert given.position == at
    assert re.search(rf"stopped at offsets? {at}\b", given.stopped)
    assert "on_unreadable" in given.stopped
    assert not given.wants
    assert given.take(10) == []


@pytest.mark.parametrize("length", [-1, 0, 5, 13, 1 << 30, 2**31 - 1])
def test_a_length_that_leads_nowhere_stops_the_partition(length: int) -> None:
    log = Log()
    log.add(healthy(random.Random(1), "a", 3))
    data = bytearray(log.batches[0])
    struct.pack_into(">i", data, 8, length)
    given = reader()
    given.accept(0, PartitionData(bytes(data), 3, 3, None))
    suspect = given.suspect
    assert suspect is not None
    assert given.take(10) == []
    given.stop_at_damage(suspect)
    assert "offset 0 and later ones cannot be read" in given.stopped
    assert "bridge sources seek" in given.stopped


def test_an_incomplete_batch_behind_others_is_fetched_again() -> None:
    log = Log()
    for name in "ab":
        log.add(healthy(random.Random(name), name, 3))
    given = reader()
    given.accept(0, PartitionData(b"".join(log.batches)[:-1], 6, 6, None))
    assert [first for first, *_ in given.take(10)] == [0, 1, 2]
    assert (given.suspect, given.cursor.fetch_offset) == (None, 3)


@pytest.mark.parametrize(
    ("base", "last"),
    [(7, 2), (-5, 2), (0, -4), (0, 900), (1 << 60, 2)],
    ids=["far", "negative", "ends", "long", "huge"],
)
def test_offsets_that_no_log_has_are_damage(base: int, last: int) -> None:
    data = bytearray(batch([record(at, b"v") for at in range(3)], last=last))
    struct.pack_into(">q", data, 0, base)
    [found] = split(bytes(data), 0, 5, None)
    assert found.fault is not None
    assert found.fault.word == "offsets"


def test_a_batch_of_before_the_position_is_damage() -> None:
    [found] = split(batch([record(0, b"v")]), 4, 9, None)
    assert found.fault is not None
    assert found.fault.word == "offsets"


@pytest.mark.parametrize("base", [0, 1])
def test_a_batch_that_begins_before_the_last_one_ended_is_damage(base: int) -> None:
    """No checksum covers the base offset; without this check the first records would count as read and be lost."""
    given = reader()
    given.accept(0, PartitionData(batch([record(at, b"a") for at in range(2)]), 5, 5, None))
    assert len(given.take(9)) == 2
    data = bytearray(batch([record(at, b"b") for at in range(3)]))
    struct.pack_into(">q", data, 0, base)
    given.accept(2, PartitionData(bytes(data), 5, 5, None))
    assert given.take(9) == []
    assert given.suspect is not None
    assert given.suspect.fault is not None
    assert given.suspect.fault.word == "offsets"


def test_the_bytes_of_a_damaged_record_are_kept() -> None:
    """A bad header name keeps its bytes, in the form of keys; a bad structure keeps the whole record."""
    bad_name = record(0, b"value", b"k", [(b"caf\xe9", b"1"), (b"ok", None)])
    bad_tail = b"\0" + varint(0) + varint(1) + field_of(b"k") + field_of(b"value") + varint(7) + b"tail"
    given = reader()
    data = batch([bad_name, varint(len(bad_tail)) + bad_tail])
    given.accept(0, PartitionData(data, 2, 2, None))
    assert given.take(9) == []
    assert given.suspect is not None
    given.confirm(given.suspect, None)
    [(_, _, named), (_, _, torn)] = given.take(9)
    assert (named.body, named.key) == (b"value", b"k")
    assert named.headers == ((text_of(b"caf\xe9"), b"1"), ("ok", None))
    assert (torn.body, torn.key) == (bad_tail, b"k")


def test_damage_that_was_fetched_before_an_end_is_still_handed_out() -> None:
    """Retention may delete the records to be fetched next; fetched data is read to its end first."""
    log = Log()
    rng = random.Random(8)
    for made in (healthy(rng, "a", 2), DAMAGES["unknown_codec"](rng, "b", 3)):
        log.add(made)
    given = reader()
    given.accept(0, PartitionData(b"".join(log.batches), 9, 9, None))
    given.stop("offset 5 is out of range")
    assert [first for first, *_ in given.take(9)] == [0, 1]
    suspect = given.suspect
    assert suspect is not None
    given.confirm(suspect, None)
    assert [(first, last) for first, last, _ in given.take(9)] == [(2, 4)]
    assert (given.empty, given.wants, given.position) == (True, False, 5)


def test_an_answer_to_another_question_changes_nothing() -> None:
    given = reader(4)
    given.accept(3, PartitionData(batch([record(0, b"v")]), 9, 9, None))
    assert given.empty
    assert given.position == given.cursor.fetch_offset == 4


def test_other_bytes_at_the_next_read_are_what_counts() -> None:
    log = Log()
    log.add(DAMAGES["rotten"](random.Random(3), "r", 4))
    good = Log()
    good.add(healthy(random.Random(5), "g", 4))
    given = reader()
    given.accept(0, PartitionData(log.batches[0], 4, 4, None))
    suspect = given.suspect
    assert suspect is not None
    given.reread(suspect)
    given.accept(0, PartitionData(good.batches[0], 4, 4, None))
    assert [(first, last, message.body) for first, last, message in given.take(9)] == good.entries


def test_transactions_are_read_as_they_ended() -> None:
    """Aborted batches and control batches are named gaps; a committed batch of the same producer is not."""

    def control(commit: bool) -> bytes:
        key = struct.pack(">hh", 0, int(commit))
        return batch([record(0, struct.pack(">hi", 0, 0), key)], attributes=0x30, producer=7)

    def data(value: bytes) -> bytes:
        return batch([record(0, value), record(1, value)], attributes=0x10, producer=7)

    log = b""
    for at, made in zip(
        (0, 2, 3, 5, 6), (data(b"no"), control(False), data(b"yes"), control(True), data(b"u")), strict=True
    ):
        placed = bytearray(made)
        struct.pack_into(">q", placed, 0, at)
        log += placed
    gaps: Counter[str] = Counter()
    given = reader(gaps=gaps)
    given.accept(0, PartitionData(log, 8, 8, [(7, 0)]))
    assert [(first, message.body) for first, _, message in given.take(9)] == [
        (3, b"yes"),
        (4, b"yes"),
        (6, b"u"),
        (7, b"u"),
    ]
    assert gaps == {"aborted": 2, "control": 2}
    uncommitted = reader()
    uncommitted.accept(0, PartitionData(log, 8, 8, None))
    assert [first for first, *_ in uncommitted.take(9)] == [0, 1, 3, 4, 6, 7]


def test_a_marker_that_cannot_be_read_ends_the_answer() -> None:
    """The outcome of the transaction comes from the next fetch, with its list of aborted transactions."""
    log = batch([record(0, b"x")], attributes=0x10, producer=7)
    marker = bytearray(batch([b"\xff\xff"], attributes=0x30, producer=7))
    struct.pack_into(">q", marker, 0, 1)
    later = bytearray(batch([record(0, b"kept")], attributes=0x10, producer=7))
    struct.pack_into(">q", later, 0, 2)
    given = reader()
    given.accept(0, PartitionData(log + bytes(marker) + bytes(later), 3, 3, [(7, 0)]))
    assert given.take(9) == []
    assert given.cursor.fetch_offset == 2
    given.accept(2, PartitionData(bytes(later), 3, 3, []))
    assert [message.body for *_, message in given.take(9)] == [b"kept"]


@pytest.mark.parametrize("codec", sorted(CODECS)[1:])
@pytest.mark.parametrize("size", [0, 1, 1000, LIMIT - 1, LIMIT])
def test_what_fits_is_decompressed(codec: int, size: int) -> None:
    data = random.Random(size).randbytes(size // 2) + bytes(size - size // 2)
    assert decompress(codec, CODECS[codec](data), LIMIT) == data
    if codec == 2:
        assert decompress(codec, xerial(data), LIMIT) == data


@pytest.mark.parametrize("seed", [0, 1, 2, 4, 5], ids=["zstd", "xerial snappy", "gzip", "snappy", "lz4"])
def test_a_bomb_is_refused_before_it_is_held(seed: int) -> None:
    data = bomb(random.Random(seed), "b", 2, size=64 << 20).data
    given = reader()
    given.accept(0, PartitionData(data, 2, 2, None))
    before = _peak_from_now()
    assert given.take(5) == []
    assert given.suspect is not None
    assert given.suspect.fault is not None
    assert given.suspect.fault.word == "inflated_size"
    assert _peak() - before < 16 << 20


@pytest.mark.parametrize("codec", sorted(CODECS)[1:])
def test_a_byte_over_the_limit_is_too_much(codec: int) -> None:
    with pytest.raises(CodecError) as caught:
        decompress(codec, CODECS[codec](bytes(LIMIT + 1)), LIMIT)
    assert caught.value.fault == "inflated_size"


def _peak_from_now() -> int:
    """Begin a new peak: that of a build of the batch is higher than any of its reading. Returns bytes, as `_peak`."""
    with suppress(OSError):  # not Linux
        Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    """Return the peak resident memory of this process in bytes; 0 on systems other than Linux."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    return next(int(line.split()[1]) << 10 for line in status.read_text().splitlines() if line.startswith("VmHWM"))


def many_headers(delta: int, headers: int) -> bytes:
    """Build a record with headers that have neither name nor value: two bytes each."""
    body = b"\0" + varint(0) + varint(delta) + field_of(b"k") + field_of(b"{}") + varint(headers) + b"\0\1" * headers
    return varint(len(body)) + body


@pytest.mark.parametrize("codec", [0, 4])
@pytest.mark.parametrize("headers", [1_001, 400_000, 4_000_000])
def test_a_record_with_too_many_headers_costs_itself(codec: int, headers: int) -> None:
    """The largest would take 400 MB if its headers were not counted before."""
    records = [record(0, b"a"), many_headers(1, 1_000), many_headers(2, headers), record(3, b"x" * 5_000)]
    data = batch(records, attributes=codec, compress=CODECS[codec])
    given = reader(limit=16 << 20)
    given.accept(0, PartitionData(data, 4, 4, None))
    before = _peak_from_now()
    found = given.take(9)
    suspect = given.suspect
    assert suspect is not None
    assert _peak() - before < 50 * SMALL
    given.confirm(suspect, None)
    found += given.take(9)
    assert [first for first, *_ in found] == [0, 1, 2, 3]
    damaged = found[2][2]
    assert damaged.unreadable is not None
    assert (damaged.unreadable.fault, damaged.unreadable.key_known, damaged.key) == ("headers", True, b"k")
    assert len(found[1][2].headers) == 1_000
    assert found[3][2].body == b"x" * 5_000


def test_a_batch_with_too_many_records_is_refused_before_it_is_parsed() -> None:
    data = batch([record(0, None)], count=500_001, last=500_000)
    given = reader()
    given.accept(0, PartitionData(data, 500_001, 500_001, None))
    assert given.take(9) == []
    assert given.suspect is not None
    assert given.suspect.fault is not None
    assert given.suspect.fault.word == "inflated_size"


def test_the_bounds_are_settings() -> None:
    """Of the broker: a producer with good reasons for many headers is let in, and a stricter one is possible."""
    config = KafkaBrokerConfig.model_validate(
        {"type": "kafka", "bootstrap_servers": "localhost:9092", "max_headers": 1_200, "max_records": 3}
    )
    bounds = Connection("kafka", config, lambda field, value: Path(value)).bounds
    for count, fault in ((3, None), (4, "inflated_size")):
        given = PartitionLog("t", 0, 0, bounds=bounds, low_water=1, treatment=lambda _: "dead_letter")
        given.accept(0, PartitionData(batch([many_headers(at, 1_200) for at in range(count)]), count, count, None))
        found = given.take(9)
        assert (given.suspect.fault.word if given.suspect and given.suspect.fault else None) == fault
        assert [len(message.headers) for *_, message in found] == ([] if fault else [1_200] * 3)
    given = PartitionLog("t", 0, 0, bounds=bounds, low_water=1, treatment=lambda _: "dead_letter")
    given.accept(0, PartitionData(batch([many_headers(0, 1_201)]), 1, 1, None))
    assert given.take(9) == []
    assert given.suspect is not None and given.suspect.fault is not None  # noqa: PT018 -- the type of both
    assert "1200 headers (`max_headers`)" in given.suspect.fault.detail


def test_gzip_data_of_very_many_members_is_refused() -> None:
    empty = CODECS[1](b"")
    assert decompress(1, empty * 1_000, LIMIT) == b""
    with pytest.raises(CodecError, match="1000 members") as caught:
        decompress(1, empty * 50_000, LIMIT)
    assert caught.value.fault == "inflated_size"
