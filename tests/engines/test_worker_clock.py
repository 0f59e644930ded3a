"""Worker in another process with a wrong wall clock: timers, retries and leases follow the engine's clock."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path

import pytest

from bridge.config.model.engines import EmbeddedEngineConfig
from bridge.engines.embedded.engine import EmbeddedEngine
from tests.kit.ports import free_address
from tests.kit.waiting import TIMEOUT

HOUR, YEAR = 3600.0, 365 * 86400.0


@pytest.mark.parametrize("ahead", [1.0, HOUR, YEAR])
async def test_a_worker_with_a_wrong_clock(tmp_path: Path, ahead: float, caplog: pytest.LogCaptureFixture) -> None:
    address = free_address()
    config = EmbeddedEngineConfig(type="embedded", listen=address)
    engine = EmbeddedEngine("default", config, tmp_path, host=True)
    await engine.start()
    worker = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.engines.clock_worker", address, str(ahead),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert worker.stdout is not None
        assert await worker.stdout.readline() == b"ready\n"
        client = engine.client
        ids = [f"flow-{number}" for number in range(10)]
        with caplog.at_level(logging.WARNING):
            for one in ids:
                await client.schedule_new_orchestration("flow", instance_id=one)
                await client.raise_orchestration_event(one, "go")
            states = [await client.wait_for_orchestration_completion(one, timeout=TIMEOUT) for one in ids]
        for one, state in zip(ids, states, strict=True):
            assert state is not None
            waited, done, by_event, total = state.get_output()
            assert 0.4 <= waited < 20
            assert (done, by_event, total) == (one, True, 1)
        assert "clock" not in caplog.text  # the engine's own clock is right
    finally:
        assert worker.stdin is not None
        worker.stdin.close()
        await worker.wait()
        await engine.stop()
