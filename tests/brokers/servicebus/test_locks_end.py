"""Locks that end with their connection or link: no loss, no repetition, order per session kept."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.brokers.servicebus.setup import bus_setup
from tests.brokers.servicebus.test_unreadable import DROPS, mixed
from tests.servicebus.server import QueueConfig, ServerConfig, ServiceBusServer, SubscriptionConfig, TopicConfig

FAULTS = 8
"""Number of faults, below the delivery count: each fault costs a message at most one delivery."""

DELIVERIES = 10
"""Default max delivery count of the service."""

SERVER = ServerConfig(
    (
        QueueConfig("plain", lock_duration=5, max_delivery_count=DELIVERIES),
        QueueConfig("by-session", lock_duration=5, max_delivery_count=DELIVERIES, requires_session=True),
        QueueConfig("letters"),
    ),
    (TopicConfig("events", (SubscriptionConfig("bridge", lock_duration=5, max_delivery_count=DELIVERIES),)),),
)
ENTITIES = pytest.mark.parametrize(
    "entity",
    ["queue: plain", "topic: events\n    subscription: bridge", "queue: by-session\n    sessions: {concurrent: 4}"],
    ids=["queue", "subscription", "sessions"],
)
KINDS = (*DROPS, "cut")
LIMITS = "    limits: {dead_letter_limit: 1000}"


@pytest.fixture(params=["link", "connection, few renewed"])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[ServiceBusServer]:
    """Server whose locks end with the connection or the link; optionally with three lock renewals per request at
    most."""
    ends, _, few = request.param.partition(", ")
    option = {f"locks_end_with_{ends}": True, "max_renewed_locks": 3 if few else None}
    async with ServiceBusServer(replace(SERVER, **option)) as server:  # type: ignore[arg-type]  # wider than its annotation, on purpose
        yield server
    assert server.counters.crashes == []


@ENTITIES
async def test_all_kinds_with_faults(tmp_path: Path, server: ServiceBusServer, entity: str) -> None:
    """Repeated commands make faults more frequent; therefore the number of faults is limited."""
    async with bus_setup(tmp_path, server.connection_string, entity) as setup:
        await mixed(server, setup, 1, count=60, keys=5, every=20, most=FAULTS // 2, kinds=KINDS)


@pytest.mark.prove
@pytest.mark.timeout(600)
@ENTITIES
@pytest.mark.parametrize("seed", range(200, 205))
async def test_many_of_all_kinds_with_faults(tmp_path: Path, server: ServiceBusServer, entity: str, seed: int) -> None:
    async with bus_setup(tmp_path, server.connection_string, entity, source=LIMITS) as setup:
        await mixed(server, setup, seed, count=300, keys=12, every=40, most=FAULTS, kinds=KINDS)
