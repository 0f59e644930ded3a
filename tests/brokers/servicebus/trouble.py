"""Pipelines in trouble: their server, what is published, and what must have come of it."""

from __future__ import annotations

import asyncio

import pytest

from bridge.errors import BrokerUnavailable
from tests.pipeline.harness import Bench, message, offsets_by_key
from tests.servicebus.server import QueueConfig, ServerConfig, ServiceBusServer

LOCK = 5.0
ENTITIES = pytest.mark.parametrize(
    "entity", ["queue: orders", "queue: by-session\n    sessions: {concurrent: 4}"], ids=["plain", "sessions"]
)
TIMEOUT = 90.0


SERVER = ServerConfig(
    (
        QueueConfig("orders", lock_duration=LOCK, max_delivery_count=10),
        QueueConfig("by-session", lock_duration=LOCK, max_delivery_count=10, requires_session=True),
    )
)
"""With the queues of `ENTITIES`."""


async def publish(server: ServiceBusServer, queue: str, bench: Bench, first: int, count: int) -> None:
    """Numbered starts of four sessions."""
    numbers = range(first, first + count)
    messages = [message("start", f"{n % 4}-{n}", str(n % 4)) for n in numbers]
    async with asyncio.timeout(TIMEOUT):
        while True:
            try:
                await bench.publish(*messages, topic=queue)
            except BrokerUnavailable:
                continue  # its connection breaks too; what comes twice is a duplicate
            return


async def ended(server: ServiceBusServer, queue: str, bench: Bench, count: int) -> None:
    """All were executed once, in their sessions' order, and none is left."""
    async with asyncio.timeout(TIMEOUT):
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
