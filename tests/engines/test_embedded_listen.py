"""Embedded engine behind a port with a token: other processes access it like the scheduler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from bridge.config.model.engines import EmbeddedEngineConfig, SchedulerEngineConfig
from bridge.core.commands import RaiseEvent
from bridge.core.errors import EngineDenied, EngineMisconfigured
from bridge.engines.embedded.engine import EmbeddedEngine
from bridge.engines.scheduler import SchedulerEngine
from tests.engines.contract import EngineContract, EngineFixture, harness
from tests.engines.correlation import FIRST
from tests.kit.ports import free_address

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOKEN = "s3cret"


@pytest_asyncio.fixture(scope="module", loop_scope="module", name="address")
async def listening(tmp_path_factory: pytest.TempPathFactory) -> Any:
    address = free_address()
    config = EmbeddedEngineConfig(type="embedded", listen=address, token=TOKEN)
    host = EmbeddedEngine("default", config, tmp_path_factory.mktemp("engine"), host=True)
    await host.start()
    assert host.description.endswith(f", listens on {address}")
    yield address
    await host.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module", name="harness")
async def remote(address: Any) -> Any:
    config = SchedulerEngineConfig(type="scheduler", endpoint=f"http://{address}", token=TOKEN, max_request="512KiB")
    engine = SchedulerEngine("default", config)
    await engine.start()
    async with harness(engine) as running:
        yield running
    await engine.stop()


class TestListen(EngineContract):
    pass


async def test_a_confirmed_event_needs_no_look_at_its_instance(harness: EngineFixture) -> None:
    def requests() -> dict[tuple[str, str], int]:
        return {key: sum(histogram.counts) for key, histogram in harness.engine.client.requests.items()}

    instance_id = await harness.start("twice")
    before = requests()
    for number in (1, 2):
        await harness.executor.execute(RaiseEvent(instance_id, "item", number), FIRST)
    assert {key: count - before.get(key, 0) for key, count in requests().items() if count != before.get(key)} == {
        ("raise_event", "ok"): 2
    }
    assert await harness.output(instance_id) == [1, 2]


@pytest.mark.parametrize("token", [None, "wrong"])
async def test_without_the_token_nothing_is_answered(address: Any, token: Any) -> None:
    config = SchedulerEngineConfig(type="scheduler", endpoint=f"http://{address}", token=token, timeout="5s")
    engine = SchedulerEngine("default", config)
    await engine.start()
    with pytest.raises(EngineDenied, match="token is missing or wrong"):
        await engine.probe()
    await engine.stop()


async def test_a_port_for_everyone_needs_a_token(tmp_path: Path) -> None:
    config = EmbeddedEngineConfig(type="embedded", listen="127.0.0.1:0").model_copy(update={"listen": "0.0.0.0:0"})
    engine = EmbeddedEngine("default", config, tmp_path, host=True)
    with pytest.raises(EngineMisconfigured, match="needs a token"):
        await engine.start()
    await engine.stop()
    again = EmbeddedEngine("default", EmbeddedEngineConfig(type="embedded"), tmp_path, host=True)
    await again.start()  # no resource was left open
    await again.stop()
