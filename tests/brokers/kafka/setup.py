"""Source pipeline on Kafka: compiled rules, the real broker, the SDK's client and backend, injected faults."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.brokers.kafka.harness import KafkaHarness
from tests.brokers.setup import broker_setup
from tests.kit.pipeline import PipelineFixture

CONFIG = """
engine: {{type: embedded, path: {directory}/engine}}
brokers:
  kafka: {{type: kafka, bootstrap_servers: "{bootstrap}", create_topics: true, partitions: {partitions},
    commit_interval: 200ms, session_timeout: 3s, rebalance_timeout: 8s, request_timeout: 10s, metadata_max_age: 2s}}
sources:
  orders:
    broker: kafka
    topics: [{topic}]
    group: {topic}
    codec: json
    no_match: dead_letter
    attributes: {{type: "headers['type']"}}
{source}
routes:
  - name: start
    from: orders
    match: {{type: start}}
    schedule: {{orchestration: order, instance_id: "order-{{{{ payload.id }}}}"}}
workflows: {{external: [order]}}
"""


@asynccontextmanager
async def kafka_setup(
    directory: Path, harness: KafkaHarness, topic: str, *, partitions: int = 2, source: str = ""
) -> AsyncIterator[PipelineFixture]:
    """Yield a fixture whose source is not started. source: more YAML below the source, indented by four."""
    config = CONFIG.format(
        directory=directory, bootstrap=harness.bootstrap, topic=topic, partitions=partitions, source=source
    )
    async with broker_setup(directory, config, "kafka") as setup:
        yield setup
