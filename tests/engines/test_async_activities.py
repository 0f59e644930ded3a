"""Activities that are coroutine functions, with every way of running work."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from durabletask import task
from durabletask.client import OrchestrationStatus

from bridge.engines.worker.setup import stop_worker
from bridge.engines.workflows import Workflows
from bridge.system.log_context import INSTANCE
from tests.kit.engine_modes import MODES, engine_of
from tests.kit.waiting import TIMEOUT

TOGETHER = 4


def flow(ctx: task.OrchestrationContext, kind: str) -> Any:
    if kind == "together":
        return (yield task.when_all([ctx.call_activity("meets", input=number) for number in range(TOGETHER)]))
    return (yield ctx.call_activity(kind))


@pytest.mark.parametrize("way", MODES)
async def test_async_activities_run_in_one_loop_with_the_context_of_their_instance(tmp_path: Path, way: str) -> None:
    met: list[int] = []
    all_met = threading.Event()

    async def meets(ctx: task.ActivityContext, number: int) -> list[Any]:
        met.append(number)
        if len(met) == TOGETHER:
            all_met.set()
        async with asyncio.timeout(TIMEOUT):
            while not all_met.is_set():
                await asyncio.sleep(0.001)
        return [number, INSTANCE.get(), threading.current_thread().name]

    async def fails(ctx: task.ActivityContext, _: Any) -> None:
        await asyncio.sleep(0)
        raise ValueError("wrong")

    async def exits(ctx: task.ActivityContext, _: Any) -> None:
        raise SystemExit(3)

    known = Workflows({"flow": flow}, {"meets": meets, "fails": fails, "exits": exits})
    async with engine_of(way, tmp_path, threads=TOGETHER) as engine:
        worker = engine.worker(known)
        worker.start()
        try:
            for kind, message in (("fails", "wrong"), ("exits", "SystemExit"), ("together", None)):
                await engine.client.schedule_new_orchestration("flow", input=kind, instance_id=kind)
                state = await engine.client.wait_for_orchestration_completion(kind, timeout=TIMEOUT)
                assert state is not None
                if message is not None:
                    assert state.failure_details is not None
                    assert message in f"{state.failure_details.error_type} {state.failure_details.message}"
                    continue
                assert state.runtime_status is OrchestrationStatus.COMPLETED, state
                wanted = [[number, "together", "async-activities"] for number in range(TOGETHER)]
                assert state.get_output() == wanted
        finally:
            assert await stop_worker(worker, TIMEOUT)
