"""Daemon on partitions with damaged records: outcomes, dead letters, quarantine and readiness by source setting."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from bridge.app.composition import load_config
from bridge.app.serve.daemon import Daemon
from bridge.brokers.base import SubscribeOptions
from bridge.quarantine.operations import QuarantineOperations
from bridge.waiting.operations import WaitingMessage
from tests.brokers.consumer import Assignments, take
from tests.brokers.kafka.test_unreadable import Bytes
from tests.kafka.batches import DAMAGES, Log, batch, record
from tests.kafka.server.server import Server
from tests.kit.pipeline import is_balanced
from tests.kit.waiting import eventually

CONFIG = """
engine: {{type: embedded, path: engine}}
workflows: {{external: [order]}}
brokers:
  kafka: {{type: kafka, bootstrap_servers: "{bootstrap}", create_topics: true, commit_interval: 50ms, max_batch: 1MiB}}
sources:
  orders:
    broker: kafka
    topics: [orders]
    group: orders
    codec: json
    no_match: dead_letter
{source}
  others: {{broker: kafka, topics: [others], group: others, codec: json, no_match: dead_letter}}
routes:
  - {{name: start, from: [orders, others], schedule: {{orchestration: order, instance_id: "o-{{{{ payload.id }}}}"}}}}
ops: {{http: {{port: 0}}}}
"""


@pytest.fixture
async def harness() -> AsyncIterator[Bytes]:
    server = Server()
    harness = Bytes(server, await server.start())
    yield harness
    await harness.stop()
    await server.stop()


@asynccontextmanager
async def running(directory: Path, harness: Bytes, source: str = "") -> AsyncIterator[Daemon]:
    (directory / "bridge.yaml").write_text(CONFIG.format(bootstrap=harness.bootstrap, source=source))
    daemon = Daemon(load_config([directory / "bridge.yaml"]))
    await daemon.start()
    try:
        yield daemon
    finally:
        await daemon.stop(10.0)


def orders(name: str, count: int, key: bytes | None = b"k") -> bytes:
    return batch([record(at, json.dumps({"id": f"{name}{at}"}).encode(), key) for at in range(count)])


async def fill(harness: Bytes, *batches: bytes) -> None:
    """Put batches into partition 0, and one healthy batch each into partition 1 and into the topic of another
    source."""
    await harness.create_topic("orders", 2)
    await harness.create_topic("others", 1)
    first = harness.server.state.partition("orders", 0)
    assert first is not None
    for data in batches:
        first.place(data, int.from_bytes(data[23:27]) + 1)
    for topic, number in (("orders", 1), ("others", 0)):
        partition = harness.server.state.partition(topic, number)
        assert partition is not None
        partition.place(orders(f"{topic}{number}-", 5, b"other"), 5)


async def until(daemon: Daemon, condition: Callable[[], Any]) -> None:
    def holds() -> Any:
        found = condition()
        assert all(is_balanced(source.ledger) for source in daemon.sources)
        return found

    await eventually(holds)


def outcomes(daemon: Daemon) -> dict[str, int]:
    return {str(outcome): count for outcome, count in daemon.sources[0].ledger.outcomes.items() if count}


async def quarantined(quarantine: QuarantineOperations, count: int) -> list[WaitingMessage]:
    """Return the waiting messages once the entity has processed `count`."""
    found: list[WaitingMessage] = []

    async def complete() -> bool:
        found[:] = await quarantine.list()
        return len(found) == count

    await eventually(complete, lambda: f"{count} messages: {found}")
    return found


def rotten() -> bytes:
    data = bytearray(orders("r", 3))
    data[-1] ^= 1
    return bytes(data)


def bad_name(key: bytes | None = b"k") -> bytes:
    return batch([record(0, b'{"id": "never"}', key, [(b"caf\xe9", b"1")])])


@pytest.mark.parametrize("bad", [rotten(), bad_name()], ids=["batch", "record"])
async def test_one_dead_letter_with_its_cause(tmp_path: Path, harness: Bytes, bad: bytes) -> None:
    await fill(harness, orders("a", 3), bad, orders("b", 3))
    async with running(tmp_path, harness, "    on_unreadable: dead_letter") as daemon:
        await until(daemon, lambda: sum(daemon.sources[0].ledger.outcomes.values()) == 12)
        ledger = daemon.sources[0].ledger
        assert outcomes(daemon) == {"executed": 11, "dead_lettered": 1}
        assert ledger.dead_letters == {"unreadable": 1}
        [((topic, partition, fault), count)] = ledger.unreadable.items()
        assert (topic, partition, fault in ("crc", "header_name"), count) == ("orders", 0, True, 1)
        broker = daemon.brokers["kafka"]
        [dead] = await take(await broker.subscribe(SubscribeOptions(("orders.dlq",), "d"), Assignments()), 1)
        headers = dict(dead.message.headers)
        assert headers["bridge.reason"] == b"unreadable"
        assert headers["bridge.error"] == b"UnreadableMessage"
        assert headers["bridge.offset"] == b"3"
        assert b"never" not in headers["bridge.detail"]
        assert daemon.watch.health().ready


async def test_the_default_stops_a_partition_whose_order_would_break(tmp_path: Path, harness: Bytes) -> None:
    await fill(harness, orders("a", 3), rotten(), orders("b", 3))
    async with running(tmp_path, harness) as daemon:
        await until(daemon, lambda: daemon.sources[0].ledger.outcomes["executed"] == 8)
        await until(daemon, lambda: daemon.sources[1].ledger.outcomes["executed"] == 5)
        checks = {check.name: check for check in daemon.watch.health().checks if check.kind == "source"}
        await until(daemon, lambda: not daemon.watch.health().ready)
        checks = {check.name: check for check in daemon.watch.health().checks if check.kind == "source"}
        assert checks["others"].ready
        assert not checks["orders"].ready
        assert "orders/0" in checks["orders"].detail
        assert "stopped at offsets 3 to 5" in checks["orders"].detail
        assert "on_unreadable" in checks["orders"].detail
        # Records with a readable key are not affected
        await asyncio.sleep(0.2)
        assert outcomes(daemon) == {"executed": 8}
        assert harness.committed("orders", 0) == 3


async def test_by_default_a_record_with_a_key_is_dead_lettered(tmp_path: Path, harness: Bytes) -> None:
    await fill(harness, orders("a", 3), bad_name(), orders("b", 3))
    async with running(tmp_path, harness) as daemon:
        await until(daemon, lambda: sum(daemon.sources[0].ledger.outcomes.values()) == 12)
        assert outcomes(daemon) == {"executed": 11, "dead_lettered": 1}


@pytest.mark.parametrize("ordering", ["none", "partition"])
async def test_without_order_by_key_a_batch_is_dead_lettered(tmp_path: Path, harness: Bytes, ordering: str) -> None:
    await fill(harness, orders("a", 3), rotten(), orders("b", 3))
    async with running(tmp_path, harness, f"    ordering: {ordering}") as daemon:
        await until(daemon, lambda: sum(daemon.sources[0].ledger.outcomes.values()) == 12)
        assert outcomes(daemon) == {"executed": 11, "dead_lettered": 1}


async def test_what_is_skipped_is_counted_and_logged(tmp_path: Path, harness: Bytes) -> None:
    await fill(harness, orders("a", 3), rotten(), bad_name(), orders("b", 3))
    with capture_logs() as logs:
        async with running(tmp_path, harness, "    on_unreadable: skip") as daemon:
            await until(daemon, lambda: sum(daemon.sources[0].ledger.outcomes.values()) == 13)
            assert outcomes(daemon) == {"executed": 11, "ignored": 2}
            assert sum(daemon.sources[0].ledger.unreadable.values()) == 2
            metrics = (await daemon.watch.scrape()).decode()
            assert (
                'bridge_unreadable_messages_total{fault="crc",partition="0",source="orders",topic="orders"} 1.0'
                in metrics
            )
    skipped = [line for line in logs if line.get("action") == "skip"]
    assert [(line["log_level"], line["source"]) for line in skipped] == [("error", "orders")] * 2
    assert "orders/0@3" in skipped[0]["position"]


async def test_a_readable_key_is_quarantined_with_what_follows(tmp_path: Path, harness: Bytes) -> None:
    """The released message is still unreadable and waits again; when it is dropped, its key continues."""
    await fill(harness, orders("a", 2), bad_name(), orders("b", 2), orders("c", 2, key=b"free"))
    async with running(tmp_path, harness, "    quarantine: {poll: 50ms}") as daemon:
        await until(daemon, lambda: sum(daemon.sources[0].ledger.outcomes.values()) == 12)
        assert outcomes(daemon) == {"executed": 9, "quarantined": 3}
        quarantine = QuarantineOperations(daemon.engines["default"])
        waiting = await quarantined(quarantine, 3)
        assert [(each.key, each.reason) for each in waiting] == [
            ("k", "unreadable"), ("k", "follows"), ("k", "follows"),
        ]  # fmt: skip
        await quarantine.release("orders", "k")
        await until(daemon, lambda: daemon.sources[0].ledger.outcomes["quarantined"] == 4)
        await until(daemon, lambda: daemon.sources[0].ledger.in_flight == 0)
        waiting = await quarantined(quarantine, 3)
        assert [each.reason for each in waiting] == ["unreadable", "follows", "follows"]
        await quarantine.drop("orders", "k", [waiting[0].id], forget=False)
        broker = daemon.brokers["kafka"]
        [dead] = await take(await broker.subscribe(SubscribeOptions(("orders.dlq",), "d"), Assignments()), 1)
        assert dead.message.body == b'{"id": "never"}'
        await quarantine.release("orders", "k")
        await until(daemon, lambda: daemon.sources[0].ledger.outcomes["executed"] == 11)


async def test_a_damaged_batch_counts_once_towards_the_dead_letter_limit(tmp_path: Path, harness: Bytes) -> None:
    rng = random.Random(1)
    log = Log()
    log.add(DAMAGES["unknown_codec"](rng, "big", 8))
    await fill(harness, orders("a", 2), log.batches[0], orders("b", 2))
    limits = "    on_unreadable: dead_letter\n    limits: {dead_letter_limit: 1}"
    async with running(tmp_path, harness, limits) as daemon:
        await until(daemon, lambda: sum(daemon.sources[0].ledger.outcomes.values()) == 10)
        assert outcomes(daemon) == {"executed": 9, "dead_lettered": 1}
        assert not daemon.sources[0].dead_letter_limit.active
