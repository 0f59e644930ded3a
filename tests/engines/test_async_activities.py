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
from tests.kit.waiting import TIMEOUT, eventually

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
        await eventually(all_met.is_set)
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


MANY = 1000


@pytest.mark.parametrize("way", [way for way in MODES if not way.endswith("protocol")])
async def test_a_thousand_waiting_activities_need_a_few_threads(tmp_path: Path, way: str) -> None:
    arrived: list[int] = []
    all_arrived = asyncio.Event()  # of the loop of all activities

    async def waits(ctx: task.ActivityContext, number: int) -> int:
        arrived.append(number)
        if len(arrived) == MANY:
            all_arrived.set()
        async with asyncio.timeout(TIMEOUT):
            await all_arrived.wait()
        return threading.active_count()

    def many(ctx: task.OrchestrationContext, _: Any) -> Any:
        return (yield task.when_all([ctx.call_activity("waits", input=number) for number in range(MANY)]))

    settings = {"threads": 4, "max_activities": MANY, "process_items": MANY}
    async with engine_of(way, tmp_path, **settings) as engine:
        before = threading.active_count()
        worker = engine.worker(Workflows({"many": many}, {"waits": waits}))
        worker.start()
        await engine.client.schedule_new_orchestration("many", instance_id="i")
        state = await engine.client.wait_for_orchestration_completion("i", timeout=TIMEOUT)
        assert state is not None
        assert state.runtime_status is OrchestrationStatus.COMPLETED, state
        assert max(state.get_output()) < before + 40
        assert await stop_worker(worker, TIMEOUT)


@pytest.mark.parametrize("way", MODES)
async def test_a_stop_waits_for_async_activities(tmp_path: Path, way: str) -> None:
    began, go = threading.Event(), threading.Event()
    ran: list[int] = []

    async def waits(ctx: task.ActivityContext, number: int) -> int:
        ran.append(number)
        began.set()
        await asyncio.to_thread(go.wait, TIMEOUT)
        return number

    def one(ctx: task.OrchestrationContext, number: int) -> Any:
        return (yield ctx.call_activity("waits", input=number))

    async with engine_of(way, tmp_path) as engine:
        known = Workflows({"one": one}, {"waits": waits})
        worker = engine.worker(known)
        worker.start()
        await engine.client.schedule_new_orchestration("one", input=7, instance_id="i")
        assert await asyncio.to_thread(began.wait, TIMEOUT)
        stopping = asyncio.create_task(stop_worker(worker, TIMEOUT))
        assert not await stop_worker(worker, 0.2)
        go.set()
        assert await stopping
        worker = engine.worker(known)
        worker.start()
        state = await engine.client.wait_for_orchestration_completion("i", timeout=TIMEOUT)
        assert state is not None
        assert state.get_output() == 7
        assert ran == [7]
        assert await stop_worker(worker, TIMEOUT)


async def test_an_exit_of_a_task_fails_its_activity_alone(tmp_path: Path) -> None:
    async def exits() -> None:
        raise SystemExit(3)

    async def spawns(ctx: task.ActivityContext, _: Any) -> None:
        await asyncio.gather(exits(), asyncio.sleep(0))

    async def works(ctx: task.ActivityContext, _: Any) -> str:
        return "done"

    async with engine_of("direct", tmp_path) as engine:
        worker = engine.worker(Workflows({"flow": flow}, {"spawns": spawns, "works": works}))
        worker.start()
        for kind, status in (("spawns", OrchestrationStatus.FAILED), ("works", OrchestrationStatus.COMPLETED)):
            await engine.client.schedule_new_orchestration("flow", input=kind, instance_id=kind)
            state = await engine.client.wait_for_orchestration_completion(kind, timeout=TIMEOUT)
            assert state is not None
            assert state.runtime_status is status
        assert await stop_worker(worker, TIMEOUT)
