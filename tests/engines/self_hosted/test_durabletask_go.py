"""The engine contract against the server of durabletask-go."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_asyncio

from bridge.config.model.engines import SchedulerEngineConfig
from bridge.engines.scheduler import SchedulerEngine
from tests.engines.contract import EngineContract, harness
from tests.engines.self_hosted.server import STORES, server
from tests.kit.go_tools import ToolMissing

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module", name="harness", params=STORES)
async def remote(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    try:
        running = server(request.param, tmp_path_factory.mktemp(request.param))
        with running as found:
            engine = SchedulerEngine("default", SchedulerEngineConfig(type="scheduler", endpoint=found.endpoint))
            await engine.start()
            try:
                await engine.probe()
                async with harness(engine) as made:
                    yield made
            finally:
                await engine.stop()
    except ToolMissing as missing:
        pytest.skip(str(missing))


class TestContract(EngineContract):
    pass
