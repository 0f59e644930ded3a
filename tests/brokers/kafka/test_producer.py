from __future__ import annotations

import asyncio
import random

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import OutOfOrderSequenceNumber

from bridge.brokers.base import SubscribeOptions
from bridge.core import provenance
from bridge.core.errors import BrokerUnavailable, PublishFailed
from bridge.core.message import Message, Unreadable
from tests.brokers.consumer import CAUSE, Assignments, nothing_more, numbered, numbers, take
from tests.brokers.kafka.harness import KafkaHarness, unique


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
async def test_codecs(harness: KafkaHarness, codec: str) -> None:
    topic = unique(codec)
    broker = await harness.broker(compression=codec)
    body = b"compressible " * 1000
    await broker.publish(topic, [Message(body, b"k", (("h", b"1"),)) for _ in range(50)])
    deliveries = await take(await broker.subscribe(SubscribeOptions((topic,), topic), Assignments()), 50)
    assert {delivery.message.body for delivery in deliveries} == {body}


async def test_six_megabytes(harness: KafkaHarness) -> None:
    topic = unique("large")
    broker = await harness.broker()
    body = bytes(range(256)) * 4096 * 6
    await broker.publish(topic, [Message(body, b"k"), Message(b"after", b"k")])
    deliveries = await take(await broker.subscribe(SubscribeOptions((topic,), topic), Assignments()), 2)
    assert [delivery.message.body for delivery in deliveries] == [body, b"after"]


@pytest.mark.parametrize(("key", "partition"), [(b"21", 3), (b"foobar", 10), (b"a-little-bit-long-string", 5)])
async def test_keys_go_where_java_clients_put_them(harness: KafkaHarness, key: bytes, partition: int) -> None:
    """Hashes from Kafka's own test of murmur2."""
    expected = {b"21": -973932308, b"foobar": -790332482, b"a-little-bit-long-string": -985981536}[key] & 0x7FFFFFFF
    topic = unique("java")
    await harness.create_topic(topic, 12)
    broker = await harness.broker()
    await broker.publish(topic, [Message(b"x", key)])
    [delivery] = await take(await broker.subscribe(SubscribeOptions((topic,), topic), Assignments()), 1)
    assert delivery.position.partition == expected % 12


async def test_a_message_too_large_is_refused_and_spoils_nothing(harness: KafkaHarness) -> None:
    """A refused batch leaves a gap in the sequence of an idempotent producer, after which no batch would be
    accepted."""
    topic = unique("small")
    await harness.create_topic(topic, 1, max_message_bytes="2000")
    broker = await harness.broker()
    for _ in range(3):
        with pytest.raises(PublishFailed, match="larger than"):
            await broker.publish(topic, [Message(bytes(range(256)) * 40, b"k")])
        await broker.publish(topic, numbered(2))
    with pytest.raises(PublishFailed, match="a tombstone needs a key"):
        await broker.publish(topic, [*numbered(1, 7), Message(None)])
    subscription = await broker.subscribe(SubscribeOptions((topic,), topic), Assignments())
    assert numbers(await take(subscription, 6)) == [0, 1] * 3
    # A refused call sends no message
    await broker.publish(topic, numbered(1, 2))
    assert numbers(await take(subscription, 1)) == [2]


async def test_a_dead_producer_is_replaced(harness: KafkaHarness) -> None:
    topic = unique("dead")
    broker = await harness.broker()
    await broker.publish(topic, numbered(1, 0, b"k"))
    producer = broker._producer._current
    # Skip a sequence number, as an abandoned batch does
    producer._txn_manager.increment_sequence_number(next(iter(producer._txn_manager._sequence_numbers)), 5)
    used = {producer}
    for number in range(1, 9):
        await broker.publish(topic, numbered(1, number, b"k"))
        used.add(broker._producer._current)
    assert len(used) == 2
    deliveries = await take(await broker.subscribe(SubscribeOptions((topic,), topic), Assignments()), 9)
    assert sorted(numbers(deliveries)) == list(range(9))


