"""Open dead letters as a daemon counts them, and the end of their states."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient

from bridge.app.composition import load_config
from bridge.app.dead_letters.groups import grouped
from bridge.app.dead_letters.reading import DeadLetterSelection, why_gone
from bridge.app.serve.daemon import Daemon
from bridge.app.serve.dead_letters import DeadLetterCounter
from bridge.brokers.base import ReadableBroker, ReadOptions
from bridge.core.errors import BrokerUnavailable
from bridge.core.message import Message
from bridge.dead_letters.store import DeadLetterStates
from bridge.dead_letters.topic_states import DeadLetterRef
from tests.kit.waiting import TIMEOUT, eventually
from tests.servicebus.server import QueueConfig, ServerConfig, ServiceBusServer

CONFIG = """
engine: {type: embedded, path: engine}
brokers: {broker: %s}
sources:
  orders: {broker: broker, %s, codec: json, no_match: dead_letter, attributes: {type: "headers['type']"}}
routes:
  - name: start
    from: orders
    match: {type: created}
    schedule: {orchestration: order, instance_id: "order-{{ payload.id }}"}
workflows: {external: [order]}
ops: {http: {port: 0}, dead_letters: {interval: 1h, restore: 7d}}
"""
LOCAL = ("{type: local, path: broker, partitions: 1}", "topics: [orders]")
DAY = 86_400.0


@asynccontextmanager
async def serving(path: Path, broker: str, origin: str) -> AsyncIterator[Daemon]:
    (path / "bridge.yaml").write_text(CONFIG.replace("%s", broker, 1).replace("%s", origin, 1))
    daemon = Daemon(load_config([path / "bridge.yaml"]))
    await daemon.start()
    try:
        yield daemon
    finally:
        assert await daemon.stop(TIMEOUT)


async def fill(daemon: Daemon, count: int, first: int = 0, kind: bytes = b"unknown") -> None:
    """Publish messages that no rule matches, and wait for their dead letters."""
    source = daemon.sources[0]
    before = source.ledger.outcomes["dead_lettered"]
    messages = [
        Message(json.dumps({"id": number}).encode(), headers=(("type", kind),))
        for number in range(first, first + count)
    ]
    await daemon.brokers["broker"].publish("orders", messages)
    await eventually(lambda: source.ledger.outcomes["dead_lettered"] == before + count)


async def dead_letters(daemon: Daemon, topic: str) -> list[DeadLetterRef]:
    broker = daemon.brokers["broker"]
    assert isinstance(broker, ReadableBroker)
    return [
        DeadLetterRef("broker", topic, at.partition, at.offset, message.timestamp)
        async for at, message in broker.read(ReadOptions(topic))
    ]


async def count(daemon: Daemon) -> int:
    assert daemon.dead_letters is not None
    await daemon.dead_letters.count()
    document = daemon.dead_letters.document("orders")
    assert document is not None
    assert document["count"] == sum(daemon.dead_letters.open.values())
    return int(document["count"])


async def test_a_count_follows_new_dead_letters_and_their_states(tmp_path: Path) -> None:
    async with serving(tmp_path, *LOCAL) as daemon:
        states = DeadLetterStates(daemon.engines["default"])
        assert await count(daemon) == 0
        await fill(daemon, 30)
        assert await count(daemon) == 30
        assert daemon.dead_letters is not None
        assert dict(daemon.dead_letters.open) == {("orders", "no_route", ""): 30}
        refs = await dead_letters(daemon, "orders.dlq")
        await states.drop("job", refs[:10], by="ann", reason="test")
        assert await count(daemon) == 20
        await states.take("other", refs[10:15])
        assert await count(daemon) == 15
        await states.apply("returned", refs[10:12], {"job": "other"})
        await states.apply("open", refs[12:15], {"job": "other"})
        assert await count(daemon) == 18
        await fill(daemon, 5, 30)
        assert await count(daemon) == 23
        text = (await daemon.watch.scrape()).decode()
        assert 'bridge_dead_letters_open{reason="no_route",route="",source="orders"} 23.0' in text
        assert 'bridge_dead_letter_oldest_seconds{source="orders"}' in text
    # Another process begins with the files of this one
    async with serving(tmp_path, *LOCAL) as daemon:
        assert await count(daemon) == 23


async def test_the_files_of_a_count_may_be_lost(tmp_path: Path) -> None:
    async with serving(tmp_path, *LOCAL) as daemon:
        await fill(daemon, 20)
        assert await count(daemon) == 20
        for file in (tmp_path / ".bridge" / "dead-letters").rglob("*.block"):
            file.write_bytes(b"damaged")
        refs = await dead_letters(daemon, "orders.dlq")
        await DeadLetterStates(daemon.engines["default"]).drop("job", refs[:5], by="ann", reason="test")
        assert daemon.dead_letters is not None
        await daemon.dead_letters.count()
        assert await count(daemon) == 15


async def test_a_topic_that_cannot_be_read_has_no_figures_and_then_the_last_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path, *LOCAL) as daemon:
        await fill(daemon, 3)
        broker = daemon.brokers["broker"]
        fresh = DeadLetterCounter(daemon.loaded, daemon.brokers, daemon.engines)
        with monkeypatch.context() as broken:

            async def away(topic: str) -> None:
                raise BrokerUnavailable("the disk is away")

            broken.setattr(broker, "ranges", away)
            await fresh.count()
            assert (fresh.document("orders"), dict(fresh.open), dict(fresh.oldest)) == (None, {}, {})
        await fresh.count()
        assert fresh.document("orders") is not None
        with monkeypatch.context() as broken:
            broken.setattr(broker, "ranges", away)
            await fresh.count()
            assert sum(fresh.open.values()) == 3


async def test_states_leave_with_their_dead_letters(tmp_path: Path) -> None:
    async with serving(tmp_path, *LOCAL) as daemon:
        states = DeadLetterStates(daemon.engines["default"])
        await fill(daemon, 10)
        refs = await dead_letters(daemon, "orders.dlq")
        await states.drop("job", refs, by="ann", reason="test")
        assert await count(daemon) == 0
        await _expire(tmp_path, 6)
        assert await count(daemon) == 0
        await eventually(lambda: _marked(states, "orders.dlq", 4))
        await _expire(tmp_path, 10)
        assert await count(daemon) == 0
        await eventually(lambda: _marked(states, "orders.dlq", 0))
        assert not (await states.topic("broker", "orders.dlq")).blocks


async def _marked(states: DeadLetterStates, topic: str, number: int) -> bool:
    found = await states.topic("broker", topic)
    return sum(len(members) for block in found.blocks.values() for _, members in block.marks()) == number


async def _expire(path: Path, count: int) -> None:
    """Delete the oldest records of the dead-letter topic, as the retention of the local broker does."""
    [file] = (path / "broker").glob("*.db")
    connection = sqlite3.connect(file, isolation_level=None, timeout=TIMEOUT)
    [[partition]] = connection.execute(
        "SELECT partitions.id FROM partitions JOIN topics ON topic = topics.id WHERE name = 'orders.dlq'"
    )
    connection.execute("DELETE FROM records WHERE id >= ? AND id < ?", (partition << 40, (partition << 40) + count))
    connection.close()


async def test_service_bus_loses_what_was_replayed_or_dropped_long_ago(tmp_path: Path) -> None:
    async with ServiceBusServer(ServerConfig((QueueConfig("orders"),))) as server:
        broker = f"{{type: servicebus, connection_string: '{server.connection_string}'}}"
        async with serving(tmp_path, broker, "queue: orders") as daemon:
            states, topic = DeadLetterStates(daemon.engines["default"]), "orders/$DeadLetterQueue"
            await fill(daemon, 8)
            assert await count(daemon) == 8
            refs = await dead_letters(daemon, topic)
            old, young, replayed, returned, *open_ = refs
            await states.drop("a", [old], by="ann", reason="test", at=time.time() - 8 * DAY)
            await states.drop("b", [young], by="ann", reason="test", at=time.time() - 6 * DAY)
            await states.take("c", [replayed, returned])
            await states.apply("replayed", [replayed], {"job": "c"})
            await states.apply("returned", [returned], {"job": "c"})
            assert await count(daemon) == 4
            assert await dead_letters(daemon, topic) == [young, *open_]
            # Messages that the daemon has completed are not reported as gone
            loaded, engines = load_config([tmp_path / "bridge.yaml"]), daemon.engines
            assert (await grouped(loaded, DeadLetterSelection(), False, engines=engines)).gone == []
            gone = f"{replayed.id} is gone: the daemon has completed it; it was replayed"
            assert await why_gone(loaded, replayed.id) == gone
            # The states of completed messages leave, the other one stays
            await count(daemon)
            await count(daemon)
            await eventually(lambda: _marked(states, topic, 1))
            assert set(await states.read([young])) == {young}
            await asyncio.sleep(0)
            assert await count(daemon) == 4
    assert server.counters.crashes == []


async def test_a_queue_of_its_own_has_the_sub_queue_too(tmp_path: Path) -> None:
    """The service, and other consumers, dead-letter to the sub-queue of the entity."""
    async with ServiceBusServer(ServerConfig((QueueConfig("orders"), QueueConfig("failed")))) as server:
        async with ServiceBusClient.from_connection_string(server.connection_string) as client:
            async with client.get_queue_sender("orders") as sender:
                await sender.send_messages(ServiceBusMessage(b"{}"))
            async with client.get_queue_receiver("orders") as receiver:
                [message] = await receiver.receive_messages(1)
                await receiver.dead_letter_message(message, reason="Poison")
        broker = f"{{type: servicebus, connection_string: '{server.connection_string}'}}"
        async with serving(tmp_path, broker, "queue: orders, dead_letter: failed") as daemon:
            await fill(daemon, 2)
            assert await count(daemon) == 3
            assert daemon.dead_letters is not None
            assert daemon.dead_letters.open == {("orders", "no_route", ""): 2, ("orders", "foreign", ""): 1}
            states, topic = DeadLetterStates(daemon.engines["default"]), "orders/$DeadLetterQueue"
            foreign = await dead_letters(daemon, topic)
            await states.take("a", foreign)
            await states.apply("returned", foreign, {"job": "a"})
            assert await count(daemon) == 2
            assert await dead_letters(daemon, topic) == []
    assert server.counters.crashes == []


async def test_a_reader_of_the_status_sees_dead_letters_and_drops_before_the_next_count_is_due(tmp_path: Path) -> None:
    async with serving(tmp_path, *LOCAL) as daemon:

        async def shown(number: int) -> bool:
            [source] = (await daemon.status.document())["sources"]
            found = source["dead_letters_open"]
            return found is not None and found["count"] == number

        await eventually(lambda: shown(0), "the first count; the next one is due in an hour")
        for number in (1, 2, 3):
            await fill(daemon, 1, number)
            await eventually(partial(shown, number), f"{number} dead letters")
        refs = await dead_letters(daemon, "orders.dlq")
        await DeadLetterStates(daemon.engines["default"]).drop("job", refs[:1], by="ann", reason="test")
        await eventually(lambda: shown(2), "the drop")
