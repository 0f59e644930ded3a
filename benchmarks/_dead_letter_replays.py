"""Dead letters replayed into a running daemon, without a rate. The Kafka figure needs Java and Maven, or KAFKA_HOME.

10,000 dead letters of 1 KB, one partition for each of four, each starts an orchestration. The time runs from the
submission of the job to the moment at which each dead letter has its final result in the job's record.
`replayed_per_second_local`, `replayed_per_second_kafka`: dead letters per second.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

import uvloop

from benchmarks.pipeline import message
from bridge.app.composition import load_config
from bridge.app.dead_letters.reading import DeadLetterSelection
from bridge.app.operations.dead_letters.batches import select, submit
from bridge.app.operations.dead_letters.replays import ReplayBatch
from bridge.app.serve.daemon import Daemon
from bridge.core.states import JobState
from bridge.dead_letters.state_machine import DeadLetterState
from bridge.jobs.kind import JobRequest
from bridge.jobs.store import JobStore
from bridge.replay.kind import REPLAY_KIND
from bridge.system.memory import tune_memory
from tests.kafka.node import Node

DEAD_LETTERS = 10_000

CONFIG = """
engine: {{type: embedded, path: engine}}
workflows: [bench_flows]
brokers: {{main: {broker}}}
sources:
  orders:
    {{broker: main, topics: [orders], no_match: dead_letter, limits: {{dead_letter_limit: 1000000}}}}
routes:
  - name: start
    from: orders
    match: {{type: order.created}}
    when: {condition}
    schedule: {{orchestration: order, instance_id: "order-{{{{ payload.id }}}}"}}
ops: {{http: {{port: 0}}, log: {{level: error}}}}
"""
FLOWS = "def order(ctx, payload):\n    return None\n"


async def _daemon(directory: Path, broker: str, condition: str) -> Daemon:
    (directory / "bench_flows.py").write_text(FLOWS)
    (directory / "bridge.yaml").write_text(CONFIG.format(broker=broker, condition=condition))
    daemon = Daemon(load_config([directory / "bridge.yaml"]))
    await daemon.start()
    return daemon


async def replayed(directory: Path, broker: str) -> float:
    """Dead letters replayed per second."""
    daemon = await _daemon(directory, broker, "payload.missing > 0.0")
    messages = [message(number) for number in range(DEAD_LETTERS)]
    for start in range(0, DEAD_LETTERS, 500):
        await daemon.brokers["main"].publish("orders", messages[start : start + 500])
    while daemon.sources[0].ledger.outcomes["dead_lettered"] < DEAD_LETTERS:  # noqa: ASYNC110 -- no notification
        await asyncio.sleep(0.05)
    await daemon.stop(30)
    daemon = await _daemon(directory, broker, "payload.total > 0.0")
    engine = daemon.engines["default"]
    found = await select(
        daemon.loaded,
        DeadLetterSelection(states=frozenset({DeadLetterState.OPEN})),
        ReplayBatch,
        engines=daemon.engines,
    )
    assert found.count == DEAD_LETTERS
    started = time.perf_counter()
    [job] = await submit(engine, found, JobRequest(REPLAY_KIND))
    store = JobStore(engine)
    while (record := await store.record(job.job)).state is not JobState.DONE:  # noqa: ASYNC110 -- no notification
        await asyncio.sleep(0.02)
    took = time.perf_counter() - started
    assert record.counts["succeeded"] == DEAD_LETTERS, record.counts
    await daemon.stop(30)
    return DEAD_LETTERS / took


def run() -> dict[str, float]:
    tune_memory()
    figures = {}
    with tempfile.TemporaryDirectory() as directory:
        local = replayed(Path(directory), "{type: local, path: broker, partitions: 4}")
        figures["replayed_per_second_local"] = uvloop.run(local)
    with tempfile.TemporaryDirectory() as directory:
        node = Node(Path(directory) / "kafka")
        node.directory.mkdir()
        node.start()
        try:
            broker = f'{{type: kafka, bootstrap_servers: "{node.bootstrap}", create_topics: true}}'
            figures["replayed_per_second_kafka"] = uvloop.run(replayed(Path(directory), broker))
        finally:
            node.stop()
    return figures
