"""Whole pipelines through long and repeated trouble: nothing is lost, nothing dead-lettered, order per session kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bridge.errors import BrokerUnavailable, EngineUnavailable
from tests.brokers.servicebus.bench import bus_bench
from tests.pipeline.harness import Bench, message, offsets_by_key
from tests.servicebus.server import QueueConfig, ServerConfig, ServiceBusServer

pytestmark = [pytest.mark.prove, pytest.mark.timeout(240)]

LOCK = 5.0
ENTITIES = pytest.mark.parametrize(
    "entity", ["queue: orders", "queue: by-session\n    sessions: {concurrent: 4}"], ids=["plain", "sessions"]
)
PATIENCE = 90.0


@pytest.fixture
async def server() -> AsyncIterator[ServiceBusServer]:
    queues = (
        QueueConfig("orders", lock_duration=LOCK, max_delivery_count=10),
        QueueConfig("by-session", lock_duration=LOCK, max_delivery_count=10, requires_session=True),
    )
    async with ServiceBusServer(ServerConfig(queues)) as server:
        yield server
    assert server.counters.crashes == []


async def _publish(server: ServiceBusServer, queue: str, bench: Bench, first: int, count: int) -> None:
    """Numbered starts of four sessions."""
    numbers = range(first, first + count)
    messages = [message("start", f"{n % 4}-{n}", str(n % 4)) for n in numbers]
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                await bench.publish(*messages, topic=queue)
            except BrokerUnavailable:
                continue  # its connection breaks too; what comes twice is a duplicate
            return


async def _ended(server: ServiceBusServer, queue: str, bench: Bench, count: int) -> None:
    """All were executed once, in their sessions' order, and none is left."""
    async with asyncio.timeout(PATIENCE):
        while server.queue(queue).contents().unsettled or bench.source.ledger.in_flight:
            assert bench.source.ledger.balanced()
            await asyncio.sleep(0.05)
    assert server.counters.dead_letters == []
    # The first effects: a repeat after a break is a duplicate to the engine
    first = list(dict.fromkeys(command.instance_id for command in bench.faults.taken))  # type: ignore[union-attr]
    assert sorted(first) == sorted(f"order-{n % 4}-{n}" for n in range(count))
    if queue == "by-session":
        taken = {command.instance_id: command for command in reversed(bench.faults.taken)}  # type: ignore[union-attr]
        for numbers in offsets_by_key([taken[id_] for id_ in first]).values():
            assert numbers == sorted(numbers)


@ENTITIES
async def test_a_server_that_is_busy_for_a_minute(tmp_path: Path, server: ServiceBusServer, entity: str) -> None:
    async with bus_bench(tmp_path, server.connection_string, entity) as bench:
        queue = bench.source.settings.subscribe.topics[0]
        await bench.source.start()
        await _publish(server, queue, bench, 0, 40)
        await bench.until(lambda: bench.faults.taken, "under way")
        server.faults.busy(60.0)
        await bench.until(lambda: bench.source.gate.holds or bench.source.subscription.stopped(), "noticed")  # type: ignore[union-attr]
        await asyncio.sleep(60.0)
        await bench.until(lambda: not bench.source.subscription.stopped(), "it reads again")  # type: ignore[union-attr]
        await _publish(server, queue, bench, 40, 20)
        await _ended(server, queue, bench, 60)


@ENTITIES
async def test_a_server_that_is_frozen_for_half_a_minute(tmp_path: Path, server: ServiceBusServer, entity: str) -> None:
    async with bus_bench(tmp_path, server.connection_string, entity) as bench:
        queue = bench.source.settings.subscribe.topics[0]
        await bench.source.start()
        await _publish(server, queue, bench, 0, 40)
        bench.faults.outage = EngineUnavailable("so that something is in flight")
        await bench.until(lambda: bench.source.gate.holds, "held")
        server.faults.freeze()
        await asyncio.sleep(5.0)
        bench.faults.outage = None
        await asyncio.sleep(25.0)
        server.faults.thaw()
        await _ended(server, queue, bench, 40)


@ENTITIES
@pytest.mark.parametrize(
    "step", ["attached", "flow", "deliver", "delivered", "settle", "settled", "echoed", "manage", "managed"]
)
async def test_connections_that_break_again_and_again(
    tmp_path: Path, server: ServiceBusServer, entity: str, step: str
) -> None:
    """At one step, every few times it is reached, while messages come in."""
    async with bus_bench(tmp_path, server.connection_string, entity) as bench:
        queue = bench.source.settings.subscribe.topics[0]
        await bench.source.start()
        faults = [server.faults.add(step, "drop", skip=skip, entity=queue) for skip in (1, 5, 9)]
        for first in range(0, 60, 20):
            await _publish(server, queue, bench, first, 20)
            if step in ("manage", "managed"):
                # Reached by whoever holds a lock for long
                bench.faults.outage = EngineUnavailable("away")
                await asyncio.sleep(LOCK)
                bench.faults.outage = None
            await asyncio.sleep(0.5)
            if step in ("attached", "flow"):
                server.faults.drop(queue)  # reached by whoever connects again
        await _ended(server, queue, bench, 60)
        assert sum(fault.hits for fault in faults) >= 1