async def test_the_client_itself_does_not_recover(harness: KafkaHarness) -> None:
    """Reason for replacing producers. A failure of this test means that aiokafka recovers now."""
    topic = unique("dead")
    broker = await harness.broker()
    await broker.publish(topic, numbered(1))
    producer = broker._producer._current
    place = next(iter(producer._txn_manager._sequence_numbers))
    producer._txn_manager.increment_sequence_number(place, 5)
    for _ in range(2):
        with pytest.raises(OutOfOrderSequenceNumber):
            await producer.send_and_wait(topic, b"x", partition=place.partition)


async def test_a_cancelled_publish_leaves_a_working_producer(harness: KafkaHarness) -> None:
    topic = unique("cancelled")
    broker = await harness.broker()
    await broker.publish(topic, numbered(1))
    for _ in range(5):
        task = asyncio.create_task(broker.publish(topic, numbered(50, 100)))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await broker.publish(topic, numbered(1, 1))


async def test_a_dead_letter_too_large_keeps_its_position(harness: KafkaHarness) -> None:
    topic = unique("orders")
    await harness.create_topic(topic, 1)
    await harness.create_topic(f"{topic}.dlq", 1, max_message_bytes="2000")
    broker = await harness.broker()
    body, header = bytes(range(256)) * 40, ("h", bytes(range(256)) * 20)
    await broker.publish(topic, [Message(body, b"k", (("a", b"1"),)), Message(body, b"k" * 4000, (header,))])
    subscription = await broker.subscribe(SubscribeOptions((topic,), topic), Assignments())
    for delivery in await take(subscription, 2):
        await delivery.dead_letter(CAUSE)
    await subscription.flush()
    first, second = await take(await broker.subscribe(SubscribeOptions((f"{topic}.dlq",), topic), Assignments()), 2)
    received = dict(first.message.headers)
    assert (first.message.body, first.message.key, received["a"]) == (b"", b"k", b"1")
    assert (received[provenance.TRUNCATED], received[provenance.OFFSET], received[provenance.TOPIC]) == (
        b"payload", b"0", topic.encode(),
    )  # fmt: skip
    received = dict(second.message.headers)
    assert (second.message.body, second.message.key, "h" in received) == (b"", None, False)
    assert (received[provenance.TRUNCATED], received[provenance.OFFSET]) == (b"payload, headers, key", b"1")


async def test_dead_letters_that_fit_alone_keep_all_they_have(harness: KafkaHarness) -> None:
    """Dead letters that are written together share a batch, which the topic refuses as a whole."""
    topic = unique("orders")
    await harness.create_topic(topic, 1)
    await harness.create_topic(f"{topic}.dlq", 1, max_message_bytes="2000")
    broker = await harness.broker()
    bodies = [random.Random(number).randbytes(900) for number in range(6)]  # incompressible
    await broker.publish(topic, [Message(body, b"k") for body in bodies])
    subscription = await broker.subscribe(SubscribeOptions((topic,), topic), Assignments())
    await asyncio.gather(*(delivery.dead_letter(CAUSE) for delivery in await take(subscription, 6)))
    dead_letters = await take(await broker.subscribe(SubscribeOptions((f"{topic}.dlq",), topic), Assignments()), 6)
    assert sorted(each.message.body or b"" for each in dead_letters) == sorted(bodies)
    assert all(provenance.TRUNCATED not in dict(each.message.headers) for each in dead_letters)


