"""Early messages while the wall clock of engine and worker runs ahead."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from durabletask import task

from bridge.config.model.engines import EarlyMessagesConfig, EmbeddedEngineConfig
from bridge.core.commands import RaiseEvent, ScheduleOrchestration, WaitFor
from bridge.core.origin import MessageOrigin
from bridge.core.settlement import RetryPolicy
from bridge.core.stored_message import OperationResult
from bridge.core.system_names import EARLY_MESSAGES
from bridge.early_messages.entity import EarlyMessageEntities
from bridge.early_messages.executor import EarlyMessageExecutor
from bridge.early_messages.store import EarlyMessageStore
from bridge.engines.commands.command_runner import CommandRunner
from bridge.engines.embedded.engine import EmbeddedEngine
from bridge.engines.worker.setup import stop_worker
from bridge.engines.workflows import Workflows
from bridge.system.clock import SYSTEM
from bridge.workflow import DataConverter
from tests.kit.waiting import TIMEOUT, eventually
from tests.waiting.sample import stored

HOUR = 3600


def order(ctx: task.OrchestrationContext, _: Any) -> Any:
    return (yield ctx.wait_for_external_event("paid"))


@pytest.mark.parametrize("back", [False, True])
async def test_no_message_expires_by_a_clock_that_has_run_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, back: bool
) -> None:
    offset = 0
    monkeypatch.setattr(SYSTEM, "wall", lambda: time.time_ns() // 1000 + offset * 1_000_000)

    def now() -> datetime:
        return datetime.fromtimestamp(SYSTEM.wall() / 1_000_000, UTC)

    ticks: list[OperationResult] = []

    class Watched(EarlyMessageEntities):
        def _apply(self, queue: Any, operation: str, *arguments: Any, **more: Any) -> OperationResult:
            result = super()._apply(queue, operation, *arguments, **more)
            if operation == "tick":
                ticks.append(result)
            return result

    engine = EmbeddedEngine("default", EmbeddedEngineConfig(type="embedded"), tmp_path / "engine", host=True)
    await engine.start()
    executor = CommandRunner(engine, now)
    store = EarlyMessageStore(engine, 4096, now)
    stage = EarlyMessageExecutor(store, executor, ("order-",), engine_notifies=engine.notifies_instance_started)
    entities = Watched(executor, asyncio.get_running_loop(), EarlyMessagesConfig(), 60.0, RetryPolicy(), now)
    workflows = Workflows(orchestrators={"order": order}, entities={EARLY_MESSAGES: entities.function()})
    worker = engine.worker(workflows, DataConverter())
    worker.start()
    try:
        command = RaiseEvent("order-1", "paid", "yes", WaitFor(30.0))
        await store.store(command, MessageOrigin("m-1", "paid"), stored(1), 30.0)
        await eventually(lambda: entities.events["stored"])
        offset = HOUR
        await eventually(lambda: ticks)
        offset = 0 if back else HOUR
        await stage.execute(ScheduleOrchestration("order", "order-1"), MessageOrigin("m-2", "start"))
        done = await engine.client.wait_for_orchestration_completion("order-1", timeout=int(TIMEOUT))
        assert done is not None
        assert "yes" in (done.serialized_output or "")
        assert entities.events["expired"] == 0
        assert entities.events["delivered"] == 1
        assert len(ticks) <= 2  # no series of calls while the clock is ahead
    finally:
        await stop_worker(worker, TIMEOUT)
        await engine.stop()
        monkeypatch.undo()
        SYSTEM.now()
