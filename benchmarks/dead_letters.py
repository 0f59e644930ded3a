"""Dead letters: groups by cause over many of them, as the command of a person and inside a process, and replays.

100,000 dead letters of three causes in four partitions (`DEAD_LETTERS` sets another number), on the local broker and on
a Kafka node. Kafka needs Java and Maven, or KAFKA_HOME (see tests/kafka); without them the small server of the tests
takes its place, in a process of its own thread.

`*_first_s`: `bridge dlq groups` without a cache. `*_again_s`: when nothing has changed. `*_inside_ms`: without the
start of Python and the imports. `again`: nothing has changed. `one_more`: after one more dead letter. `marked`: with
10,000 dropped ones. `start_s`: a command that does nothing. `file_bytes_per_letter`: size of the cache.
`replayed_per_second_*`: see `_dead_letter_replays`.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from benchmarks._dead_letter_replays import run as replays
from bridge.app.composition import build_broker, build_engine, load_config
from bridge.app.dead_letters.groups import grouped
from bridge.app.dead_letters.reading import DeadLetterSelection
from bridge.brokers.base import TopicBroker
from bridge.config.source import Loaded
from bridge.core.message import Message, Position
from bridge.core.provenance import Cause, dead_letter
from bridge.core.system_names import DEAD_LETTER_STATES
from bridge.dead_letters.state_machine import DeadLetterState
from bridge.dead_letters.store import DeadLetterStates, dead_letter_states_entity
from bridge.dead_letters.topic_states import DeadLetterRef
from bridge.engines.worker.contained_worker import ContainedWorker
from bridge.engines.worker.setup import stop_worker
from bridge.engines.workflows import Workflows
from tests.kafka.distribution import KafkaMissing, classpath, java
from tests.kafka.node import Node
from tests.kafka.server import ThreadedServer

DEAD_LETTERS = 100_000
DROPPED = 10_000
ROUNDS = 5
TOPIC = "orders.dlq"
OPEN = DeadLetterSelection(states=frozenset({DeadLetterState.OPEN}))

CONFIG = """
engine: {type: embedded}
brokers: {broker: %s}
sources: {orders: {broker: broker, topics: [orders], no_match: dead_letter}}
routes: [{name: start, from: orders, schedule: {orchestration: order, instance_id: "{{ payload.id }}"}}]
workflows: {external: [order]}
ops: {http: {port: 0}}
"""


def run() -> dict[str, float]:
    """Figures of all brokers. Their names contain the units."""
    count = int(os.environ.get("DEAD_LETTERS", DEAD_LETTERS))
    figures = {"letters": float(count), "start_s": _start()}
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as directory:
        place = Path(directory) / "local"
        figures |= _measured(place, "{type: local, partitions: 4}", "local", count)
        with _kafka(Path(directory)) as bootstrap:
            broker = f'{{type: kafka, bootstrap_servers: "{bootstrap}", create_topics: true, partitions: 4}}'
            figures |= _measured(Path(directory) / "kafka", broker, "kafka", count)
    return figures | replays()


@contextmanager
def _kafka(directory: Path) -> Iterator[str]:
    try:
        java(), classpath()
    except KafkaMissing:
        server = ThreadedServer()
        yield server.bootstrap
        server.stop()
        return
    place = directory / "node"
    place.mkdir()
    node = Node(place)
    node.start()
    try:
        yield node.bootstrap
    finally:
        node.stop()


def _start() -> float:
    """Seconds of a command that reads nothing."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "bridge", "dlq", "groups", "--help"], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def _measured(place: Path, broker: str, name: str, count: int) -> dict[str, float]:
    place.mkdir()
    (place / "bridge.yaml").write_text(CONFIG.replace("%s", broker))
    loaded = load_config([place / "bridge.yaml"])
    asyncio.run(_fill(loaded, range(count)))
    figures = {"first_s": _command(place, count)}
    figures["again_s"] = statistics.median(_command(place, count) for _ in range(ROUNDS))
    figures["again_inside_ms"] = _inside(loaded, count)
    asyncio.run(_fill(loaded, range(count, count + 1)))
    figures["one_more_inside_ms"] = asyncio.run(_grouped(loaded, count + 1)) * 1000
    asyncio.run(_drop(loaded))
    figures["marked_inside_ms"] = _inside(loaded, count + 1 - DROPPED)
    files = (place / ".bridge" / "dead-letters").rglob("*.block")
    figures["file_bytes_per_letter"] = sum(each.stat().st_size for each in files) / count
    return {f"{name}_{figure}": value for figure, value in figures.items()}


def dead_letter_message(number: int) -> Message:
    """Dead letter of one of three causes, as the bridge writes it."""
    causes: Mapping[int, Cause] = {
        0: Cause("no_route", "no rule of source `orders` matches", "NoRoute", "orders"),
        1: Cause("expression_error", f"payload.total: no such key in order '{number}'", "ExpressionError", "orders",
                 "start", config="4f1c09a2b7de", message_id=f"/shop {number}"),
        2: Cause("schema_error", f"payload.lines.{number % 50}.price is not of type \"number\"", "SchemaError",
                 "orders", "start", config="4f1c09a2b7de", message_id=f"/shop {number}"),
    }  # fmt: skip
    body = json.dumps({"id": number, "note": "x" * 200}).encode()
    message = Message(body, f"key-{number % 5000}".encode(), (("type", b"order.created"),), timestamp=1.7e9 + number)
    return dead_letter(message, Position("cluster", "orders", number % 4, number // 4), causes[number % 3])


async def _fill(loaded: Loaded, numbers: range) -> None:
    broker = build_broker(loaded, "broker")
    await broker.start()
    if isinstance(broker, TopicBroker):
        await broker.ensure([TOPIC])
    try:
        for start in range(numbers.start, numbers.stop, 2000):
            part = range(start, min(start + 2000, numbers.stop))
            await broker.publish(TOPIC, [dead_letter_message(number) for number in part])
    finally:
        await broker.stop()


def _command(place: Path, count: int) -> float:
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "bridge", "dlq", "groups", "--json"], cwd=place, check=True, capture_output=True
    )
    took = time.perf_counter() - began
    assert sum(each["count"] for each in json.loads(done.stdout)) == count
    return took


def _inside(loaded: Loaded, count: int) -> float:
    """Milliseconds of a repeated grouping, the median of several."""
    return statistics.median(asyncio.run(_grouped(loaded, count)) for _ in range(ROUNDS)) * 1000


async def _grouped(loaded: Loaded, count: int) -> float:
    began = time.perf_counter()
    found = await grouped(loaded, OPEN, offline=False)
    took = time.perf_counter() - began
    assert sum(each.count for each in found.sorted()) == count
    return took


async def _drop(loaded: Loaded) -> None:
    """Drop the first dead letters of each partition."""
    engine = build_engine(loaded, "default", host=True)
    await engine.start()
    worker = engine.worker(Workflows(entities={DEAD_LETTER_STATES: dead_letter_states_entity()}))
    assert isinstance(worker, ContainedWorker)
    worker.use_work_item_filters()
    worker.start()
    try:
        refs = [DeadLetterRef("broker", TOPIC, number % 4, number // 4) for number in range(DROPPED)]
        marks = await DeadLetterStates(engine).drop("job", refs, by="ann", reason="benchmark")
        assert len(marks) == DROPPED
    finally:
        await stop_worker(worker, 10.0)
        await engine.stop()
