"""A wrong local clock is reported, and does not affect locks."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from bridge.app.serve.views.watch import SourceView
from bridge.brokers.servicebus import clock as clocks
from bridge.brokers.servicebus.clock import SOONEST, ClockSkewDetector, renew_after
from tests.brokers.servicebus.setup import bus_setup, outcomes
from tests.kit.pipeline import message
from tests.kit.waiting import TIMEOUT
from tests.servicebus.server import QueueConfig, ServerConfig, ServiceBusServer

SERVER = ServerConfig(
    (
        QueueConfig("orders", lock_duration=5, max_delivery_count=10),
        QueueConfig("by-session", lock_duration=5, max_delivery_count=10, requires_session=True),
    )
)


@pytest.mark.usefixtures("quick_start")
@pytest.mark.parametrize("entity", ["queue: orders", "queue: by-session\n    sessions: {concurrent: 1}"])
async def test_a_clock_that_is_ahead_is_told(
    tmp_path: Path, server: ServiceBusServer, entity: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bus_setup(tmp_path, server.connection_string, entity) as setup:
        queue = setup.source.settings.subscribe.topics[0]
        await setup.source.start()
        server.faults.skew(-60.0)
        await setup.publish(*(message("start", n, "k") for n in range(3)), topic=queue)
        await setup.until(lambda: "clock" in setup.source.gate.pause_reasons, "it is said")
        reading = SourceView(setup.source, TIMEOUT).reading()
        assert any("set the clock" in text for text in reading.holds.values())
        delivered = server.counters.deliveries[queue]
        assert delivered <= 3
        # Corrected again; the local clock cannot be stepped here
        server.faults.skew(0.0)
        monkeypatch.setattr(clocks, "AGAIN_SECONDS", 0.0)
        await setup.until(lambda: outcomes(setup).get("executed") == 3, "it goes on")
        assert server.counters.dead_letters == []


@pytest.mark.parametrize("skew", [2.0, -2.0])
async def test_a_clock_that_is_a_little_wrong_does_no_harm(
    tmp_path: Path, server: ServiceBusServer, skew: float
) -> None:
    server.faults.skew(skew)
    async with bus_setup(tmp_path, server.connection_string) as setup:
        started = time.monotonic()

        async def before(command: object) -> None:
            while time.monotonic() - started < 8:
                await setup.until(lambda: time.monotonic() - started >= 8)

        setup.faults.before = before
        await setup.source.start()
        await setup.publish(message("start", "1"))
        await setup.settled(1)
        assert (setup.source.ledger.received, setup.source.ledger.locks_lost) == (1, 0)


def test_a_blocked_loop_is_no_skew(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    clock = ClockSkewDetector()
    monkeypatch.setattr(clocks.time, "monotonic", lambda: now + 60)  # type: ignore[attr-defined]  # the test replaces what the module uses
    clock.expired(5.0)
    assert clock.reset_skew()
    monkeypatch.setattr(clocks.time, "monotonic", lambda: now + 60 + clocks.BLOCKED / 2)  # type: ignore[attr-defined]  # the test replaces what the module uses
    clock.tick()
    clock.expired(5.0)
    assert clock.reset_skew()


def test_a_step_of_the_clock_is_another_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ClockSkewDetector()
    clock.expired(5.0)
    assert not clock.reset_skew()
    wall = time.time()
    monkeypatch.setattr(clocks.time, "time", lambda: wall - 5)  # type: ignore[attr-defined]  # the test replaces what the module uses
    assert clock.reset_skew()


@pytest.mark.parametrize(
    ("remaining", "took", "after"), [(30, 0, 15), (30, 5, 15), (30, 12, 6), (1, 1, SOONEST), (-3, 0, SOONEST)]
)
def test_locks_are_renewed_at_half_or_sooner(remaining: float, took: float, after: float) -> None:
    assert renew_after(remaining, took) == after
