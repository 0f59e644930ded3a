"""Offsets without a checksum, old message sets, and completed records of a batch that becomes damaged."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder

from bridge.brokers.kafka.log.splitting import split
from tests.brokers.consumer import Assignments, take
from tests.brokers.kafka.test_unreadable import Bytes, entry, harness, options
from tests.kafka.batches import batch, record
from tests.kafka.server.log import Batch

__all__ = ["harness"]


def plain(name: str, count: int) -> bytes:
    return batch([record(at, f"{name}{at}".encode(), b"k") for at in range(count)])


def old(name: str, base: int, count: int, magic: int, codec: int) -> bytes:
    """Build a message set in an old format; compressed, it is one message with the offset of its last one."""
    builder = LegacyRecordBatchBuilder(magic, codec, 1 << 20)
    for at in range(count):
        offset = at if magic and codec else base + at
        builder.append(offset, timestamp=5 if magic else None, key=b"k", value=f"{name}{at}".encode())
    data = bytes(builder.build())
    return at_offset(data, base + count - 1) if codec else data


def at_offset(data: bytes, offset: int) -> bytes:
    return struct.pack(">q", offset) + data[8:]


def rot(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


async def fill(harness: Bytes, *batches: tuple[bytes, int]) -> None:
    """Put raw bytes into the log, with the number of offsets of each batch."""
    await harness.create_topic("orders", 1)
    partition = harness.server.state.partition("orders", 0)
    assert partition is not None
    for data, size in batches:
        partition._batches.append(Batch(partition.end, partition.end + size - 1, 0, data))
        partition.end += size


async def read(harness: Bytes, count: int) -> Sequence[tuple[int, int, bytes | None]]:
    subscription = await (await harness.broker()).subscribe(options(), Assignments())
    found = await take(subscription, count)
    for delivery in found:
        await delivery.complete()
    await subscription.flush()
    return [entry(delivery) for delivery in found]


OLD = pytest.mark.parametrize(("magic", "codec"), [(0, 1), (0, 2), (1, 1), (1, 2), (1, 3)])


@OLD
async def test_a_position_inside_of_an_old_compressed_set(harness: Bytes, magic: int, codec: int) -> None:
    await fill(harness, (old("a", 0, 6, magic, codec), 6))
    subscription = await (await harness.broker()).subscribe(options(), Assignments())
    for delivery in (await take(subscription, 6))[:3]:
        await delivery.complete()
    await subscription.flush()
    await harness.crash()
    assert await read(harness, 3) == [(3, 3, b"a3"), (4, 4, b"a4"), (5, 5, b"a5")]


@OLD
async def test_an_old_compressed_set_behind_damage(harness: Bytes, magic: int, codec: int) -> None:
    bad = rot(old("x", 0, 1, magic, 0))
    await fill(harness, (bad, 1), (old("a", 1, 3, magic, codec), 3), (at_offset(plain("b", 1), 4), 1))
    expected = [(0, 0, None), (1, 1, b"a0"), (2, 2, b"a1"), (3, 3, b"a2"), (4, 4, b"b0")]
    assert await read(harness, 5) == expected


@pytest.mark.parametrize("magic", [0, 1])
async def test_an_old_message_with_an_offset_behind_the_end_is_damaged(harness: Bytes, magic: int) -> None:
    messages = [old("a", at, 1, magic, 0) for at in range(4)]
    messages[1] = at_offset(messages[1], 1 << 40)
    await fill(harness, *((message, 1) for message in messages))
    assert await read(harness, 4) == [(0, 0, b"a0"), (1, 1, None), (2, 2, b"a0"), (3, 3, b"a0")]
    assert harness.committed("g", 0) == 4


def test_batches_that_overlap_are_damaged() -> None:
    """The base offset is not covered by the checksum."""
    for received, faults in ((1, [False, True]), (5, [False, True])):
        data = b"".join((plain("a", 3), at_offset(plain("b", 3), received), at_offset(plain("c", 3), 6)))
        found = split(data, 0, 9, None)
        assert [each.fault is not None for each in found] == faults
        assert found[-1].fault is not None
        assert found[-1].fault.word == "offsets"


async def test_payload_that_looks_like_the_next_batch_moves_no_position(harness: Bytes) -> None:
    """The length of a batch is damaged, and bytes in its middle look like a header."""
    header = struct.pack(">qiib", 4, 100, 0, 2) + bytes(40)
    data = batch([record(0, header + b"x" * 50), record(1, b"b")])
    data = data[:8] + struct.pack(">i", data.index(header) - 12) + data[12:]
    await fill(harness, (plain("a", 2), 2), (at_offset(data, 2), 2), (at_offset(plain("c", 2), 4), 2))
    assert await read(harness, 2) == [(0, 0, b"a0"), (1, 1, b"a1")]
    assert harness.committed("g", 0) == 2


async def test_records_that_were_done_before_their_batch_rotted_do_not_hide_the_others(harness: Bytes) -> None:
    await fill(harness, *((at_offset(plain("abc"[at], 3), 3 * at), 3) for at in range(3)))
    subscription = await (await harness.broker()).subscribe(options(), Assignments())
    for delivery in await take(subscription, 9):
        if delivery.position.offset in (3, 5):
            await delivery.complete()
    await subscription.flush()
    await harness.crash()
    partition = harness.server.state.partition("orders", 0)
    assert partition is not None
    partition._batches[1].data = rot(partition._batches[1].data)
    found = await read(harness, 7)
    assert [each[:2] for each in found] == [(0, 0), (1, 1), (2, 2), (3, 5), (6, 6), (7, 7), (8, 8)]


async def test_a_damaged_batch_that_was_done_above_an_open_record_is_not_done_again(harness: Bytes) -> None:
    """Records of the batch are not executed again either, where they become readable."""
    good = at_offset(plain("b", 3), 1)
    await fill(harness, (plain("a", 1), 1), (rot(good), 3), (at_offset(plain("c", 1), 4), 1))
    subscription = await (await harness.broker()).subscribe(options(), Assignments())
    for delivery in await take(subscription, 3):
        if delivery.position.offset == 1:
            await delivery.complete()
    await subscription.flush()
    await harness.crash()
    partition = harness.server.state.partition("orders", 0)
    assert partition is not None
    partition._batches[1].data = good
    assert await read(harness, 2) == [(0, 0, b"a0"), (4, 4, b"c0")]


async def test_damage_in_a_batch_whose_beginning_is_deleted(harness: Bytes) -> None:
    """Deleting records may move the start of the log into a batch."""
    bad = batch([record(0, b"a"), record(1, b"b"), record(2, b"c", b"k", [(b"caf\xe9", b"1")]), record(3, b"d")])
    await fill(harness, (bad, 4), (at_offset(plain("e", 1), 4), 1))
    partition = harness.server.state.partition("orders", 0)
    assert partition is not None
    partition.truncate(1)
    assert [each[:2] for each in await read(harness, 4)] == [(1, 1), (2, 2), (3, 3), (4, 4)]
