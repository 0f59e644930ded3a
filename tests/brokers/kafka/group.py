"""Bridge processes in one consumer group, and their effects."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiokafka import TopicPartition

from bridge.app.composition import build_engine, load_config
from bridge.brokers.kafka import KafkaBroker
from bridge.core.message import Message
from tests.brokers.kafka.harness import KafkaHarness, unique
from tests.brokers.members import Members
from tests.kit.waiting import eventually

CONFIG = """
engine: {{type: embedded, path: {directory}/engine}}
brokers:
  kafka:
    type: kafka
    bootstrap_servers: "{bootstrap}"
    create_topics: true
    commit_interval: 200ms
    session_timeout: 3s
    rebalance_timeout: 8s
    request_timeout: 5s
    metadata_max_age: 2s
sources:
  orders:
    broker: kafka
    topics: [{topic}]
    group: {topic}
    codec: json
    no_match: dead_letter
    attributes: {{type: "'start'", id: payload.id}}
routes:
  - name: start
    from: orders
    match: {{type: start}}
    schedule: {{orchestration: order, instance_id: "order-{{{{ payload.id }}}}"}}
workflows: {{external: [order]}}
"""


class Group(Members):
    """Members of one group on one topic with 6 partitions; the engine runs in the test process."""

    def __init__(self, directory: Path, harness: KafkaHarness, broker: KafkaBroker) -> None:
        super().__init__(directory, "tests.brokers.kafka.member")
        self.topic = unique("group")
        self.config.write_text(CONFIG.format(directory=directory, bootstrap=harness.bootstrap, topic=self.topic))
        self.broker = broker

    async def publish(self, count: int) -> None:
        """Publish numbered starts; see `Members.publish`."""
        await self.broker.publish(self.topic, [Message(body, b"%d" % key) for key, body in self.starts(count)])

    async def committed(self) -> int:
        """Return the number of records that the group has committed, over all partitions."""
        found = await self.broker._cluster.committed(self.topic, [TopicPartition(self.topic, n) for n in range(6)])
        return sum(position.offset for position in found.values())

    async def settled(self, seconds: float = 60.0) -> None:
        """Wait until every published message is committed. Raises: AssertionError after `seconds`."""
        last = 0

        async def all_settled() -> bool:
            nonlocal last
            last = await self.committed()
            return last >= self.published

        await eventually(all_settled, lambda: f"{last} of {self.published} were settled", within=seconds, poll=0.1)


@asynccontextmanager
async def group(directory: Path, harness: KafkaHarness) -> AsyncIterator[Group]:
    broker = await harness.broker()
    found = Group(directory, harness, broker)
    await harness.create_topic(found.topic, 6)
    engine = build_engine(load_config([found.config]), "default", host=True)
    await engine.start()
    found.engine = engine
    try:
        yield found
    finally:
        await found.end_all()
        await engine.stop()
