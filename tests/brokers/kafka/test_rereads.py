"""Interruptions during rereads of a damaged batch: it is unreadable only when all reads return the same bytes."""

from __future__ import annotations

import asyncio
import random

import pytest

from bridge.core.message import Message
from tests.brokers.consumer import Assignments, nothing_more, take
from tests.brokers.kafka.test_unreadable import Bytes, collect, entry, harness, options
from tests.kafka.batches import DAMAGES, Log, batch, healthy, record
from tests.kafka.server.log import Partition

__all__ = ["harness"]

NOT_LEADER = 6


class Interruption:
    """Interruption of a partition's reads at the read with this number; it may repair the bytes from then on."""

    def __init__(self, harness: Bytes, partition: Partition, at: int, how: str, healed: tuple[bytes, bytes]) -> None:
        self._harness, self._how, self._at, self._healed = harness, how, at, healed
        self._partition = partition
        self.reads = 0
        self.happened = False
        partition.transform = self._read
        partition.refusal = self._refuse

    def _read(self, data: bytes) -> bytes:
        if not data:
            return data
        self.reads += 1
        if self.reads == self._at and self._how == "restart":
            self.happened = True
            asyncio.get_running_loop().call_soon(self._harness.server.drop)
            raise ConnectionError
        return data.replace(*self._healed) if self.happened else data

    def _refuse(self) -> int:
        if self._how == "leader" and not self.happened and self.reads == self._at - 1:
            self.happened = True
            return NOT_LEADER
        return 0


@pytest.mark.parametrize("how", ["restart", "leader"])
@pytest.mark.parametrize("at", [2, 3])
@pytest.mark.parametrize("heals", [False, True])
async def test_a_reread_that_is_interrupted_begins_again(harness: Bytes, how: str, at: int, heals: bool) -> None:
    rng = random.Random(f"{how}{at}")
    log, whole = Log(), Log()
    good = healthy(rng, "b", 3)
    rotten = DAMAGES["rotten"](rng, "b", 3)
    for each, middle in ((log, rotten), (whole, good)):
        for made in (healthy(random.Random(1), "a", 2), middle, healthy(random.Random(2), "c", 2)):
            each.add(made)
    await harness.fill(log)
    partition = harness.server.state.partition("orders", 0)
    assert partition is not None
    healed = (log.batches[1], whole.batches[1]) if heals else (b"", b"")
    found = Interruption(harness, partition, at, how, healed)
    subscription = await (await harness.broker()).subscribe(options(), Assignments())
    expected = (whole if heals else log).entries
    assert dict(await collect(subscription, len(expected), rng)) == {0: expected}
    assert found.happened
    await subscription.flush()
    assert harness.committed("g", 0) == log.end
    await nothing_more(subscription)
    # Reads before the interruption do not count
    assert heals or found.reads >= at + 1


async def test_the_end_of_a_damaged_batch_is_looked_for_again_when_the_log_grows(harness: Bytes) -> None:
    """The header does not determine the end of the batch, and the next batch arrives during the rereads."""
    await harness.create_topic("orders", 1)
    partition = harness.server.state.partition("orders", 0)
    assert partition is not None
    bad = batch([record(at, b"v") for at in range(3)])
    partition.place(bad[:23] + (900).to_bytes(4) + bad[27:], 3)
    reads = 0

    def transform(data: bytes) -> bytes:
        nonlocal reads
        reads += bool(data)
        if reads in (3, 5):
            partition.append(batch([record(0, b"later%d" % reads)]))
        return data

    partition.transform = transform
    subscription = await (await harness.broker()).subscribe(options(), Assignments())
    assert [entry(each) for each in await take(subscription, 3)] == [(0, 2, None), (3, 3, b"later3"), (4, 4, b"later5")]
    await nothing_more(subscription)


async def test_a_log_that_grows_behind_a_damaged_batch_loses_nothing(harness: Bytes) -> None:
    log = Log()
    log.add(DAMAGES["rotten"](random.Random(3), "r", 4))
    await harness.fill(log)
    broker = await harness.broker()
    publishing = asyncio.create_task(broker.publish("orders", [Message(b"%d" % number) for number in range(300)]))
    subscription = await broker.subscribe(options(), Assignments())
    found = [entry(each) for each in await take(subscription, 301)]
    await publishing
    assert found == [(0, 3, None), *((4 + number, 4 + number, b"%d" % number) for number in range(300))]


async def test_a_batch_written_while_the_answer_is_made_is_healthy(harness: Bytes) -> None:
    """A broker determines the end of the log before it reads; an answer may hold more than the end that it states."""
    await harness.create_topic("orders", 1)
    partition = harness.server.state.partition("orders", 0)
    assert partition is not None
    partition.append(batch([record(0, b"first")]))

    def transform(data: bytes) -> bytes:
        if data and partition.end == 1:
            partition.append(batch([record(at, b"next%d" % at) for at in range(3)]))
            return data + partition._batches[-1].data
        return data

    partition.transform = transform
    subscription = await (await harness.broker()).subscribe(options(), Assignments())
    expected = [(0, 0, b"first"), *((at + 1, at + 1, b"next%d" % at) for at in range(3))]
    assert [entry(each) for each in await take(subscription, len(expected))] == expected
