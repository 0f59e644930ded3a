"""Compressed batches of many partitions: decompressed bytes are limited, and every record is read."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

import pytest

from bridge.brokers.base import SubscribeOptions
from bridge.brokers.kafka.log.compression import OpenBatches, TakeBudget, decompress
from bridge.brokers.kafka.log.fetch_cursor import PartitionData
from bridge.brokers.kafka.log.partition_log import PartitionLog
from bridge.brokers.kafka.log.records import Bounds
from bridge.brokers.kafka.subscription import KafkaSubscription
from tests.brokers.consumer import Assignments, take
from tests.brokers.kafka.test_unreadable import Bytes
from tests.kafka.batches import CODECS, batch, record
from tests.kafka.server.server import Server

LIMIT = 1 << 20
RECORDS, SIZE = 100, 8 << 10


def inflating(codec: int, records: int = RECORDS, size: int = SIZE) -> bytes:
    """Build a batch that is small when compressed, and just below the limit when decompressed."""
    return batch([record(at, bytes(size)) for at in range(records)], attributes=codec, compress=CODECS[codec])


def logs(count: int, codec: int, open_batches: OpenBatches) -> list[PartitionLog]:
    found = []
    for number in range(count):
        log = PartitionLog(
            "t",
            number,
            0,
            bounds=Bounds(LIMIT, 500_000, 1_000),
            low_water=LIMIT,
            treatment=lambda _: "dead_letter",
            open_batches=open_batches,
        )
        log.accept(0, PartitionData(inflating(codec), RECORDS, RECORDS, None))
        found.append(log)
    return found


@pytest.mark.parametrize("codec", sorted(CODECS))
def test_partitions_together_hold_little_more_than_one_batch(codec: int) -> None:
    open_batches, rng = OpenBatches(LIMIT), random.Random(codec)
    partitions = logs(20, codec, open_batches)
    highest, seen = 0, [0] * len(partitions)
    while any(log.position < RECORDS for log in partitions):
        rng.shuffle(partitions)
        for log in partitions:
            for first, _, message in log.take(rng.randrange(1, 30)):
                assert (first, len(message.body or b"")) == (seen[log.number], SIZE)
                seen[log.number] += 1
            highest = max(highest, open_batches.bytes)
    assert seen == [RECORDS] * len(partitions)
    assert not any(log.take(1) for log in partitions)
    assert open_batches.bytes == 0
    assert highest <= 2 * LIMIT
    assert (highest > 0) == (codec != 0)


def test_a_partition_that_pauses_is_in_nobodys_way_and_goes_on_where_it_was() -> None:
    open_batches = OpenBatches(SIZE)
    first, second = logs(2, 4, open_batches)
    assert [offset for offset, *_ in first.take(3)] == [0, 1, 2]
    assert second.take(3) == []
    assert open_batches.refused
    first.close()
    assert open_batches.bytes == 0
    assert [offset for offset, *_ in second.take(3)] == [0, 1, 2]
    assert first.take(3) == []
    assert len(second.take(RECORDS)) == RECORDS - 3
    assert [offset for offset, *_ in first.take(3)] == [3, 4, 5]


def test_a_partition_that_is_gone_counts_no_more() -> None:
    open_batches = OpenBatches(SIZE)
    first, second = logs(2, 1, open_batches)
    first.take(3)
    assert second.take(3) == []
    first.seek(50)
    assert len(second.take(3)) == 3
    del second
    assert open_batches.bytes == 0


def test_one_call_hands_out_no_more_bytes_than_there_is_room_for() -> None:
    log = logs(1, 4, OpenBatches(LIMIT))[0]
    room = TakeBudget(10 * SIZE)
    assert len(log.take(RECORDS, room)) == 10
    assert room.left <= 0
    assert log.take(RECORDS, room) == []
    assert len(log.take(RECORDS, TakeBudget(1))) == 1
    assert log.position == 11


@pytest.mark.parametrize("codec", [2, 3, 4])
def test_decompressed_data_is_not_copied(codec: int) -> None:
    data = bytes(SIZE)
    assert decompress(codec, CODECS[codec](data), LIMIT) == data


@pytest.fixture
async def harness() -> AsyncIterator[Bytes]:
    server = Server()
    harness = Bytes(server, await server.start())
    yield harness
    await harness.stop()
    await server.stop()


async def test_a_consumer_reads_them_all_in_order(harness: Bytes) -> None:
    await harness.create_topic("t", 8)
    for number in range(8):
        partition = harness.server.state.partition("t", number)
        assert partition is not None
        for _ in range(3):
            partition.place(inflating(1 + number % 4), RECORDS)
    broker = await harness.broker()
    subscription = await broker.subscribe(SubscribeOptions(("t",), "g"), Assignments())
    assert isinstance(subscription, KafkaSubscription)
    offsets: dict[int, list[int]] = {}
    highest = 0
    while sum(map(len, offsets.values())) < 8 * 3 * RECORDS:
        for delivery in await take(subscription, 1):
            offsets.setdefault(delivery.position.partition, []).append(delivery.position.offset)
            await delivery.complete()
        highest = max(highest, subscription._assignment.open_batches.bytes)
    assert offsets == {number: list(range(3 * RECORDS)) for number in range(8)}
    assert 0 < highest <= 2 * LIMIT
    await subscription.close()
