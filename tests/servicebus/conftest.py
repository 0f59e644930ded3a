from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
from azure.servicebus.aio import ServiceBusClient

from tests.servicebus.server import QueueConfig, ServerConfig, ServiceBusServer

Serve = Callable[[ServerConfig], Awaitable[ServiceBusServer]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts servers, which must not have failed in themselves when the test is over."""
    async with AsyncExitStack() as stack:

        async def start(config: ServerConfig) -> ServiceBusServer:
            server = await stack.enter_async_context(ServiceBusServer(config))
            servers.append(server)
            return server

        servers: list[ServiceBusServer] = []
        yield start
    assert [crash for server in servers for crash in server.counters.crashes] == []


@pytest.fixture
async def server(serve: Serve) -> ServiceBusServer:
    """With a queue `orders`, and a queue `by-session`, whose locks hold for half a minute."""
    queues = (
        QueueConfig("orders", lock_duration=30),
        QueueConfig("by-session", lock_duration=30, requires_session=True),
    )
    return await serve(ServerConfig(queues))


@pytest.fixture
async def client(server: ServiceBusServer) -> AsyncIterator[ServiceBusClient]:
    """The unmodified SDK, which does not try again by itself."""
    async with ServiceBusClient.from_connection_string(server.connection_string, retry_total=0) as client:
        yield client
