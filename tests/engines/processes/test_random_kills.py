"""Worker processes killed at random moments under load: nothing is lost, nothing counts twice, nothing fails."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from contextlib import suppress
from pathlib import Path

import pytest
from durabletask.entities import EntityInstanceId

from bridge.app.serve.worker_processes import MODULE
from bridge.config.model.engines import EmbeddedEngineConfig
from bridge.core.commands import RaiseEvent, ScheduleOrchestration
from bridge.engines.commands.command_runner import CommandRunner
from bridge.engines.embedded.engine import EmbeddedEngine
from bridge.engines.embedded.processes.settings import ProcessSettings
from bridge.engines.embedded.processes.supervisor import default_command
from bridge.engines.worker.setup import stop_worker
from bridge.engines.workflows import load
from tests.engines.processes.conftest import ROOT
from tests.kit.waiting import TIMEOUT, eventually
from tests.sqlite_engine.crash_child import EVENTS, KINDS, expected

KILLS = int(os.environ.get("KILLS", "12"))
BETWEEN = 20
"""Instances that are started between two kills."""

MODULES = ("tests.sqlite_engine.crash_child",)


@pytest.mark.timeout(900)
async def test_everything_is_finished_with_correct_results(tmp_path: Path) -> None:
    chance = random.Random(20261129)
    config = EmbeddedEngineConfig.model_validate({"type": "embedded", "worker": {"processes": 2}})
    engine = EmbeddedEngine("default", config, tmp_path, host=True)
    await engine.start()
    executor = CommandRunner(engine)
    processes = engine.worker_processes(
        2, ProcessSettings("default", MODULES, str(ROOT)), load(MODULES, ROOT), default_command(MODULE)
    )
    processes.start()
    started: list[tuple[str, str, int]] = []
    for kill in range(KILLS):
        await eventually(lambda: any(view.runs for view in processes.views()), "a process runs")
        for number in range(BETWEEN):
            kind, value = chance.choice(KINDS), (kill * BETWEEN + number) * 10
            instance_id = f"{kind}-{value}"
            await executor.execute(ScheduleOrchestration(kind, instance_id, value))
            started.append((instance_id, kind, value))
            for event in range(EVENTS if kind == "events" else 0):
                await executor.execute(RaiseEvent(instance_id, "number", event))
        await asyncio.sleep(chance.random() * 0.3)  # the moment of the kill
        running = [view.pid for view in processes.views() if view.runs and view.pid is not None]
        if running:
            with suppress(ProcessLookupError):
                os.kill(chance.choice(running), signal.SIGKILL)
    for instance_id, kind, value in started:
        state = await engine.client.wait_for_orchestration_completion(instance_id, timeout=TIMEOUT)
        assert state is not None
        assert state.runtime_status.name == "COMPLETED", (instance_id, state.failure_details)
        assert state.get_output() == expected(kind, value)
    counting = sum(kind == "counting" for _, kind, _ in started)
    for key in ("shared", "locked"):
        entity = EntityInstanceId("counter", key)

        async def is_complete(entity: EntityInstanceId = entity) -> bool:
            found = await engine.client.get_entity(entity)
            return found is not None and found.get_typed_state(int) == counting

        await eventually(is_complete, f"{key} counted {counting}")
    assert sum(processes.ends.values()) == processes.ends["SIGKILL"] > KILLS // 2
    losses = processes.database.hub.losses
    assert losses is not None
    assert await stop_worker(processes, TIMEOUT)
    await engine.stop()