async def test_whatever_the_topic_takes_one_letter_tells_the_position(harness: KafkaHarness) -> None:
    """Incompressible parts of a thousand bytes each, and topics with decreasing limits."""
    broker = await harness.broker()
    noise = random.Random(1).randbytes
    message = Message(noise(1000), noise(1000), (("h", noise(1000)),))
    missing: list[bytes | None] = []
    for limit in (5000, 3000, 2000, 900):
        topic = unique("orders")
        await harness.create_topic(topic, 1)
        await harness.create_topic(f"{topic}.dlq", 1, max_message_bytes=str(limit))
        await broker.publish(topic, [message])
        subscription = await broker.subscribe(SubscribeOptions((topic,), topic), Assignments())
        [delivery] = await take(subscription, 1)
        await delivery.dead_letter(CAUSE)
        await subscription.close()
        dead_letters = await broker.subscribe(SubscribeOptions((f"{topic}.dlq",), topic), Assignments())
        [dead_letter] = await take(dead_letters, 1)
        await nothing_more(dead_letters, 0.1)
        received = dict(dead_letter.message.headers)
        assert (received[provenance.TOPIC], received[provenance.OFFSET], received[provenance.REASON]) == (
            topic.encode(), b"0", CAUSE.reason.encode(),
        )  # fmt: skip
        missing.append(received.get(provenance.TRUNCATED))
        await dead_letters.close()
    assert missing == [None, b"payload", b"payload, headers", b"payload, headers, key"]


async def test_published_at_the_same_time_each_is_judged_by_its_own_size(harness: KafkaHarness) -> None:
    topic = unique("events")
    await harness.create_topic(topic, 1, max_message_bytes="2000")
    broker = await harness.broker()
    sizes = [900, 900, 5000, 900, 900]
    messages = [Message(random.Random(number).randbytes(size)) for number, size in enumerate(sizes)]
    results = await asyncio.gather(*(broker.publish(topic, [each]) for each in messages), return_exceptions=True)
    assert [type(each) for each in results] == [list, list, PublishFailed, list, list]


async def test_an_unreadable_message_without_bytes_dies_with_its_position(harness: KafkaHarness) -> None:
    topic = unique("orders")
    broker = await harness.broker()
    await broker.publish(topic, [Message(b"x")])
    subscription = await broker.subscribe(SubscribeOptions((topic,), topic), Assignments())
    [delivery] = await take(subscription, 1)
    delivery.message = Message(None, unreadable=Unreadable("crc", "the checksum is wrong", last=4))  # type: ignore[misc]  # mypy cannot infer it
    await delivery.dead_letter(CAUSE)
    [dead_letter] = await take(await broker.subscribe(SubscribeOptions((f"{topic}.dlq",), topic), Assignments()), 1)
    received = dict(dead_letter.message.headers)
    assert (dead_letter.message.body, received[provenance.OFFSET], received[provenance.LAST_OFFSET]) == (
        b"",
        b"0",
        b"4",
    )
    assert received[provenance.TRUNCATED] == b"payload"


async def test_a_dead_letter_that_cannot_be_written_settles_nothing(harness: KafkaHarness) -> None:
    topic = unique("orders")
    await harness.create_topic(topic, 1)
    broker = await harness.broker(create_topics=False)
    await broker.publish(topic, numbered(1))
    options = SubscribeOptions((topic,), topic)
    subscription = await broker.subscribe(options, Assignments())
    [delivery] = await take(subscription, 1)
    with pytest.raises(BrokerUnavailable, match=f"no topic {topic}.dlq"):
        await delivery.dead_letter(CAUSE)
    await subscription.close()
    again = await broker.subscribe(options, Assignments())
    [delivery] = await take(again, 1)
    # The dead letter succeeds once the topic exists
    await harness.create_topic(f"{topic}.dlq", 1)
    await delivery.dead_letter(CAUSE)


async def test_a_tombstone_without_a_key_dies_as_an_empty_body(harness: KafkaHarness) -> None:
    topic = unique("orders")
    broker = await harness.broker()
    await broker.publish(topic, [Message(b"x")])
    subscription = await broker.subscribe(SubscribeOptions((topic,), topic), Assignments())
    [delivery] = await take(subscription, 1)
    delivery.message = Message(None)  # type: ignore[misc]  # mypy cannot infer it
    await delivery.dead_letter(CAUSE)
    consumer = AIOKafkaConsumer(f"{topic}.dlq", bootstrap_servers=harness.bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    record = await consumer.getone()
    await consumer.stop()
    assert record.value == b""
    assert dict(record.headers)[provenance.TRUNCATED] == b"tombstone without a key"
