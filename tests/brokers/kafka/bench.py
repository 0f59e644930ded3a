"""A source pipeline on Kafka: compiled rules, the real broker, the SDK's client and backend, faults on demand."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from bridge.app.composition import build_broker, build_engine, build_source, load_config
from bridge.engines.execution import CommandExecutor
from bridge.pipeline.breaker import Breaker
from bridge.pipeline.execution import Target
from tests.brokers.kafka.harness import KafkaHarness
from tests.pipeline.harness import Bench, Faults

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
async def kafka_bench(
    directory: Path, harness: KafkaHarness, topic: str, *, partitions: int = 2, source: str = ""
) -> AsyncIterator[Bench]:
    """Its source is not started. source: more YAML below the source, indented by four."""
    directory.mkdir(exist_ok=True)
    path = directory / "bridge.yaml"
    path.write_text(
        CONFIG.format(
            directory=directory, bootstrap=harness.bootstrap, topic=topic, partitions=partitions, source=source
        )
    )
    loaded = load_config([path])
    engine = build_engine(loaded, "default", host=True)
    await engine.start()
    broker = build_broker(loaded, "kafka")
    await broker.start()
    faults = Faults(CommandExecutor(engine).execute, engine.probe)
    breaker = Breaker("default", faults.probe, first_delay=0.005)
    pipeline = build_source(loaded, "orders", {"kafka": broker}, {"default": Target(faults.execute, breaker)})
    try:
        yield Bench(pipeline, broker, engine, faults, breaker)
    finally:
        await pipeline.drain(5)
        await breaker.stop()
        await broker.stop()
        await engine.stop()
        assert pipeline.ledger.balanced()
        assert pipeline.ledger.in_flight == 0
