"""Whole pipelines under long faults: no loss, no dead letter, order per session kept."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from bridge.core.errors import EngineUnavailable
from tests.brokers.servicebus import outages
from tests.brokers.servicebus.bench import bus_bench
from tests.brokers.servicebus.outages import ENTITIES, ended, publish
from tests.servicebus.server import ServiceBusServer

pytestmark = [pytest.mark.prove, pytest.mark.timeout(240)]
SERVER = outages.SERVER


@ENTITIES
async def test_a_server_that_is_busy_for_a_minute(tmp_path: Path, server: ServiceBusServer, entity: str) -> None:
    async with bus_bench(tmp_path, server.connection_string, entity) as bench:
        queue = bench.source.settings.subscribe.topics[0]
        await bench.source.start()
        await publish(server, queue, bench, 0, 40)
        await bench.until(lambda: bench.faults.taken, "under way")
        server.faults.busy(60.0)
        await bench.until(lambda: bench.source.gate.pause_reasons or bench.source.subscription.stopped(), "noticed")  # type: ignore[attr-defined]  # of the class behind the interface
        await asyncio.sleep(60.0)
        await bench.until(lambda: not bench.source.subscription.stopped(), "it reads again")  # type: ignore[attr-defined]  # of the class behind the interface
        await publish(server, queue, bench, 40, 20)
        await ended(server, queue, bench, 60)


@ENTITIES
async def test_a_server_that_is_frozen_for_half_a_minute(tmp_path: Path, server: ServiceBusServer, entity: str) -> None:
    async with bus_bench(tmp_path, server.connection_string, entity) as bench:
        queue = bench.source.settings.subscribe.topics[0]
        await bench.source.start()
        await publish(server, queue, bench, 0, 40)
        bench.faults.outage = EngineUnavailable("so that something is in flight")
        await bench.until(lambda: bench.source.gate.pause_reasons, "held")
        server.faults.freeze()
        await asyncio.sleep(5.0)
        bench.faults.outage = None
        await asyncio.sleep(25.0)
        server.faults.thaw()
        await ended(server, queue, bench, 40)
