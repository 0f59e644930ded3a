from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from bridge.brokers.servicebus import ServiceBusBroker, subscription
from tests.brokers.servicebus.harness import REAL, ServiceBusHarness, contract_queues
from tests.servicebus.server import ServerConfig, ServiceBusServer


@pytest.fixture
async def server(request: pytest.FixtureRequest) -> AsyncIterator[ServiceBusServer]:
    """Server with the configuration in the module's `SERVER`; the server must not crash."""
    async with ServiceBusServer(request.module.SERVER) as server:
        yield server
    assert server.counters.crashes == []


@pytest.fixture
def quick_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a source with sessions start while there is none: its first session comes later."""
    monkeypatch.setattr(subscription, "FIRST_SECONDS", 0.2)


@pytest.fixture
async def broker(request: pytest.FixtureRequest, server: ServiceBusServer) -> AsyncIterator[ServiceBusBroker]:
    """Broker on `server`, with the settings in the module's `BROKER` if there are any."""
    harness = ServiceBusHarness(server.connection_string, server)
    yield await harness.broker(**getattr(request.module, "BROKER", {}))
    await harness.stop()


@pytest.fixture
async def harness() -> AsyncIterator[ServiceBusHarness]:
    """Namespace with the queues of the contract suite: a test server, or the namespace in SERVICEBUS_CONNECTION."""
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
