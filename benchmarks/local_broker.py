"""Cost of the local broker against plain SQLite on the same disk, with 1 KB records in batches of 10,000.

`publish_micros` and `consume_micros` (received, completed and committed): per record. Their ratios are to a plain
`executemany` with commit, and to a plain `fetchall`, of the same bytes.
`wake_millis`: from the call of publish to the record's receipt.
`busy_consume_ratio`: cost next to a busy event loop over the cost next to an idle one.
Rounds of all variants alternate; figures are medians.
"""

from __future__ import annotations

import asyncio
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bridge.brokers.base import Partition, SubscribeOptions
from bridge.brokers.local import LocalBroker
from bridge.config.model.brokers import LocalBrokerConfig
from bridge.core.message import Message

RECORDS = 10_000
ROUNDS = 5
BODY = b"x" * 1024
HEADERS = (("content-type", b"application/json"),)
WORK_SECONDS = 50e-6
"""Work of the busy loop for each record, in seconds."""


class _Ignore:
    async def assigned(self, partitions: Sequence[Partition]) -> None:
        pass

    async def revoked(self, partitions: Sequence[Partition]) -> None:
        pass


def run() -> dict[str, float]:
    """Run the benchmark."""
    with tempfile.TemporaryDirectory() as directory:
        return asyncio.run(_measure(Path(directory)))


async def _measure(directory: Path) -> dict[str, float]:
    broker = LocalBroker("local", directory / "log", LocalBrokerConfig(type="local"))
    await broker.start()
    bare = sqlite3.connect(directory / "bare.db", isolation_level=None)
    bare.execute("PRAGMA journal_mode = WAL")
    bare.execute("PRAGMA synchronous = FULL")
    bare.execute("CREATE TABLE records (id INTEGER PRIMARY KEY, key BLOB, body BLOB)")
    taken: dict[str, list[float]] = {}
    for number in range(ROUNDS):
        topic = f"round-{number}"
        messages = [Message(BODY, b"%d" % key, HEADERS) for key in range(RECORDS)]
        start = time.perf_counter()
        await broker.publish(topic, messages)
        taken.setdefault("publish", []).append(time.perf_counter() - start)
        taken.setdefault("insert", []).append(_insert(bare, messages))
        taken.setdefault("select", []).append(_select(bare))
        taken.setdefault("consume", []).append(await _consume(broker, topic, "idle", 0.0))
        taken.setdefault("busy", []).append(await _consume(broker, topic, "busy", WORK_SECONDS))
    wake = await _wake(broker)
    await broker.stop()
    bare.close()
    median = {name: statistics.median(times) / RECORDS * 1e6 for name, times in taken.items()}
    return {
        "publish_micros": median["publish"],
        "publish_ratio": median["publish"] / median["insert"],
        "consume_micros": median["consume"],
        "consume_ratio": median["consume"] / median["select"],
        "busy_consume_ratio": median["busy"] / median["consume"],
        "wake_millis": wake * 1e3,
    }


def _insert(bare: sqlite3.Connection, messages: Sequence[Message]) -> float:
    start = time.perf_counter()
    bare.execute("BEGIN IMMEDIATE")
    bare.executemany("INSERT INTO records (key, body) VALUES (?, ?)", [(each.key, each.body) for each in messages])
    bare.execute("COMMIT")
    return time.perf_counter() - start


def _select(bare: sqlite3.Connection) -> float:
    start = time.perf_counter()
    bare.execute("SELECT * FROM records ORDER BY id LIMIT ?", (RECORDS,)).fetchall()
    return time.perf_counter() - start


async def _consume(broker: LocalBroker, topic: str, group: str, work: float) -> float:
    """Seconds to take all records of a topic, without the loop's other work."""
    start = time.perf_counter()
    subscription = await broker.subscribe(SubscribeOptions((topic,), group), _Ignore())
    count, worked = 0, 0.0
    while count < RECORDS:
        deliveries = await subscription.receive(100)
        count += len(deliveries)
        for delivery in deliveries:
            await delivery.complete()
        if work:
            began = time.perf_counter()
            until = began + work * len(deliveries)
            while time.perf_counter() < until:
                pass
            worked += time.perf_counter() - began
            await asyncio.sleep(0)
    await subscription.flush()
    taken = time.perf_counter() - start - worked
    await subscription.close()
    return taken


async def _wake(broker: LocalBroker) -> float:
    """Median seconds from publish to receipt."""
    subscription = await broker.subscribe(SubscribeOptions(("wake",), "wake"), _Ignore())
    taken = []
    for _ in range(101):
        start = time.perf_counter()
        waiting = asyncio.create_task(subscription.receive(1))
        await broker.publish("wake", [Message(BODY)])
        await waiting
        taken.append(time.perf_counter() - start)
    await subscription.close()
    return statistics.median(taken)
