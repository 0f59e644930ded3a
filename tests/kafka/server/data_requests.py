"""Request handlers for produce, fetch and list offsets."""

from __future__ import annotations

import asyncio
import itertools

from tests.kafka.server import errors
from tests.kafka.server.state import State
from tests.kafka.server.wire import Reader, Writer

EARLIEST = -2


def produce(state: State, reader: Reader, writer: Writer, version: int) -> bool:
    """Handle a produce request. Returns False when the client wants no response."""
    reader.maybe_text()
    acks = reader.int16()
    reader.int32()
    results: list[tuple[str, list[tuple[int, int, int]]]] = []
    for topic, batches in reader.by_topic(lambda: (reader.int32(), reader.bytes())):
        stored: list[tuple[int, int, int]] = []
        for number, data in batches:
            partition = state.partition(topic, number)
            code, offset = (errors.UNKNOWN_TOPIC, -1) if partition is None else partition.append(data)
            stored.append((number, code, offset))
        results.append((topic, stored))

    def write(result: tuple[int, int, int]) -> None:
        writer.int32(result[0]).int16(result[1]).int64(result[2]).int64(-1)
        if version >= 5:
            writer.int64(-1)
        if version >= 8:
            writer.int32(0).text(None)

    writer.by_topic(results, write).int32(0)
    return acks != 0


async def fetch(state: State, reader: Reader, writer: Writer, version: int) -> None:
    """Handle a fetch request: wait for the minimum number of bytes or for the maximum time that the client states."""
    reader.int32()
    timeout, least, most, isolated = reader.int32() / 1000, reader.int32(), reader.int32(), bool(reader.int8())
    if version >= 7:
        reader.int64()

    def wish() -> tuple[int, int, int]:
        number = reader.int32()
        if version >= 9:
            reader.int32()
        offset = reader.int64()
        if version >= 5:
            reader.int64()
        return number, offset, reader.int32()

    options = [(topic, *each) for topic, wanted in reader.by_topic(wish) for each in wanted]
    end = state.loop.time() + timeout
    while True:
        found = [_read(state, *each, isolated) for each in options]
        size = sum(len(each[-1]) for each in found)
        left = end - state.loop.time()
        if size >= least or left <= 0 or any(each[2] for each in found):
            break
        waiter = state.loop.create_future()
        partitions = [partition for topic, number, *_ in options if (partition := state.partition(topic, number))]
        for partition in partitions:
            partition.waiters.add(waiter)
        await asyncio.wait([waiter], timeout=left)
        for partition in partitions:
            partition.waiters.discard(waiter)
    writer.int32(0)
    if version >= 7:
        writer.int16(0).int32(0)
    room = most

    def write(result: tuple[str, int, int, int, int, int, list[tuple[int, int, int]], bytes]) -> None:
        nonlocal room
        _, number, code, high, stable, start, aborted, data = result
        data = data if room > 0 else b""
        room -= len(data)
        writer.int32(number).int16(code).int64(high).int64(stable)
        if version >= 5:
            writer.int64(start)
        writer.array(aborted, lambda each: writer.int64(each[0]).int64(each[1]))
        if version >= 11:
            writer.int32(-1)
        writer.bytes(data)

    writer.by_topic([(topic, list(each)) for topic, each in itertools.groupby(found, lambda each: each[0])], write)


def _read(
    state: State, topic: str, number: int, offset: int, limit: int, isolated: bool
) -> tuple[str, int, int, int, int, int, list[tuple[int, int, int]], bytes]:
    partition = state.partition(topic, number)
    if partition is None:
        return topic, number, errors.UNKNOWN_TOPIC, -1, -1, -1, [], b""
    if code := partition.refusal():
        return topic, number, code, -1, -1, -1, [], b""
    high, stable, start = partition.end, partition.stable_end, partition.start
    if not start <= offset <= high:
        return topic, number, errors.OFFSET_OUT_OF_RANGE, high, stable, start, [], b""
    end = stable if isolated else high
    data = partition.read(offset, limit, end) if offset < end else b""
    aborted = [each for each in partition.aborted if isolated and each[2] >= offset and each[1] < end]
    return topic, number, errors.NONE, high, stable, start, aborted, data


def list_offsets(state: State, reader: Reader, writer: Writer, version: int) -> None:
    """Handle a list-offsets request for the beginning, the end, or the first record of a time."""
    reader.int32()
    isolated = False
    if version >= 2:
        isolated = bool(reader.int8())
        writer.int32(0)

    def wish() -> tuple[int, int]:
        number = reader.int32()
        if version >= 4:
            reader.int32()
        return number, reader.int64()

    asked = reader.by_topic(wish)
    for_topic = iter([topic for topic, wanted in asked for _ in wanted])

    def write(wanted: tuple[int, int]) -> None:
        partition = state.partition(next(for_topic), wanted[0])
        code = errors.UNKNOWN_TOPIC if partition is None else errors.NONE
        stamp, offset = -1, -1
        if partition is not None:
            if wanted[1] >= 0:
                stamp, offset = partition.at(wanted[1])
            else:
                end = partition.stable_end if isolated else partition.end
                offset = partition.start if wanted[1] == EARLIEST else end
        writer.int32(wanted[0]).int16(code).int64(stamp).int64(offset)
        if version >= 4:
            writer.int32(-1)

    writer.by_topic(asked, write)
