"""A settlement with a lost answer counts as unknown, and a lost lock as a lost lock."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.brokers.servicebus.setup import bus_setup, outcomes
from tests.kit.pipeline import message
from tests.servicebus.server import QueueConfig, ServerConfig, ServiceBusServer

# Unsettled messages of a broken link stay locked for this time
SERVER = ServerConfig((QueueConfig("orders", lock_duration=8, max_delivery_count=10),))


@pytest.mark.parametrize("action", ["detach", "drop", "close", "swallow"])
async def test_done_and_the_answer_lost(tmp_path: Path, server: ServiceBusServer, action: str) -> None:
    async with bus_setup(tmp_path, server.connection_string, request_timeout="2s") as setup:
        await setup.source.start()
        server.faults.add("settled", action, entity="orders", condition="amqp:link:detach-forced")
        await setup.publish(*(message("start", n) for n in range(5)))
        await setup.until(lambda: not server.queue("orders").contents().unsettled, "all settled")
        await setup.until(lambda: not setup.source.ledger.in_flight, "all have ended")
        ledger = setup.source.ledger
        unknown = ledger.abandoned["settlement_unknown"]
        assert (ledger.locks_lost, unknown > 0) == (0, True)
        assert dict(ledger.abandoned) == {"settlement_unknown": unknown}
        assert outcomes(setup) == {"executed": 5 - unknown}


async def test_a_lock_that_is_lost(tmp_path: Path, server: ServiceBusServer) -> None:
    async with bus_setup(tmp_path, server.connection_string) as setup:
        await setup.source.start()
        server.faults.add("settle", "lose", entity="orders")
        await setup.publish(*(message("start", n) for n in range(5)))
        await setup.until(lambda: not server.queue("orders").contents().unsettled, "all settled")
        await setup.until(lambda: not setup.source.ledger.in_flight, "all have ended")
        ledger = setup.source.ledger
        assert ledger.locks_lost > 0
        assert dict(ledger.abandoned) == {"lock_lost": ledger.locks_lost}
        assert sum(outcomes(setup).values()) == 5
