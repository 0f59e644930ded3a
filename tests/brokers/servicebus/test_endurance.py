"""Whole pipelines under long faults: no loss, no dead letter, order per session kept."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from bridge.core.errors import EngineUnavailable
from tests.brokers.servicebus import outages
from tests.brokers.servicebus.outages import ENTITIES, ended, publish
from tests.brokers.servicebus.setup import bus_setup
from tests.servicebus.server import ServiceBusServer

pytestmark = [pytest.mark.prove, pytest.mark.timeout(240)]
SERVER = outages.SERVER


@ENTITIES
async def test_a_server_that_is_busy_for_a_minute(tmp_path: Path, server: ServiceBusServer, entity: str) -> None:
    async with bus_setup(tmp_path, server.connection_string, entity) as setup:
        queue = setup.source.settings.subscribe.topics[0]
        await setup.source.start()
        await publish(server, queue, setup, 0, 40)
        await setup.until(lambda: setup.faults.taken, "under way")
        server.faults.busy(60.0)
        await setup.until(lambda: setup.source.gate.pause_reasons or setup.source.subscription.stopped(), "noticed")  # type: ignore[attr-defined]  # of the class behind the interface
        await asyncio.sleep(60.0)
        await setup.until(lambda: not setup.source.subscription.stopped(), "it reads again")  # type: ignore[attr-defined]  # of the class behind the interface
        await publish(server, queue, setup, 40, 20)
        await ended(server, queue, setup, 60)


@ENTITIES
async def test_a_server_that_is_frozen_for_half_a_minute(tmp_path: Path, server: ServiceBusServer, entity: str) -> None:
    async with bus_setup(tmp_path, server.connection_string, entity) as setup:
        queue = setup.source.settings.subscribe.topics[0]
        await setup.source.start()
        await publish(server, queue, setup, 0, 40)
        setup.faults.outage = EngineUnavailable("so that something is in flight")
        await setup.until(lambda: setup.source.gate.pause_reasons, "held")
        server.faults.freeze()
        await asyncio.sleep(5.0)
        setup.faults.outage = None
        await asyncio.sleep(25.0)
        server.faults.thaw()
        await ended(server, queue, setup, 40)
