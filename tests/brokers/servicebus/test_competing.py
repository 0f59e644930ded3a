"""Several consumers of one queue without sessions."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psutil

from tests.brokers.servicebus.setup import bus_setup, outcomes
from tests.kit.pipeline import message
from tests.servicebus.server import QueueConfig, ServerConfig, ServiceBusServer

SERVER = ServerConfig((QueueConfig("orders", lock_duration=30),))


async def test_they_share_and_take_nothing_twice(tmp_path: Path, server: ServiceBusServer) -> None:
    small = "    servicebus: {prefetch: 5, receivers: 2}"
    async with (
        bus_setup(tmp_path / "one", server.connection_string, source=small) as first,
        bus_setup(tmp_path / "two", server.connection_string, source=small) as second,
    ):
        await first.source.start()
        await second.source.start()
        for start in range(0, 300, 20):
            await first.publish(*(message("start", n) for n in range(start, start + 20)))
        await first.until(
            lambda: sum(sum(outcomes(each).values()) for each in (first, second)) == 300, "all are settled"
        )
        assert all(outcomes(each).get("executed", 0) > 0 for each in (first, second))
        assert first.source.ledger.received + second.source.ledger.received == 300


async def test_what_one_cannot_take_the_other_does(tmp_path: Path, server: ServiceBusServer) -> None:
    """A full consumer withholds no more messages from the others than it has in flight."""
    full = "    limits: {max_in_flight: 1}\n    servicebus: {prefetch: 2}"
    async with (
        bus_setup(tmp_path / "one", server.connection_string, source=full) as first,
        bus_setup(tmp_path / "two", server.connection_string) as second,
    ):
        release = asyncio.Event()

        async def before(command: object) -> None:
            await release.wait()

        first.faults.before = before
        await first.source.start()
        await first.publish(*(message("start", n) for n in range(60)))
        await first.until(lambda: first.source.ledger.in_flight, "one is at work")
        await second.source.start()
        await second.settled(50)
        release.set()
        await first.until(lambda: not server.queue("orders").contents().unsettled, "all done")


async def test_waiting_costs_next_to_nothing(tmp_path: Path, server: ServiceBusServer) -> None:
    async with bus_setup(tmp_path, server.connection_string) as setup:
        await setup.source.start()
        await asyncio.sleep(1)
        process = psutil.Process()
        before = sum(process.cpu_times()[:2])
        await asyncio.sleep(3)
        # A tenth of a core: the server and the engine run here too, and machine load blurs the figure
        assert sum(process.cpu_times()[:2]) - before < 0.3
