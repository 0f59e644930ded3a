"""Kafka channel for tests of the real daemon, through an independent client library."""

from __future__ import annotations

import time
from collections.abc import Sequence

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka import Message as Sent
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # the test replaces what the module uses

from bridge.core.message import Message
from tests.brokers.kafka.harness import unique
from tests.kit.processes import DaemonProcess
from tests.kit.waiting import TIMEOUT


class KafkaChannel:
    """New topic on a cluster."""

    completes = False

    def __init__(self, bootstrap: str) -> None:
        self.topic = unique("killed")
        self.broker = (
            f'{{type: kafka, bootstrap_servers: "{bootstrap}", create_topics: true, '
            "session_timeout: 3s, rebalance_timeout: 8s, metadata_max_age: 2s}"
        )
        self.source = f"topics: [{self.topic}], group: {self.topic}"
        self._bootstrap = bootstrap
        admin = AdminClient({"bootstrap.servers": bootstrap})
        admin.create_topics([NewTopic(self.topic, 4, 1)])[self.topic].result(TIMEOUT)
        self._producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True})

    def publish(self, messages: Sequence[Message]) -> None:
        for each in messages:
            self._producer.produce(self.topic, each.body, each.key, headers=list(each.headers), on_delivery=_taken)
        assert self._producer.flush(TIMEOUT) == 0

    def left(self, daemon: DaemonProcess) -> int:
        return daemon.lag()

    def dead_letters(self) -> list[Message]:
        consumer = Consumer({"bootstrap.servers": self._bootstrap, "group.id": unique("reader")})
        found: list[Message] = []
        try:
            topic = f"{self.topic}.dlq"
            numbers = consumer.list_topics(topic, TIMEOUT).topics[topic].partitions
            ends = [consumer.get_watermark_offsets(TopicPartition(topic, number), TIMEOUT)[1] for number in numbers]
            consumer.assign([TopicPartition(topic, number, 0) for number in numbers])
            end = time.monotonic() + TIMEOUT
            while len(found) < sum(ends):
                assert time.monotonic() < end, f"{len(found)} of {sum(ends)} dead letters"
                message = consumer.poll(0.5)
                if message is None:
                    continue
                if message.error() is not None:
                    raise KafkaException(message.error())
                found.append(Message(message.value(), message.key(), tuple(message.headers() or ())))  # type: ignore[arg-type]  # wider than its annotation, on purpose
        finally:
            consumer.close()
        return found


def _taken(error: KafkaError | None, _: Sent) -> None:
    if error is not None:
        raise KafkaException(error)
