from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
from azure.servicebus.aio import ServiceBusClient

from tests.servicebus.sdk import Client
from tests.servicebus.server import QueueConfig, ServerConfig, ServiceBusServer

Serve = Callable[[ServerConfig], Awaitable[ServiceBusServer]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Start servers; at the end of the test each server must be free of internal errors."""
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
    """Server with a queue `orders` and a queue with sessions `by-session`; locks last 30 seconds."""
    queues = (
        QueueConfig("orders", lock_duration=30),
        QueueConfig("by-session", lock_duration=30, requires_session=True),
    )
    return await serve(ServerConfig(queues))


@pytest.fixture
async def client(server: ServiceBusServer) -> AsyncIterator[ServiceBusClient]:
    """SDK client without retries."""
    async with Client.from_connection_string(server.connection_string, retry_total=0) as client:
        yield client
