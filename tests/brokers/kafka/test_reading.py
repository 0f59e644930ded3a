"""Reading a Kafka topic without a group, beyond the contract."""

from __future__ import annotations

from typing import Any

from bridge.brokers.base import ReadOptions
from bridge.core.message import Message
from tests.brokers.consumer import numbered
from tests.brokers.kafka.harness import KafkaHarness, unique
from tests.brokers.kafka.test_positions import delete_before, transactional_topic
from tests.brokers.reading_contract import everything


async def test_it_ends_where_the_last_offsets_hold_no_records(harness: KafkaHarness) -> None:
    topic = await transactional_topic(harness)
    found = await everything(await harness.broker(), ReadOptions(topic))
    assert [int(message.body or b"") for _, message in found] == [*range(5), *range(10, 15)]


async def test_it_begins_where_retention_has_left_something(harness: KafkaHarness) -> None:
    topic = unique("short")
    await harness.create_topic(topic, 1)
    broker = await harness.broker()
    await broker.publish(topic, numbered(10))
    await delete_before(harness, topic, 6)
    for options in (ReadOptions(topic), ReadOptions(topic, 2)):
        assert [position.offset for position, _ in await everything(broker, options)] == [6, 7, 8, 9]


async def test_it_ends_with_what_was_there_in_the_middle_of_a_fetch(harness: KafkaHarness) -> None:
    topic = unique("growing")
    await harness.create_topic(topic, 1)
    broker = await harness.broker(fetch_partition_bytes="4KiB")
    for number in range(10):
        await broker.publish(topic, [Message(b"%d%1000s" % (number, b""))])
    offsets: list[Any] = []
    async for position, _ in broker.read(ReadOptions(topic)):
        if not offsets:
            await broker.publish(topic, numbered(20))
        offsets.append(position.offset)
    assert offsets == list(range(10))
