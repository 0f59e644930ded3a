"""Whole pipelines with breaking connections: no loss, no dead letter, order per session kept."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from bridge.core.errors import EngineUnavailable
from tests.brokers.servicebus import outages
from tests.brokers.servicebus.outages import ENTITIES, LOCK, ended, publish
from tests.brokers.servicebus.setup import bus_setup
from tests.servicebus.server import ServiceBusServer

pytestmark = [pytest.mark.prove, pytest.mark.timeout(240)]
SERVER = outages.SERVER


@ENTITIES
@pytest.mark.parametrize(
    "step", ["attached", "flow", "deliver", "delivered", "settle", "settled", "echoed", "manage", "managed"]
)
async def test_connections_that_break_again_and_again(
    tmp_path: Path, server: ServiceBusServer, entity: str, step: str
) -> None:
    """A fault at one step, every few times it is reached, while messages arrive."""
    async with bus_setup(tmp_path, server.connection_string, entity) as setup:
        queue = setup.source.settings.subscribe.topics[0]
        await setup.source.start()
        faults = [server.faults.add(step, "drop", skip=skip, entity=queue) for skip in (1, 5, 9)]
        for first in range(0, 60, 20):
            await publish(server, queue, setup, first, 20)
            if step in ("manage", "managed"):
                # A long-held lock reaches this step
                setup.faults.outage = EngineUnavailable("away")
                await asyncio.sleep(LOCK)
                setup.faults.outage = None
            await asyncio.sleep(0.5)
            if step in ("attached", "flow"):
                server.faults.drop(queue)  # reached by a reconnect
        await ended(server, queue, setup, 60)
        assert sum(fault.hits for fault in faults) >= 1
