"""A wrong local clock is reported, and costs no message; the server's clock represents the true time."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from bridge.brokers.servicebus import clock
from bridge.core.errors import EngineUnavailable
from tests.brokers.servicebus.setup import bus_setup, outcomes
from tests.kit.pipeline import message
from tests.servicebus.server import QueueConfig, ServerConfig, ServiceBusServer

pytestmark = pytest.mark.long

LOCK = 5.0
"""Shortest lock duration of the service, in seconds."""

DELIVERIES = 2
"""Max delivery count."""

TOO_LONG = LOCK * DELIVERIES + 1
"""Seconds that the max delivery count would not allow without the bridge's care."""

ENTITIES = pytest.mark.parametrize("entity", ["queue: orders", "queue: by-session\n    sessions: {concurrent: 4}"])


SERVER = ServerConfig(
    (
        QueueConfig("orders", lock_duration=LOCK, max_delivery_count=DELIVERIES),
        QueueConfig("by-session", lock_duration=LOCK, max_delivery_count=DELIVERIES, requires_session=True),
    )
)


@ENTITIES
async def test_a_clock_ahead_is_said_and_suffered_by_nobody(
    tmp_path: Path, server: ServiceBusServer, entity: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "AGAIN_SECONDS", 1.0)  # the retry is far more frequent than in production
    server.faults.skew(-600)
    async with bus_setup(tmp_path, server.connection_string, entity) as setup:
        queue = setup.source.settings.subscribe.topics[0]
        await setup.publish(*(message("start", n, str(n % 4)) for n in range(30)), topic=queue)
        await setup.source.start()
        await setup.until(lambda: setup.source.gate.pause_reasons, "unready")
        assert any("clock" in str(why) for why in setup.source.gate.pause_reasons.values()), (
            setup.source.gate.pause_reasons
        )
        await asyncio.sleep(TOO_LONG)
        assert outcomes(setup) == {}
        assert server.counters.dead_letters == []
        server.faults.skew(0)
        await setup.settled(30)
        assert outcomes(setup) == {"executed": 30}
        assert server.counters.dead_letters == []


@ENTITIES
@pytest.mark.parametrize("fresh", [True, False], ids=["fresh", "backlog"])
async def test_a_clock_behind_is_said_and_suffered_once_at_most(
    tmp_path: Path, server: ServiceBusServer, entity: str, fresh: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with bus_setup(tmp_path, server.connection_string, entity) as setup:
        queue = setup.source.settings.subscribe.topics[0]
        if fresh:
            server.faults.skew(600)
        await setup.publish(*(message("start", n, str(n % 4)) for n in range(30)), topic=queue)
        if not fresh:
            # These messages carry no time, and the lock has the shortest duration: the first lock is lost
            server.faults.skew(120)
        setup.faults.outage = EngineUnavailable("away")
        await setup.source.start()
        await setup.until(lambda: setup.source.gate.pause_reasons, "held")
        await asyncio.sleep(TOO_LONG)
        setup.faults.outage = None
        await setup.until(lambda: not server.queue(queue).contents().unsettled, "all settled")
        await setup.until(lambda: not setup.source.ledger.in_flight, "all have ended")
        assert server.counters.dead_letters == []
        assert sorted({command.instance_id for command in setup.faults.taken}) == sorted(  # type: ignore[union-attr]
            f"order-{n}" for n in range(30)
        )
        lost = server.counters.expired_locks[queue] + server.counters.expired_session_locks[queue]
        assert lost == 0 if fresh else lost <= 30
    assert "clock" in caplog.text
