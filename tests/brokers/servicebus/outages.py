"""Pipelines under faults: their server, their messages, and the expected results."""

from __future__ import annotations

import asyncio

import pytest

from bridge.core.errors import BrokerUnavailable
from tests.kit.pipeline import PipelineFixture, is_balanced, message, offsets_by_key
from tests.kit.waiting import TIMEOUT, eventually
from tests.servicebus.server import QueueConfig, ServerConfig, ServiceBusServer

LOCK = 5.0
ENTITIES = pytest.mark.parametrize(
    "entity", ["queue: orders", "queue: by-session\n    sessions: {concurrent: 4}"], ids=["plain", "sessions"]
)
SERVER = ServerConfig(
    (
        QueueConfig("orders", lock_duration=LOCK, max_delivery_count=10),
        QueueConfig("by-session", lock_duration=LOCK, max_delivery_count=10, requires_session=True),
    )
)
"""Server configuration with the queues of `ENTITIES`."""


async def publish(server: ServiceBusServer, queue: str, setup: PipelineFixture, first: int, count: int) -> None:
    """Publish numbered starts in four sessions."""
    numbers = range(first, first + count)
    messages = [message("start", f"{n % 4}-{n}", str(n % 4)) for n in numbers]
    async with asyncio.timeout(TIMEOUT):
        while True:
            try:
                await setup.publish(*messages, topic=queue)
            except BrokerUnavailable:
                continue  # the publisher's connection breaks too; a repeated message is a duplicate
            return


async def ended(server: ServiceBusServer, queue: str, setup: PipelineFixture, count: int) -> None:
    """Assert that all messages were executed once, in the order of their sessions, and that none is left."""

    def none_left() -> bool:
        assert is_balanced(setup.source.ledger)
        return not (server.queue(queue).contents().unsettled or setup.source.ledger.in_flight)

    await eventually(none_left, poll=0.05)
    assert server.counters.dead_letters == []
    # First effects only: the engine sees a repeat after a break as a duplicate
    first = list(dict.fromkeys(command.instance_id for command in setup.faults.taken))  # type: ignore[union-attr]
    assert sorted(first) == sorted(f"order-{n % 4}-{n}" for n in range(count))
    if queue == "by-session":
        taken = {command.instance_id: command for command in reversed(setup.faults.taken)}  # type: ignore[union-attr]
        for numbers in offsets_by_key([taken[id_] for id_ in first]).values():
            assert numbers == sorted(numbers)
