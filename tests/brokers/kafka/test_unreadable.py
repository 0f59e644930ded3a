"""Partitions with damaged batches among healthy ones, read through the real client.

No healthy record is lost, doubled or overtaken; each damaged run has one delivery, in its place. The broker is the
small test server, since a real broker accepts only valid batches. `test_rotten_disk.py` damages bytes on the disk of a
real broker.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest

from bridge.brokers.base import Delivery, ReadOptions, SubscribeOptions, Subscription, UnreadablePolicy
from bridge.brokers.kafka import KafkaBroker
from bridge.core.errors import BrokerError, BrokerUnavailable
from bridge.core.message import Message, Position
from tests.brokers.consumer import CAUSE, Assignments, nothing_more, take
from tests.brokers.kafka.harness import KafkaHarness
from tests.kafka.batches import DAMAGES, Log, healthy, mixed
from tests.kafka.server.server import Server
from tests.kit.waiting import TIMEOUT, eventually

PARTITIONS = 3
Entry = tuple[int, int, bytes | None]


class Bytes(KafkaHarness):
    """Small server in this process, with a log of arbitrary bytes."""

    def __init__(self, server: Server, bootstrap: str) -> None:
        super().__init__(bootstrap)
        self.server = server

    async def fill(self, *logs: Log, topic: str = "orders") -> None:
        await self.create_topic(topic, len(logs))
        for number, log in enumerate(logs):
            partition = self.server.state.partition(topic, number)
            assert partition is not None
            partition.fill(log.batches, log.end)

    async def broker(self, **config: object) -> KafkaBroker:
        return await super().broker(max_batch="1MiB", **config)

    def committed(self, group: str, number: int, topic: str = "orders") -> int:
        return int(self.server.state.group(group).offsets[topic, number][0])


@pytest.fixture
async def harness() -> AsyncIterator[Bytes]:
    server = Server()
    harness = Bytes(server, await server.start())
    yield harness
    await harness.stop()
    await server.stop()


def options(policy: str = "dead_letter", group: str = "g") -> SubscribeOptions:
    return SubscribeOptions(("orders",), group, unreadable=UnreadablePolicy(policy, policy))  # type: ignore[arg-type]


def entry(delivery: Delivery) -> Entry:
    message, offset = delivery.message, delivery.position.offset
    if message.unreadable is None:
        return offset, offset, message.body
    last = message.unreadable.last
    return offset, offset if last is None else last, None


def logs_of(rng: random.Random, batches: int = 10) -> list[Log]:
    return [mixed(rng, f"p{number}", batches) for number in range(PARTITIONS)]


async def collect(subscription: Subscription, count: int, rng: random.Random) -> dict[int, list[Entry]]:
    """Return deliveries by partition in the order of receipt; all are completed, in random order."""
    found: dict[int, list[Entry]] = defaultdict(list)
    open_ones: list[Delivery] = []
    async with asyncio.timeout(TIMEOUT):
        while count:
            taken = await subscription.receive(min(rng.randrange(1, 9), count))
            count -= len(taken)
            for delivery in taken:
                found[delivery.position.partition].append(entry(delivery))
            open_ones += taken
            rng.shuffle(open_ones)
            while len(open_ones) > 4:
                await open_ones.pop().complete()
    for delivery in open_ones:
        await delivery.complete()
    return found


@pytest.mark.parametrize("seed", range(12))
async def test_each_entry_is_delivered_once_in_its_place(harness: Bytes, seed: int) -> None:
    rng = random.Random(seed)
    logs = logs_of(rng)
    await harness.fill(*logs)
    subscription = await (await harness.broker()).subscribe(options(), Assignments())
    found = await collect(subscription, sum(len(log.entries) for log in logs), rng)
    assert dict(found) == {number: log.entries for number, log in enumerate(logs) if log.entries}
    await asyncio.wait_for(_all_read(subscription), TIMEOUT)
    await subscription.flush()
    # Each offset up to the committed one has an outcome or a named gap
    assert [harness.committed("g", number) for number in range(PARTITIONS)] == [log.end for log in logs]
    assert sum(subscription.gaps.values()) == sum(log.gaps for log in logs)
    assert set(subscription.lag().values()) == {0}
    assert subscription.stopped() == {}
    await subscription.close()
    again = await (await harness.broker()).subscribe(options(), Assignments())
    await nothing_more(again)


async def _all_read(subscription: Subscription) -> None:
    """Skip gaps at the end of a partition, which needs a request."""
    while any(subscription.lag().values()):
        with suppress(TimeoutError):
            await asyncio.wait_for(subscription.receive(1), 0.05)


@pytest.mark.parametrize("seed", range(8))
async def test_a_crash_repeats_what_was_not_committed_and_loses_nothing(harness: Bytes, seed: int) -> None:
    rng = random.Random(seed)
    logs = logs_of(rng)
    await harness.fill(*logs)
    seen: dict[int, list[Entry]] = {number: [] for number in range(PARTITIONS)}
    done: set[tuple[int, int]] = set()
    everything = {(number, first) for number, log in enumerate(logs) for first, *_ in log.entries}
    async with asyncio.timeout(TIMEOUT):
        while done != everything:
            subscription = await (await harness.broker()).subscribe(options(), Assignments())
            committed = set(done)
            mine: dict[int, list[int]] = defaultdict(list)
            held: list[Delivery] = []
            for _ in range(rng.randrange(1, 12)):
                if done | {(each.position.partition, each.position.offset) for each in held} == everything:
                    break
                for delivery in await subscription.receive(rng.randrange(1, 20)):
                    number, offset = delivery.position.partition, delivery.position.offset
                    # No committed record comes again, and none is overtaken
                    assert (number, offset) not in committed
                    assert not mine[number] or mine[number][-1] < offset
                    mine[number].append(offset)
                    seen[number].append(entry(delivery))
                    held.append(delivery)
                rng.shuffle(held)
                for delivery in held[: len(held) // 2]:  # type: ignore[assignment]  # wider than its annotation, on purpose
                    await delivery.complete()
                    done.add((delivery.position.partition, delivery.position.offset))
                del held[: len(held) // 2]
            if rng.random() < 0.3:
                for delivery in held:  # type: ignore[assignment]  # wider than its annotation, on purpose
                    await delivery.complete()
                    done.add((delivery.position.partition, delivery.position.offset))
            await subscription.flush()
            await harness.crash()
    for number, log in enumerate(logs):
        assert sorted(set(seen[number])) == log.entries


@pytest.mark.parametrize("seed", range(6))
async def test_a_rebalance_in_the_middle_costs_nothing(harness: Bytes, seed: int) -> None:
    """A second member joins and leaves; each entry is completed by one of them, in order, once."""
    rng = random.Random(seed)
    logs = logs_of(rng, 14)
    await harness.fill(*logs)
    total = sum(len(log.entries) for log in logs)
    done: dict[int, list[Entry]] = {number: [] for number in range(PARTITIONS)}

    async def work(subscription: Subscription) -> None:
        while taken := await subscription.receive(3):
            for delivery in taken:
                if delivery.partition.revoked:
                    continue
                await delivery.complete()
                done[delivery.position.partition].append(entry(delivery))
            await asyncio.sleep(0.002)

    first = await (await harness.broker()).subscribe(options(), Assignments())
    workers = [asyncio.create_task(work(first))]
    second: Subscription | None = None
    async with asyncio.timeout(TIMEOUT):
        while sum(map(len, done.values())) < total:
            await asyncio.sleep(0.01)
            if second is None and sum(map(len, done.values())) > total // 4:
                second = await (await harness.broker()).subscribe(options(), Assignments())
                workers.append(asyncio.create_task(work(second)))
            elif second is not None and len(workers) == 2 and sum(map(len, done.values())) > total // 2:
                await second.close()
                workers.append(workers[1])
    await first.close()
    await asyncio.gather(*workers)
    for number, log in enumerate(logs):
        assert done[number] == log.entries


async def test_a_stopped_partition_says_where_and_holds_nobody_else(harness: Bytes) -> None:
    rng = random.Random(4)
    bad = Log()
    for made in (healthy(rng, "a", 3), DAMAGES["rotten"](rng, "b", 2), healthy(rng, "c", 3)):
        bad.add(made)
    good = Log()
    for number in range(30):
        good.add(healthy(rng, f"g{number}", 3))
    await harness.fill(bad, good)
    subscription: Any = await (await harness.broker()).subscribe(options("stop_partition"), Assignments())
    found = await collect(subscription, 3 + 90, rng)
    assert dict(found) == {0: bad.entries[:3], 1: good.entries}
    await nothing_more(subscription)
    assert list(subscription.stopped()) == ["orders/0"]
    assert "stopped at offsets 3 to 4: the checksum of the batch is wrong" in subscription.stopped()["orders/0"]
    await subscription.flush()
    assert (harness.committed("g", 0), harness.committed("g", 1)) == (3, 90)
    await subscription.close()
    # Another policy continues at the same position
    after = await (await harness.broker()).subscribe(options(), Assignments())
    found = await collect(after, 4, rng)
    assert dict(found) == {0: bad.entries[3:]}


async def test_the_lag_of_a_stopped_partition_grows(harness: Bytes) -> None:
    log = Log()
    log.add(DAMAGES["rotten"](random.Random(1), "r", 2))
    await harness.fill(log)
    broker = await harness.broker()
    subscription: Any = await broker.subscribe(options("stop_partition"), Assignments())
    await nothing_more(subscription)
    await broker.publish("orders", [Message(b"%d" % number) for number in range(30)])
    await eventually(lambda: subscription.lag() == {("orders", 0): 32})
    # The record itself has no time that can be trusted: its age counts from the time at which it was found
    [first] = subscription.oldest().values()
    assert abs(time.time() - first) < TIMEOUT
    await broker.publish("orders", [Message(b"later")])
    await eventually(lambda: subscription.lag() == {("orders", 0): 33})
    assert subscription.oldest() == {("orders", 0): first}


async def test_many_damaged_partitions_take_few_connections(harness: Bytes) -> None:
    rng = random.Random(2)
    logs = []
    for number in range(40):
        log = Log()
        log.add(DAMAGES["rotten"](rng, f"r{number}", 2))
        logs.append(log)
    await harness.fill(*logs)
    broker = await harness.broker()
    subscription = await broker.subscribe(options(), Assignments())
    before = harness.server.connections
    peak = before
    async with asyncio.timeout(TIMEOUT):
        left = 40
        while left:
            left -= len(await subscription.receive(9))
            peak = max(peak, harness.server.peak_connections)
    assert peak <= before + 6


@pytest.mark.parametrize("policy", ["dead_letter", "skip", "stop_partition"])
async def test_a_length_that_leads_nowhere_stops_its_partition_alone(harness: Bytes, policy: str) -> None:
    rng = random.Random(7)
    bad, good = Log(), Log()
    for name in "abc":
        bad.add(healthy(rng, name, 2))
        good.add(healthy(rng, name, 2))
    bad.batches[1] = bad.batches[1][:8] + (1 << 28).to_bytes(4) + bad.batches[1][12:]
    await harness.fill(bad, good)
    subscription: Any = await (await harness.broker()).subscribe(options(policy), Assignments())
    found = await collect(subscription, 8, rng)
    assert dict(found) == {0: bad.entries[:2], 1: good.entries}
    await eventually(subscription.stopped)
    assert "offset 2 and later ones cannot be read" in subscription.stopped()["orders/0"]
    await subscription.flush()
    assert harness.committed("g", 0) == 2


async def test_a_partition_whose_records_are_not_sent_says_so_and_goes_on(harness: Bytes) -> None:
    """A broker answers without records when it cannot pass a damaged length."""
    log = Log()
    for name in "ab":
        log.add(healthy(random.Random(name), name, 2))
    await harness.fill(log)
    partition = harness.server.state.partition("orders", 0)
    assert partition is not None
    partition.transform = lambda data: b""
    subscription: Any = await (await harness.broker()).subscribe(options(), Assignments())
    await eventually(subscription.stopped)
    assert "offset 0 cannot be read: the log ends at 4, and the broker sends" in subscription.stopped()["orders/0"]
    partition.transform = bytes
    assert [entry(each) for each in await take(subscription, 4)] == log.entries
    assert subscription.stopped() == {}


@pytest.mark.parametrize("reads", [1, 2])
async def test_damage_that_another_read_does_not_show_is_none(harness: Bytes, reads: int) -> None:
    """Damage in transit: the first reads of the batch are damaged, the next one is whole."""
    rng = random.Random(9)
    log = Log()
    for name in "abc":
        log.add(healthy(rng, name, 2))
    await harness.fill(log)
    partition = harness.server.state.partition("orders", 0)
    assert partition is not None
    left = reads

    def transform(data: bytes) -> bytes:
        nonlocal left
        if left and data:
            left -= 1
            return data[:-1] + bytes([data[-1] ^ 1])
        return data

    partition.transform = transform
    subscription = await (await harness.broker()).subscribe(options(), Assignments())
    found = await collect(subscription, 6, rng)
    assert dict(found) == {0: log.entries}


async def test_damage_is_believed_after_two_more_reads_the_last_over_a_new_connection(harness: Bytes) -> None:
    log = Log()
    log.add(DAMAGES["rotten"](random.Random(1), "r", 2))
    await harness.fill(log)
    partition = harness.server.state.partition("orders", 0)
    assert partition is not None
    reads: list[int] = []

    def transform(data: bytes) -> bytes:
        if data:
            reads.append(harness.server.connections_made)
        return data

    partition.transform = transform
    subscription = await (await harness.broker()).subscribe(options(), Assignments())
    [delivery] = await take(subscription, 1)
    assert delivery.message.unreadable is not None
    assert len(reads) >= 3
    assert reads[0] == reads[1] < reads[2]


async def test_a_damaged_batch_at_the_end_of_the_log_ends_where_the_log_does(harness: Bytes) -> None:
    """The end of the log bounds the damaged batch, until a later batch arrives."""
    rng = random.Random(2)
    log = Log()
    log.add(DAMAGES["rotten"](rng, "r", 5))
    await harness.fill(log)
    broker = await harness.broker()
    subscription = await broker.subscribe(options(), Assignments())
    [delivery] = await take(subscription, 1)
    assert entry(delivery) == (0, 4, None)
    await broker.publish("orders", [Message(b"next")])
    [following] = await take(subscription, 1)
    assert entry(following) == (5, 5, b"next")


async def test_the_dead_letter_has_the_bytes_and_the_range(harness: Bytes) -> None:
    rng = random.Random(3)
    log = Log()
    log.add(DAMAGES["rotten"](rng, "r", 5))
    log.add(DAMAGES["header_name"](rng, "h", 1))
    await harness.fill(log)
    broker = await harness.broker()
    subscription = await broker.subscribe(options(), Assignments())
    whole, single = await take(subscription, 2)
    await whole.dead_letter(CAUSE)
    await single.dead_letter(CAUSE)
    dead = await take(await broker.subscribe(SubscribeOptions(("orders.dlq",), "d"), Assignments()), 2)
    by_offset = {dict(each.message.headers)["bridge.offset"]: each.message for each in dead}
    assert by_offset[b"0"].body == log.batches[0]
    assert dict(by_offset[b"0"].headers)["bridge.last-offset"] == b"4"
    assert by_offset[b"5"].key == b"k"
    assert by_offset[b"5"].body.startswith(b"h-0-")
    assert dict(by_offset[b"5"].headers)["ok"] == b"2"
    assert "bridge.last-offset" not in dict(by_offset[b"5"].headers)


@pytest.mark.parametrize("start", ["earliest", "latest"])
async def test_positions_that_the_coordinator_does_not_tell_yet_are_waited_for(harness: Bytes, start: str) -> None:
    """An answer without positions does not count: a group that began anew would repeat or skip records."""
    log = Log()
    for name in "abcd":
        log.add(healthy(random.Random(name), name, 5))
    await harness.fill(log)
    broker = await harness.broker(request_timeout="1s")
    subscription = await broker.subscribe(options(), Assignments())
    for delivery in await take(subscription, 7):
        await delivery.complete()
    await subscription.close()
    group = harness.server.state.group("g")
    group.loading = True
    again = SubscribeOptions(("orders",), "g", start, unreadable=options().unreadable)
    with pytest.raises(BrokerUnavailable, match="group g"):
        await broker.subscribe(again, Assignments())
    assert harness.committed("g", 0) == 7
    asyncio.get_running_loop().call_later(0.5, setattr, group, "loading", False)
    found = await collect(await broker.subscribe(again, Assignments()), log.end - 7, random.Random(1))
    assert dict(found) == {0: log.entries[7:]}


async def test_reading_a_topic_shows_what_cannot_be_read_and_goes_on(harness: Bytes) -> None:
    rng = random.Random(5)
    logs = logs_of(rng)
    await harness.fill(*logs)
    found: dict[int, list[Entry]] = defaultdict(list)
    reader = (await harness.broker()).read(ReadOptions("orders"))
    async for position, message in reader:
        found[position.partition].append(_shown(position, message))
    assert dict(found) == {number: log.entries for number, log in enumerate(logs) if log.entries}


async def test_reading_a_topic_tells_where_it_cannot_go_on_after_the_rest(harness: Bytes) -> None:
    rng = random.Random(6)
    bad, good = Log(), Log()
    for name in "ab":
        bad.add(healthy(rng, name, 2))
        good.add(healthy(rng, name, 2))
    bad.batches[1] = bad.batches[1][:8] + (5).to_bytes(4) + bad.batches[1][12:]
    await harness.fill(bad, good)
    found: dict[int, list[Entry]] = defaultdict(list)
    broker = await harness.broker()

    async def read() -> None:
        async for position, message in broker.read(ReadOptions("orders")):
            found[position.partition].append(_shown(position, message))

    with pytest.raises(BrokerError, match="orders/0: offset 2 and later ones cannot be read") as caught:
        await read()
    assert not isinstance(caught.value, BrokerUnavailable)
    assert dict(found) == {0: bad.entries[:2], 1: good.entries}


def _shown(position: Position, message: Message) -> Entry:
    last = position.offset if message.unreadable is None or message.unreadable.last is None else message.unreadable.last
    return position.offset, last, None if message.unreadable else message.body


@pytest.mark.prove
@pytest.mark.parametrize("seed", range(100, 160))
async def test_each_entry_is_delivered_once_in_its_place_at_length(harness: Bytes, seed: int) -> None:
    await test_each_entry_is_delivered_once_in_its_place(harness, seed)


@pytest.mark.prove
@pytest.mark.parametrize("seed", range(100, 140))
async def test_a_crash_loses_nothing_at_length(harness: Bytes, seed: int) -> None:
    await test_a_crash_repeats_what_was_not_committed_and_loses_nothing(harness, seed)
