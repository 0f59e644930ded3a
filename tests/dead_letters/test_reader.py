"""Cached rows of dead letters, compared with the log itself, whatever happens to the log and to the files."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.brokers.base import LogRanges, ReadOptions
from bridge.brokers.local.broker import LocalBroker
from bridge.config.model.brokers import LocalBrokerConfig
from bridge.core import dead_letter, provenance
from bridge.core.message import Message, Position
from bridge.core.system_names import DEAD_LETTER_BLOCK
from bridge.dead_letters.cache import RowCache
from bridge.dead_letters.reader import TopicReader, TopicRows
from bridge.dead_letters.rows import Rows

TOPIC = "orders.dlq"
SERIAL = itertools.count(1)


def entry(number: int) -> Message:
    cause = provenance.Cause("no_route", f"no rule matches '{number}'", "NoRoute", "orders", f"route-{number % 3}")
    origin = Message(f"body {number}".encode(), f"key {number}".encode(), timestamp=float(number))
    made = provenance.dead_letter(origin, Position("cluster", "orders", 0, number), cause)
    return Message(made.body, made.key, made.headers, timestamp=1e9 + number)


class MemoryLog:
    """Log of two partitions whose records a test adds, removes and replaces. reads: number of messages that were read.

    stride: offsets between two records, so that few records fill several blocks.
    """

    def __init__(self, stride: int = 3000) -> None:
        self.records: list[dict[int, Message]] = [{}, {}]
        self.ends = [0, 0]
        self.begins = [0, 0]
        self.stride = stride
        self.reads = 0

    def append(self, partition: int) -> None:
        self.records[partition][self.ends[partition]] = entry(next(SERIAL))
        self.ends[partition] += self.stride

    def expire(self, partition: int) -> None:
        """Remove the oldest record."""
        if self.records[partition]:
            first = min(self.records[partition])
            del self.records[partition][first]
            self.begins[partition] = first + 1

    def truncate(self, partition: int) -> None:
        """Lose the youngest record, as after an unclean election."""
        if self.records[partition]:
            last = max(self.records[partition])
            del self.records[partition][last]
            self.ends[partition] = max(last, self.begins[partition])

    def recreate(self, partition: int) -> None:
        """Delete the topic and create it again."""
        count = len(self.records[partition])
        self.records[partition], self.ends[partition], self.begins[partition] = {}, 0, 0
        for _ in range(count):
            self.append(partition)

    async def ranges(self, topic: str) -> LogRanges:
        return LogRanges("cluster", dict(enumerate(zip(self.begins, self.ends, strict=True))), whole=True)

    async def read(self, options: ReadOptions) -> AsyncIterator[tuple[Position, Message]]:
        assert options.ranges is not None
        for partition, (begin, end) in options.ranges.items():
            for offset, message in sorted(self.records[partition].items()):
                if begin <= offset < end:
                    self.reads += 1
                    yield Position("cluster", options.topic, partition, offset), message

    def expected(self) -> dict[int, list[tuple[int, float | None, str]]]:
        return {
            partition: [
                (offset, message.timestamp, dead_letter.read(message, Position("", "", 0, offset)).fingerprint)
                for offset, message in sorted(records.items())
            ]
            for partition, records in enumerate(self.records)
        }


def read_out(rows: TopicRows) -> dict[int, list[tuple[int, float | None, str]]]:
    return {
        partition: [(offset, time, facts.fingerprint) for block in blocks for offset, time, facts in block.rows()]
        for partition, blocks in rows.partitions.items()
    }


def check_sums(rows: TopicRows) -> None:
    for block in itertools.chain.from_iterable(rows.partitions.values()):
        assert sum(each.count for each in block.summaries) == len(block)
        for facts, each in zip(block.table, block.summaries, strict=True):
            mine = [(time, offset) for offset, time, found in block.rows() if found == facts]
            assert (each.count, each.first, each.last, each.offset) == (
                len(mine), min(mine)[0] if mine else None, max(mine)[0] if mine else None, max(mine)[1] if mine else 0
            )  # fmt: skip


def summed(rows: TopicRows) -> Counter[str]:
    """Dead letters by cause, from the sums."""
    found: Counter[str] = Counter()
    for block in itertools.chain.from_iterable(rows.partitions.values()):
        for facts, summary in zip(block.table, block.summaries, strict=True):
            found[facts.fingerprint] += summary.count
    return found


def counted(log: MemoryLog) -> Counter[str]:
    return Counter(name for rows in log.expected().values() for _, _, name in rows)


CHANGES = st.sampled_from(
    [
        "append",
        "append",
        "append",
        "expire",
        "truncate",
        "recreate",
        "read",
        "watch",
        "watch",
        "damage",
        "remove",
        "empty",
        "old",
    ]
)


@settings(deadline=None)
@given(st.lists(st.tuples(CHANGES, st.integers(0, 1), st.randoms(use_true_random=False)), max_size=25))
def test_the_cache_is_the_log(tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[str, int, Any]]) -> None:
    directory = tmp_path_factory.mktemp("cache")
    log, cache = MemoryLog(), RowCache(directory, "1", 10**9)
    kept: dict[Path, bytes] = {}
    before: TopicRows | None = None
    for change, partition, random in changes:
        files = sorted(path for path in directory.rglob("*") if path.is_file())
        if change == "read":
            rows = asyncio.run(TopicReader(cache).read(log, TOPIC))
            assert read_out(rows) == log.expected()
            check_sums(rows)
            kept |= {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
        elif change == "watch":  # as the daemon, which keeps only the sums in memory
            before = asyncio.run(TopicReader(cache).read(log, TOPIC, before))
            assert summed(before) == counted(log)
            for block in itertools.chain.from_iterable(before.partitions.values()):
                block.unload()
            kept |= {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
        elif change in ("damage", "remove", "empty"):
            if files:
                path = random.choice(files)
                data = bytearray(path.read_bytes())
                if change == "remove":
                    path.unlink()
                elif change == "empty" or not data:
                    path.write_bytes(b"")
                else:
                    data[random.randrange(len(data))] ^= 1 << random.randrange(8)
                    path.write_bytes(data)
        elif change == "old":  # another process that was slow writes a file as it was
            if kept:
                path = random.choice(sorted(kept))
                if path.parent.is_dir() and path.name != "generation":
                    path.write_bytes(kept[path])
        else:
            getattr(log, change)(partition)
    rows = asyncio.run(TopicReader(cache).read(log, TOPIC))
    assert read_out(rows) == log.expected()
    check_sums(rows)


def test_a_second_reading_reads_one_message_of_each_partition(tmp_path: Path) -> None:
    log, cache = MemoryLog(stride=1), RowCache(tmp_path, "1", 10**9)
    for number in range(200):
        log.append(number % 2)
    first = asyncio.run(TopicReader(cache).read(log, TOPIC))
    assert log.reads == 200
    log.reads = 0
    assert read_out(asyncio.run(TopicReader(cache).read(log, TOPIC))) == read_out(first)
    assert log.reads == 2
    log.append(0)
    log.reads = 0
    assert read_out(asyncio.run(TopicReader(cache).read(log, TOPIC))) == log.expected()
    assert log.reads == 3


def test_another_version_reads_again(tmp_path: Path) -> None:
    log = MemoryLog()
    log.append(0)
    for version in ("1", "2"):
        log.reads = 0
        asyncio.run(TopicReader(RowCache(tmp_path, version, 10**9)).read(log, TOPIC))
        assert log.reads == 1


def test_the_cache_is_bounded(tmp_path: Path) -> None:
    log = MemoryLog(stride=1)
    for _ in range(100):
        log.append(0)
    for number in range(5):
        asyncio.run(TopicReader(RowCache(tmp_path, str(number), 10**9)).read(log, TOPIC))
    size = RowCache(tmp_path, "4", 10**9).tidy()
    bound = size * 3 // 5
    assert 0 < RowCache(tmp_path, "4", bound).tidy() <= bound
    assert len(list(tmp_path.iterdir())) <= 3


def test_a_directory_that_cannot_be_written_costs_only_time(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    log, cache = MemoryLog(), RowCache(tmp_path / "file", "1", 10**9)
    log.append(0)
    for _ in range(2):
        assert read_out(asyncio.run(TopicReader(cache).read(log, TOPIC))) == log.expected()
    assert cache.tidy() == 0


def test_files_hold_no_payload_key_or_message_id(tmp_path: Path) -> None:
    log, cache = MemoryLog(), RowCache(tmp_path, "1", 10**9)
    log.append(0)
    asyncio.run(TopicReader(cache).read(log, TOPIC))
    [file] = tmp_path.rglob("*.block")
    assert b"body" not in file.read_bytes()
    assert b"key" not in file.read_bytes()
    assert file.stat().st_mode & 0o077 == 0


async def test_readers_at_the_same_time(tmp_path: Path) -> None:
    broker = LocalBroker("local", tmp_path / "log", LocalBrokerConfig(type="local", partitions=2))
    await broker.start()
    try:
        # Each partition has a whole block and the begin of another one
        count = 2 * DEAD_LETTER_BLOCK + 500
        await broker.publish(TOPIC, [entry(number) for number in range(count)])
        readers = [TopicReader(RowCache(tmp_path / "cache", "1", 10**9)) for _ in range(3)]
        results = await asyncio.gather(*(reader.read(broker, TOPIC) for reader in readers))
        assert {len(rows) for rows in results} == {count}
        counts: list[int] = []
        await broker.publish(TOPIC, [entry(0)])
        again = await TopicReader(RowCache(tmp_path / "cache", "1", 10**9), counts.append).read(broker, TOPIC)
        assert len(again) == count + 1
        assert counts == [1]
    finally:
        await broker.stop()


def test_rows_of_another_machine_are_ignored() -> None:
    rows = Rows(0, 0, 10)
    data = rows.to_bytes()
    assert Rows.from_bytes(data) is not None
    assert Rows.from_bytes(data[:-1]) is None
    assert Rows.from_bytes(b"") is None
