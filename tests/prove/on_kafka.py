"""Kafka as the broker of a stage: new topics on a running broker."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from tests.kafka.batches import batch, record
from tests.kafka.produce import produce

PARTITIONS = 6

CONFIG = """
brokers:
  kafka: {{type: kafka, bootstrap_servers: "{bootstrap}", session_timeout: 3s, rebalance_timeout: 8s}}
sources:
  orders:
    broker: kafka
    topics: [{topic}, {topic}-early]
    group: {topic}
    codec: json
    no_match: dead_letter
"""


class KafkaTopics:
    """Kafka implementation of `tests.prove.stage.Broker`."""

    parts: Sequence[int] = range(PARTITIONS)
    on_missing = "{wait: 1h}"

    def __init__(self, bootstrap: str) -> None:
        self.topic = f"prove-{uuid.uuid4().hex[:10]}"
        self._bootstrap = bootstrap
        self._producer: AIOKafkaProducer

    def config(self) -> str:
        return CONFIG.format(bootstrap=self._bootstrap, topic=self.topic)

    def hand_written(self, engine: str) -> list[str]:
        return ["tests.prove.hand_written", self._bootstrap, f"{self.topic},{self.topic}-early", engine]

    async def open(self) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self._bootstrap)
        await admin.start()
        names = (self.topic, f"{self.topic}-early")
        topics = [NewTopic(name, PARTITIONS, 1) for name in names] + [NewTopic(f"{name}.dlq", 1, 1) for name in names]
        await admin.create_topics(topics)
        await admin.close()
        self._producer = AIOKafkaProducer(bootstrap_servers=self._bootstrap)
        await self._producer.start()

    async def close(self) -> None:
        await self._producer.stop()

    async def send(self, key: str, body: bytes, *, early: bool = False) -> None:
        topic = f"{self.topic}-early" if early else self.topic
        await self._producer.send_and_wait(topic, body, key=key.encode())

    async def send_unreadable(self, part: int) -> None:
        """Send a record whose header name is not text."""
        data = batch([record(0, b"{}", b"k0", [(b"caf\xe9", b"1")])])
        await produce(self._bootstrap, self.topic, part, data)

    async def dead_letters(self) -> int:
        consumer = AIOKafkaConsumer(bootstrap_servers=self._bootstrap)
        await consumer.start()
        try:
            ends = await consumer.end_offsets([TopicPartition(f"{self.topic}.dlq", 0)])
        finally:
            await consumer.stop()
        return int(sum(ends.values()))
