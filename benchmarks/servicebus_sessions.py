"""Many small sessions of Service Bus, over the test server in its own process.

`sessions_per_second`: 300 sessions of three messages each, eight at a time, from the subscription to the last message
completed.
`connections`: number seen by the test server, including one of the sender.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient

from bridge.brokers.base import Partition, SubscribeOptions
from bridge.brokers.servicebus import ServiceBusBroker
from bridge.config.model.servicebus import ServiceBusBrokerConfig, SessionsConfig
from tests.servicebus.process import ServerProcess
from tests.servicebus.server import QueueConfig

SESSIONS = 300
MESSAGES = 3
OPTIONS = SubscribeOptions(("orders",), dead_letter=None, sessions=SessionsConfig())


class Ignore:
    """A listener that does nothing."""

    async def assigned(self, partitions: Sequence[Partition]) -> None: ...

    async def revoked(self, partitions: Sequence[Partition]) -> None: ...


async def fill(server: ServerProcess) -> None:
    async with (
        ServiceBusClient.from_connection_string(server.connection_string) as client,
        client.get_queue_sender("orders") as sender,
    ):
        for number in range(SESSIONS):
            session = [ServiceBusMessage(b"x", session_id=f"s{number}") for _ in range(MESSAGES)]
            await sender.send_messages(session)


async def measure(server: ServerProcess) -> float:
    """Seconds until all messages are completed."""
    settings = {"type": "servicebus", "connection_string": server.connection_string}
    broker = ServiceBusBroker("bus", ServiceBusBrokerConfig.model_validate(settings), lambda field, value: Path(value))
    await broker.start()
    begun = time.perf_counter()
    subscription = await broker.subscribe(OPTIONS, Ignore())
    done = 0
    while done < SESSIONS * MESSAGES:
        deliveries = await subscription.receive(100)
        await asyncio.gather(*(each.complete() for each in deliveries))
        done += len(deliveries)
    took = time.perf_counter() - begun
    await broker.stop()
    return took


async def main() -> dict[str, float]:
    with ServerProcess((QueueConfig("orders", lock_duration=60, requires_session=True),)) as server:
        await fill(server)
        took = await measure(server)
        return {"sessions_per_second": SESSIONS / took, "connections": float(server.counters()["connections"])}


def run() -> dict[str, float]:
    return asyncio.run(main())
