"""Names and versions that the worker of a remote engine takes, with the bridge's own loop and with the SDK's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from durabletask import task
from durabletask.client import OrchestrationStatus

from bridge.config.model.engines import SchedulerEngineConfig
from bridge.engines.scheduler import SchedulerEngine
from bridge.engines.worker.setup import stop_worker
from bridge.engines.workflows import Workflows
from tests.engines.sidecar import Sidecar
from tests.kit.waiting import TIMEOUT


def workflows_of(worker: str, *, has_other: bool = False) -> Workflows:
    """Workflows that report which worker ran them."""

    def outer(ctx: task.OrchestrationContext, _: Any) -> Any:
        own = yield ctx.call_activity("where")
        below = yield ctx.call_sub_orchestrator("inner")
        yield ctx.wait_for_external_event("end")
        return [[worker, ctx.version, own], below]

    def inner(ctx: task.OrchestrationContext, _: Any) -> Any:
        return [worker, ctx.version, (yield ctx.call_activity("where"))]

    def other(ctx: task.OrchestrationContext, _: Any) -> str:
        return worker

    def where(ctx: task.ActivityContext, _: Any) -> str:
        return worker

    more = {"other": other} if has_other else {}
    return Workflows({"outer": outer, "inner": inner, **more}, {"where": where})


@asynccontextmanager
async def worker_of(
    sidecar: Sidecar, dispatch: str, workflows: Workflows, *versions: str
) -> AsyncIterator[SchedulerEngine]:
    config = {"type": "scheduler", "endpoint": sidecar.endpoint, "credential": "none", "dispatch": dispatch}
    engine = SchedulerEngine("x", SchedulerEngineConfig.model_validate({**config, "worker": {"versions": versions}}))
    await engine.start()
    worker = engine.worker(workflows)
    worker.start()
    try:
        yield engine
    finally:
        assert await stop_worker(worker, TIMEOUT)
        await engine.stop()


@pytest.fixture
def sidecar(tmp_path: Path) -> Iterator[Sidecar]:
    found = Sidecar(tmp_path)
    found.start()
    yield found
    found.close()


async def ended(engine: SchedulerEngine, id_: str) -> Any:
    await engine.client.raise_orchestration_event(id_, "end")
    state = await engine.client.wait_for_orchestration_completion(id_, timeout=TIMEOUT)
    assert state is not None
    assert state.runtime_status is OrchestrationStatus.COMPLETED, state.failure_details
    return state.get_output()


async def waits(engine: SchedulerEngine, id_: str) -> bool:
    """True for an instance that no worker has taken."""
    state = await engine.client.get_orchestration_state(id_)
    return state is not None and state.runtime_status is OrchestrationStatus.PENDING


@pytest.mark.parametrize("dispatch", ["direct", "protocol"])
async def test_an_instance_of_a_version_runs_with_its_activities_and_children_where_the_version_runs(
    sidecar: Sidecar, dispatch: str
) -> None:
    async with worker_of(sidecar, dispatch, workflows_of("first"), "1", "") as engine:
        client = engine.client
        await client.schedule_new_orchestration("outer", instance_id="two", version="2")
        await client.schedule_new_orchestration("outer", instance_id="one", version="1")
        await client.schedule_new_orchestration("outer", instance_id="none")
        assert await ended(engine, "one") == [["first", "1", "first"]] * 2
        assert await ended(engine, "none") == [["first", None, "first"]] * 2
        assert await waits(engine, "two")
        async with worker_of(sidecar, dispatch, workflows_of("second"), "2"):
            assert await ended(engine, "two") == [["second", "2", "second"]] * 2
            await client.schedule_new_orchestration("outer", instance_id="again", version="1")
            assert await ended(engine, "again") == [["first", "1", "first"]] * 2


@pytest.mark.parametrize("dispatch", ["direct", "protocol"])
async def test_a_worker_gets_only_work_that_it_knows(sidecar: Sidecar, dispatch: str) -> None:
    async with worker_of(sidecar, dispatch, workflows_of("first")) as engine:
        client = engine.client
        await client.schedule_new_orchestration("other", instance_id="other")
        await client.schedule_new_orchestration("outer", instance_id="known", version="7")
        assert await ended(engine, "known") == [["first", "7", "first"], ["first", None, "first"]]
        assert await waits(engine, "other")
        async with worker_of(sidecar, dispatch, workflows_of("second", has_other=True)):
            assert await ended(engine, "other") == "second"
