from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.brokers.servicebus.harness import REAL, ServiceBusHarness, contract_queues
from tests.servicebus.server import ServerConfig, ServiceBusServer


@pytest.fixture
async def harness() -> AsyncIterator[ServiceBusHarness]:
    """A namespace with the queues of the contract suite: a server of our own, or what SERVICEBUS_CONNECTION names."""
    if REAL:
        harness = ServiceBusHarness(REAL, None)
        await harness.clear()
        yield harness
        await harness.stop()
        return
    async with ServiceBusServer(ServerConfig(contract_queues())) as server:
        harness = ServiceBusHarness(server.connection_string, server)
        yield harness
        await harness.stop()
    assert server.counters.crashes == []
