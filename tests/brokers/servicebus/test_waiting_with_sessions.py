"""Messages that wait on the engine continue after their session has ended, whether or not other sessions come and
end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bridge.app.composition import load_config
from bridge.app.serve.daemon import Daemon
from bridge.core.states import Outcome
from bridge.quarantine.operations import QuarantineOperations
from tests.brokers.servicebus.test_waiting import write
from tests.kit.pipeline import message
from tests.kit.waiting import TIMEOUT, eventually
from tests.servicebus.server import QueueConfig, ServerConfig, ServiceBusServer

ONE = "    sessions: {concurrent: 1, idle: 100ms}\n    dead_letter: letters\n    quarantine: {poll: 50ms}"


pytestmark = pytest.mark.usefixtures("quick_start")

SERVER = ServerConfig((QueueConfig("orders", lock_duration=5, requires_session=True), QueueConfig("letters")))


@asynccontextmanager
async def running(path: Path) -> AsyncIterator[Daemon]:
    daemon = Daemon(load_config([path]))
    await daemon.start()
    try:
        yield daemon
    finally:
        await daemon.stop(5.0)


async def start(daemon: Daemon, number: str) -> None:
    await daemon.engines["default"].client.schedule_new_orchestration("order", instance_id=f"order-{number}")


async def ended(daemon: Daemon, number: str) -> None:
    client = daemon.engines["default"].client
    state = await client.wait_for_orchestration_completion(f"order-{number}", timeout=TIMEOUT)
    assert state is not None
    assert state.runtime_status.name == "COMPLETED"


@pytest.mark.parametrize("waits_for", ["a person", "time"])
async def test_it_goes_on_after_a_restart_while_the_queue_is_silent(
    tmp_path: Path, server: ServiceBusServer, waits_for: str
) -> None:
    on_missing = "dead_letter" if waits_for == "a person" else "retry"
    path = write(tmp_path, server.connection_string, ONE, on_missing)
    async with running(path) as daemon:
        await daemon.brokers["bus"].publish("orders", [message("start", "1", "a")])
        await eventually(lambda: daemon.sources[0].ledger.outcomes[Outcome.QUARANTINED])
    async with running(path) as daemon:
        await start(daemon, "1")
        if waits_for == "a person":
            await QuarantineOperations(daemon.engines["default"]).release("orders", "a")
        await ended(daemon, "1")


async def test_it_stays_at_work_while_other_sessions_end(tmp_path: Path, server: ServiceBusServer) -> None:
    async with running(write(tmp_path, server.connection_string, ONE)) as daemon:
        ledger = daemon.sources[0].ledger
        publish = daemon.brokers["bus"].publish
        await publish("orders", [message("start", "1", "a")])
        await eventually(lambda: ledger.outcomes[Outcome.QUARANTINED] and ledger.in_flight)
        for number in ("2", "3", "4"):
            await start(daemon, number)
            # The only receiver has released the session before
            await publish("orders", [message("start", number, number)])
            await ended(daemon, number)
        await eventually(lambda: ledger.in_flight == 1)  # the last delivery may still be settling
        assert ledger.abandoned == {}
        await start(daemon, "1")
        await ended(daemon, "1")
