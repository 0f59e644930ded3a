"""The scheduler engine against a sidecar on loopback gRPC, or the service that BRIDGE_SCHEDULER_ENDPOINT names."""

from __future__ import annotations

import os
from typing import Any

import pytest
import pytest_asyncio

from bridge.config.model.engines import SchedulerEngineConfig
from bridge.engines.scheduler import SchedulerEngine
from tests.engines.contract import EngineContract, harness
from tests.engines.sidecar import Sidecar

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module", name="harness", params=["direct", "protocol"])
async def remote(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    sidecar = None
    endpoint = os.environ.get("BRIDGE_SCHEDULER_ENDPOINT")
    if endpoint is None:
        sidecar = Sidecar(tmp_path_factory.mktemp("sidecar"))
        sidecar.start()
        endpoint = sidecar.endpoint
    taskhub = os.environ.get("BRIDGE_SCHEDULER_TASKHUB", "default")
    config = SchedulerEngineConfig(
        type="scheduler", endpoint=endpoint, task_hub=taskhub, max_request="512KiB", dispatch=request.param
    )
    engine = SchedulerEngine("default", config)
    await engine.start()
    async with harness(engine) as running:
        yield running
    await engine.stop()
    if sidecar is not None:
        sidecar.close()


class TestScheduler(EngineContract):
    pass
