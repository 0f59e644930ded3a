"""Damaged lengths and base offsets, which no checksum covers, on the disk.

A partition delivers every healthy record before the damage once and in order. Then it continues after the damaged batch
or stops in front of it. A record that was not delivered never counts as completed.
"""

from __future__ import annotations

import asyncio
import random
import struct
from collections import defaultdict
from typing import Any

import pytest

from bridge.brokers.base import Delivery
from tests.brokers.consumer import Assignments
from tests.brokers.kafka.test_unreadable import Bytes, Entry, entry, harness, options
from tests.kafka.batches import DAMAGES, Log, compacted, healthy
from tests.kit.waiting import TIMEOUT

__all__ = ["harness"]

PARTITIONS = 24


class Rotten:
    """Log with one batch whose header is damaged, and a group positioned at or before it."""

    def __init__(self, rng: random.Random, name: str, kind: str, *, gaps: bool) -> None:
        self.log = Log()
        for number in range(rng.randrange(3, 14)):
            if gaps and rng.random() < 0.3:
                self.log.end += rng.randrange(1, 5)
            make = rng.choice((healthy, healthy, compacted, DAMAGES["header_name"]))
            self.log.add(make(rng, f"{name}.{number}", rng.randrange(1, 6)))
        self.bases = [int.from_bytes(data[:8]) for data in self.log.batches]
        # A base offset that moves within a gap of a compacted log is undetectable: its records keep their order
        which = rng.randrange(len(self.bases) - (gaps and kind == "base"))
        self.segment = rng.choice((1, 2, 3, 5, 40))
        self.first = self.bases[which]
        data = bytearray(self.log.batches[which])
        self.last = self.first + struct.unpack_from(">i", data, 23)[0]
        if kind == "length":
            swallowed = rng.randrange(which, len(self.bases))
            size = sum(map(len, self.log.batches[which : swallowed + 1]))
            received = rng.choice((size - 12, size - 12, rng.randrange(1 << 16), 1 << rng.randrange(31)))
            struct.pack_into(">i", data, 8, received)
        else:
            near = max(0, self.first + rng.choice((-1, 1)) * rng.randrange(1, 8))
            received = rng.choice((near, near, self.first ^ 1 << rng.randrange(63)))
            if received < self.first and which % self.segment == 0:
                received = 2 * self.first - received  # no fetch shows the first batch of a segment with lower offsets
            struct.pack_into(">q", data, 0, received)
        self.sound = bytes(data) == self.log.batches[which]
        self.log.batches[which] = bytes(data)
        starts = [0, self.first, rng.randrange(self.first + 1), rng.randrange(self.first, self.last + 1)]
        self.start = 0 if gaps and kind == "base" else rng.choice(starts)

    def expected(self) -> list[Entry]:
        return [(max(first, self.start), last, value) for first, last, value in self.log.entries if last >= self.start]


async def place(harness: Bytes, partitions: list[Rotten], topic: str) -> None:
    await harness.create_topic(topic, len(partitions))
    for number, each in enumerate(partitions):
        partition = harness.server.state.partition(topic, number)
        assert partition is not None
        partition.segment = each.segment
        for data, base, end in zip(each.log.batches, each.bases, [*each.bases[1:], each.log.end], strict=True):
            partition.end = base
            partition.place(data, end - base, base=data[:8])
        harness.server.state.group("g").offsets[topic, number] = each.start, ""


async def read(harness: Bytes, partitions: list[Rotten], rng: random.Random) -> tuple[dict[int, list[Entry]], Any]:
    """Return deliveries by partition until each is read to its end or stopped; all are completed."""
    size = rng.choice((1024, 4096, 1 << 20))
    subscription: Any = await (await harness.broker(fetch_partition_bytes=size)).subscribe(options(), Assignments())
    found: dict[int, list[Entry]] = defaultdict(list)

    def ended() -> bool:
        stopped = subscription.stopped()
        logs = {each.number: each.log for each in subscription._assignment.partitions.values()}
        return all(
            f"orders/{number}" in stopped or logs[number].position == each.log.end
            for number, each in enumerate(partitions)
        )

    async def work() -> None:
        while taken := await subscription.receive(rng.randrange(1, 30)):
            delivery: Delivery
            for delivery in taken:
                found[delivery.position.partition].append(entry(delivery))
                await delivery.complete()

    worker = asyncio.create_task(work())
    async with asyncio.timeout(TIMEOUT):
        while not ended():
            await asyncio.sleep(0.02)
            subscription._wake()  # a request skips gaps at the end of a partition
    await subscription.flush()
    stopped = subscription.stopped()
    await subscription.close()
    await worker
    return found, stopped


def judge(given: Rotten, found: list[Entry], stopped: str, committed: int) -> None:
    expected = given.expected()
    if given.sound:
        assert (found, stopped) == (expected, "")
        return
    values = [value for _, _, value in expected if value is not None]
    got = [value for _, _, value in found if value is not None]
    # No record is doubled or overtaken
    assert [value for value in values if value in set(got)] == got
    # Undelivered records are in an unreadable run or after the position
    damaged = {value for first, _, value in expected if given.first <= first <= given.last and value is not None}
    runs = [(first, last) for first, last, value in found if value is None]
    for first, _, value in expected:
        if value is None or value in got:
            continue
        held = any(low <= first <= high for low, high in runs)
        assert first >= committed or (held and value in damaged), (first, committed, runs)
    if not stopped:
        assert committed == given.log.end
        # The damage affects at most its own batch
        assert [value for value in got if value not in damaged] == [value for value in values if value not in damaged]


async def attempt(harness: Bytes, seed: int, kind: str) -> None:
    rng = random.Random(f"{kind}{seed}")
    gaps = rng.random() < 0.4
    partitions = [Rotten(rng, f"p{number}", kind, gaps=gaps) for number in range(PARTITIONS)]
    await place(harness, partitions, "orders")
    found, stopped = await read(harness, partitions, rng)
    for number, each in enumerate(partitions):
        why = stopped.get(f"orders/{number}", "")
        try:
            judge(each, found[number], why, harness.committed("g", number))
        except AssertionError as error:
            headers = [(*struct.unpack_from(">qi", data), len(data)) for data in each.log.batches]
            error.add_note(f"{number}: {each.first} to {each.last}, start {each.start}, stopped {why!r}, {headers}")
            raise


@pytest.mark.parametrize("kind", ["length", "base"])
@pytest.mark.parametrize("seed", range(6))
async def test_a_rotten_header_costs_no_neighbour(harness: Bytes, seed: int, kind: str) -> None:
    await attempt(harness, seed, kind)


@pytest.mark.prove
@pytest.mark.parametrize("kind", ["length", "base"])
@pytest.mark.parametrize("seed", range(100, 150))
async def test_a_rotten_header_costs_no_neighbour_at_length(harness: Bytes, seed: int, kind: str) -> None:
    await attempt(harness, seed, kind)
