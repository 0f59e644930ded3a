"""Cached rows of a Kafka topic with dead letters, against the topic itself."""

from __future__ import annotations

from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient

from bridge.brokers.base import ReadOptions
from bridge.brokers.kafka import KafkaBroker
from bridge.core.message import Message, Position
from bridge.core.provenance import Cause, dead_letter
from bridge.dead_letters.cache import RowCache
from bridge.dead_letters.reader import TopicReader, TopicRows
from tests.brokers.kafka.harness import KafkaHarness, unique
from tests.brokers.kafka.test_positions import delete_before, transactional_topic
from tests.brokers.reading_contract import everything
from tests.kit.waiting import eventually


def dead_letters(count: int, key: bytes | None = None) -> list[Message]:
    cause = Cause("no_route", "no rule matches", "NoRoute", "orders", "start")
    made = (
        (number, dead_letter(Message(b"%d" % number, key), Position("cluster", "orders", 0, number), cause))
        for number in range(count)
    )
    return [Message(each.body, b"%d" % number if key is None else key, each.headers) for number, each in made]


class Reading:
    """Readings of one topic with one cache. counts: numbers of dead letters that the last one has read."""

    def __init__(self, broker: KafkaBroker, topic: str, directory: Path) -> None:
        self.broker, self.topic = broker, topic
        self.cache = RowCache(directory, "1", 10**9)
        self.counts: list[int] = []

    async def rows(self) -> TopicRows:
        """Read the rows, and compare them with the topic."""
        self.counts = []
        rows = await TopicReader(self.cache, self.counts.append).read(self.broker, self.topic)
        found = [
            (partition, offset, time)
            for partition, blocks in sorted(rows.partitions.items()) for block in blocks
            for offset, time, _ in block.rows()
        ]  # fmt: skip
        there = await everything(self.broker, ReadOptions(self.topic))
        assert found == sorted((at.partition, at.offset, message.timestamp) for at, message in there)
        return rows


async def test_only_new_dead_letters_are_read(harness: KafkaHarness, tmp_path: Path) -> None:
    topic = unique("dlq")
    await harness.create_topic(topic, 3)
    broker = await harness.broker()
    reading = Reading(broker, topic, tmp_path)
    assert len(await reading.rows()) == 0
    await broker.publish(topic, dead_letters(50))
    assert len(await reading.rows()) == 50
    assert len(reading.counts) == 50
    assert len(await reading.rows()) == 50
    assert reading.counts == []
    await broker.publish(topic, dead_letters(2))
    assert len(await reading.rows()) == 52
    assert len(reading.counts) == 2


async def test_what_retention_removes_leaves_the_rows(harness: KafkaHarness, tmp_path: Path) -> None:
    topic = unique("dlq")
    await harness.create_topic(topic, 1)
    broker = await harness.broker()
    reading = Reading(broker, topic, tmp_path)
    await broker.publish(topic, dead_letters(10))
    await reading.rows()
    for begin, left in ((4, 6), (10, 0)):
        await delete_before(harness, topic, begin)
        assert len(await reading.rows()) == left
        assert reading.counts == []
    await broker.publish(topic, dead_letters(3))
    assert len(await reading.rows()) == 3


async def test_a_topic_that_was_created_again_is_read_again(harness: KafkaHarness, tmp_path: Path) -> None:
    topic = unique("dlq")
    await harness.create_topic(topic, 1)
    broker = await harness.broker()
    reading = Reading(broker, topic, tmp_path)
    await broker.publish(topic, dead_letters(10))
    await reading.rows()
    admin = AIOKafkaAdminClient(bootstrap_servers=harness.bootstrap)
    await admin.start()
    await admin.delete_topics([topic])
    await admin.close()
    await eventually(lambda: _is_gone(broker, topic))
    await harness.create_topic(topic, 1)
    broker = await harness.broker()  # the producer of the other one knows the former topic
    reading.broker = broker
    await broker.publish(topic, dead_letters(12))
    assert len(await reading.rows()) == 12
    assert len(reading.counts) == 12


async def _is_gone(broker: KafkaBroker, topic: str) -> bool:
    return topic not in await broker.topics()


async def test_a_compacted_topic_is_read_each_time(harness: KafkaHarness, tmp_path: Path) -> None:
    topic = unique("dlq")
    await harness.create_topic(
        topic, 1, cleanup_policy="compact", segment_ms="100", min_cleanable_dirty_ratio="0.001",
        max_compaction_lag_ms="100",
    )  # fmt: skip
    broker = await harness.broker()
    reader = TopicReader(RowCache(tmp_path, "1", 10**9))
    await broker.publish(topic, dead_letters(5, b"key"))

    async def compacted() -> bool:
        await broker.publish(topic, dead_letters(1, b"other"))  # the last segment is never compacted
        rows = await reader.read(broker, topic)
        assert not rows.is_cached
        return 0 not in {offset for offset, _, _ in rows.partitions[0][0].rows()}

    await eventually(compacted)
    assert not list(tmp_path.iterdir())


async def test_a_topic_that_ends_with_a_marker(harness: KafkaHarness, tmp_path: Path) -> None:
    topic = await transactional_topic(harness)
    reading = Reading(await harness.broker(), topic, tmp_path)
    assert len(await reading.rows()) == 10
    assert len(await reading.rows()) == 10
    assert reading.counts == []
