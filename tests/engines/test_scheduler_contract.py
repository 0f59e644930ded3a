"""Scheduler engine against a sidecar on loopback gRPC."""

from __future__ import annotations

import pytest
import pytest_asyncio

from bridge.config.engines import SchedulerEngineConfig
from bridge.engines.scheduler import SchedulerEngine
from tests.engines.contract import EngineContract, station
from tests.engines.sidecar import Sidecar

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module", name="station")
async def remote(tmp_path_factory):
    sidecar = Sidecar(tmp_path_factory.mktemp("sidecar"))
    sidecar.start()
    config = SchedulerEngineConfig(type="scheduler", endpoint=sidecar.endpoint, max_request="512KiB")
    engine = SchedulerEngine("default", config)
    await engine.start()
    async with station(engine) as running:
        yield running
    await engine.stop()
    sidecar.close()


class TestScheduler(EngineContract):
    pass
