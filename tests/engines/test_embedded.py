"""Embedded engine in its host process."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_asyncio

from bridge.config.model.engines import EmbeddedEngineConfig
from bridge.engines.embedded.engine import EmbeddedEngine
from tests.engines.contract import EngineContract, harness, process_harness

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module", name="harness", params=["direct", "protocol", "processes"])
async def hosted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    dispatch = "direct" if request.param == "processes" else request.param
    config = EmbeddedEngineConfig(type="embedded", max_request="512KiB", dispatch=dispatch)
    engine = EmbeddedEngine("default", config, tmp_path_factory.mktemp("engine"), host=True)
    await engine.start()
    async with process_harness(engine) if request.param == "processes" else harness(engine) as running:
        yield running
    await engine.stop()


class TestEmbedded(EngineContract):
    pass
