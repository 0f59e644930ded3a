"""Embedded engine from another process: client and worker attach to the host's sockets.

The worker comes over the channel of worker processes, or with the SDK's loop over gRPC.
"""

from __future__ import annotations

from typing import Any

import pytest
import pytest_asyncio

from bridge.config.model.engines import EmbeddedEngineConfig
from bridge.engines.embedded.engine import EmbeddedEngine
from tests.engines.contract import EngineContract, harness

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module", name="harness", params=["direct", "protocol"])
async def attached(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Any:
    # Longer than the path of a socket may be.
    directory = tmp_path_factory.mktemp("engine") / ("deep" * 20) / ("deeper" * 10)
    config = EmbeddedEngineConfig(type="embedded", max_request="512KiB", dispatch=request.param)
    host = EmbeddedEngine("default", config, directory, host=True)
    await host.start()
    engine = EmbeddedEngine("default", config, directory, host=False)
    await engine.start()
    async with harness(engine) as running:
        yield running
    await engine.stop()
    await host.stop()


class TestEmbeddedSocket(EngineContract):
    pass
