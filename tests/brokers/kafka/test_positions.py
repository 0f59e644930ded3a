"""Commits, and positions at which a group begins and continues."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, RecordsToDelete

from bridge.brokers.base import SubscribeOptions
from bridge.config.model.sources import KafkaSourceConfig
from bridge.core.errors import BrokerError
from bridge.core.message import Message
from tests.brokers.consumer import Assignments, nothing_more, numbered, numbers, take
from tests.brokers.kafka.harness import KafkaHarness, delete_topics, unique
from tests.kafka.batches import batch, record
from tests.kafka.produce import produce
from tests.kit.waiting import TIMEOUT, eventually


async def delete_before(harness: KafkaHarness, topic: str, offset: int) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=harness.bootstrap)
    await admin.start()
    await admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(before_offset=offset)})
    await admin.close()


async def transactional_topic(harness: KafkaHarness) -> str:
    """Create a topic of one partition with the numbers 0 to 4 and 10 to 14; the records between and after were
    aborted."""
    topic = unique("tx")
    await harness.create_topic(topic, 1)
    producer = AIOKafkaProducer(bootstrap_servers=harness.bootstrap, transactional_id=topic)
    await producer.start()
    for number in range(4):
        await producer.begin_transaction()
        for each in range(5):
            await producer.send(topic, b"%d" % (number * 5 + each))
        await (producer.abort_transaction() if number % 2 else producer.commit_transaction())
    await producer.stop()
    return topic


async def test_the_lag_of_a_transactional_topic_reaches_zero(harness: KafkaHarness) -> None:
    """Control records and aborted records are holes: offset + 1 would stop before them."""
    topic = await transactional_topic(harness)
    broker = await harness.broker(commit_interval="100ms")
    options = SubscribeOptions((topic,), topic)
    subscription = await broker.subscribe(options, Assignments())
    deliveries = await take(subscription, 10)
    assert numbers(deliveries) == [*range(5), *range(10, 15)]
    for delivery in reversed(deliveries):
        await delivery.complete()
    waiting = asyncio.create_task(subscription.receive(1))  # only a reader sees the end
    await eventually(lambda: sum(subscription.lag().values()) == 0, "lag 0")
    place = TopicPartition(topic, 0)

    async def reached() -> object:
        return (await broker._cluster.committed(topic, [place]))[place].offset == 24

    await eventually(reached)
    await subscription.close()
    assert list(await waiting) == []


async def test_a_compacted_topic_has_holes(harness: KafkaHarness) -> None:
    topic = unique("compacted")
    await harness.create_topic(
        topic, 1, cleanup_policy="compact", segment_ms="100", min_cleanable_dirty_ratio="0.001",
        max_compaction_lag_ms="100",
    )  # fmt: skip
    broker = await harness.broker()
    for number in range(200):
        await broker.publish(topic, [Message(b"%d" % number, b"key-%d" % (number % 3))])
    await asyncio.sleep(0.3)
    await broker.publish(topic, [Message(b"200", b"last")])

    found: list[int] = []
    async with asyncio.timeout(TIMEOUT):
        while len(found) != 4:
            await asyncio.sleep(0.5)
            await broker.publish(topic, [Message(b"200", b"last")])
            reader = await broker.subscribe(SubscribeOptions((topic,), unique("probe")), Assignments())
            seen = await take(reader, 1)
            while numbers(seen)[-1] != 200:
                seen += await reader.receive(500)
            found = sorted(set(numbers(seen)))
            await reader.close()
    assert found == [197, 198, 199, 200]
    subscription = await broker.subscribe(SubscribeOptions((topic,), topic), Assignments())
    deliveries = await take(subscription, 4)
    assert deliveries[0].position.offset == 197
    for delivery in deliveries:
        await delivery.complete()
    assert deliveries[0].partition.gap == 0


async def test_what_is_done_above_the_prefix_is_not_done_again(harness: KafkaHarness) -> None:
    topic = unique("above")
    await harness.create_topic(topic, 1)
    options = SubscribeOptions((topic,), topic)
    await (await harness.broker()).publish(topic, numbered(100))
    subscription = await (await harness.broker()).subscribe(options, Assignments())
    for delivery in (await take(subscription, 100))[1:]:
        if delivery.position.offset % 3:
            await delivery.complete()
    await subscription.flush()
    await harness.crash()
    again = await (await harness.broker()).subscribe(options, Assignments())
    assert numbers(await take(again, 34)) == list(range(0, 100, 3))
    await nothing_more(again)


async def test_out_of_range_stops_the_partition_and_says_so(harness: KafkaHarness) -> None:
    topic = unique("gone")
    await harness.create_topic(topic, 1)
    options = SubscribeOptions((topic,), topic)
    broker = await harness.broker()
    await broker.publish(topic, numbered(10))
    subscription = await broker.subscribe(options, Assignments())
    for delivery in await take(subscription, 3):
        await delivery.complete()
    await subscription.close()
    await delete_before(harness, topic, 8)
    subscription = await broker.subscribe(options, Assignments())
    waiting = asyncio.create_task(subscription.receive(1))
    await eventually(lambda: subscription.stopped(), "a stop")
    assert "offset 3 is out of range" in subscription.stopped()[f"{topic}/0"]
    await subscription.close()
    assert list(await waiting) == []
    # No commit passed the hole
    place = TopicPartition(topic, 0)
    assert (await broker._cluster.committed(topic, [place]))[place].offset == 3


@pytest.mark.parametrize(("policy", "expected"), [("earliest", [8, 9, 10]), ("latest", [10])])
async def test_out_of_range_goes_on_and_counts(harness: KafkaHarness, policy: str, expected: list[int]) -> None:
    topic = unique("gone")
    await harness.create_topic(topic, 1)
    options = SubscribeOptions((topic,), topic, kafka=KafkaSourceConfig(on_out_of_range=policy))
    broker = await harness.broker()
    await broker.publish(topic, numbered(10))
    subscription = await broker.subscribe(options, Assignments())
    for delivery in await take(subscription, 3):
        await delivery.complete()
    await subscription.close()
    await delete_before(harness, topic, 8)
    subscription = await broker.subscribe(options, Assignments())
    waiting = asyncio.create_task(take(subscription, len(expected)))
    await eventually(lambda: subscription.skipped, "a skip")
    await broker.publish(topic, numbered(1, 10))
    assert numbers(await waiting) == expected
    assert subscription.skipped == (5 if policy == "earliest" else 7)
    assert subscription.stopped() == {}


async def test_added_partitions_are_read_from_their_beginning(harness: KafkaHarness) -> None:
    topic = unique("grows")
    await harness.create_topic(topic, 1)
    listener = Assignments()
    broker = await harness.broker(metadata_max_age="500ms")
    subscription = await broker.subscribe(SubscribeOptions((topic,), topic, start="latest"), listener)
    admin = AIOKafkaAdminClient(bootstrap_servers=harness.bootstrap)
    await admin.start()
    await admin.create_partitions({topic: NewPartitions(3)})
    await admin.close()
    for number in range(3):
        await produce(harness.bootstrap, topic, number, batch([record(0, b"%d" % number)]))
    seen: set[int] = set()
    async with asyncio.timeout(TIMEOUT):
        while seen != {0, 1, 2}:  # deliveries from before the rebalance come again
            seen |= set(numbers(await subscription.receive(10)))
    assert len(listener.assigned_now) == 3


async def test_a_pattern_takes_new_topics_in(harness: KafkaHarness) -> None:
    prefix = unique("pattern")
    await harness.create_topic(f"{prefix}.a", 1)
    broker = await harness.broker(metadata_max_age="500ms")
    options = SubscribeOptions((), prefix, kafka=KafkaSourceConfig(pattern=rf"{prefix}\."))
    subscription = await broker.subscribe(options, Assignments())
    await harness.create_topic(f"{prefix}.b", 1)
    await broker.publish(f"{prefix}.a", numbered(1))
    await broker.publish(f"{prefix}.b", numbered(1, 1))
    seen: set[int] = set()
    async with asyncio.timeout(TIMEOUT):
        while seen != {0, 1}:
            for delivery in await subscription.receive(10):
                await delivery.complete()
                seen |= set(numbers([delivery]))


async def test_a_missing_topic_is_named(harness: KafkaHarness) -> None:
    broker = await harness.broker(create_topics=False)
    topic = unique("nowhere")
    with pytest.raises(BrokerError, match=f"no topic {topic}; create it, or set `create_topics: true`"):
        await broker.subscribe(SubscribeOptions((topic,), topic), Assignments())


async def test_a_topic_made_anew_is_read_from_its_beginning(harness: KafkaHarness) -> None:
    topic = unique("anew")
    await harness.create_topic(topic, 1)
    broker = await harness.broker()
    options = SubscribeOptions((topic,), topic)
    await broker.publish(topic, numbered(10))
    subscription = await broker.subscribe(options, Assignments())
    for delivery in await take(subscription, 10):
        await delivery.complete()
    await subscription.close()
    admin = AIOKafkaAdminClient(bootstrap_servers=harness.bootstrap)
    await admin.start()
    await delete_topics(admin, topic)
    await admin.close()
    await harness.create_topic(topic, 1)
    await broker.publish(topic, numbered(3))
    subscription = await broker.subscribe(options, Assignments())
    assert numbers(await take(subscription, 3)) == [0, 1, 2]
