"""Clean stop of a worker in another process: none of its work items counts as lost."""

from __future__ import annotations

import asyncio
import logging
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from durabletask import task

from bridge.config.model.engines import EmbeddedEngineConfig, SchedulerEngineConfig
from bridge.core.errors import UnknownTarget
from bridge.engines.embedded.engine import EmbeddedEngine
from bridge.engines.scheduler import SchedulerEngine
from bridge.engines.worker.compatibility import CompatibilityMonitor
from bridge.engines.worker.setup import stop_worker
from bridge.engines.workflows import Workflows
from tests.engines.sidecar import Sidecar
from tests.kit.engine_modes import MODES, engine_of
from tests.kit.waiting import TIMEOUT, eventually


def workflows(began: list[str], released: threading.Event) -> Workflows:
    def hold(ctx: task.ActivityContext, name: str) -> str:
        began.append(name)
        assert released.wait(TIMEOUT)
        return name

    def one(ctx: task.OrchestrationContext, name: str) -> Any:
        return (yield ctx.call_activity("hold", input=name))

    return Workflows({"one": one}, {"hold": hold})


@pytest.mark.parametrize("mode", MODES)
async def test_work_that_runs_in_a_stopping_worker_is_finished_and_runs_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: str
) -> None:
    began: list[str] = []
    released = threading.Event()
    async with engine_of(mode, tmp_path) as engine:
        worker = engine.worker(workflows(began, released))
        worker.start()
        await engine.client.schedule_new_orchestration("one", input="a", instance_id="a")
        await eventually(lambda: began)
        stopping = asyncio.create_task(stop_worker(worker, TIMEOUT))
        assert not await stop_worker(worker, 0.1)  # it waits for running work
        released.set()
        assert await stopping
        worker = engine.worker(workflows(began, released))
        worker.start()
        ended = await engine.client.wait_for_orchestration_completion("a", timeout=TIMEOUT)
        assert ended is not None
        assert ended.get_output() == "a"
        assert await stop_worker(worker, TIMEOUT)
    assert began == ["a"]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("dispatch", ["direct", "protocol"])
async def test_a_foreign_engine_gets_the_result_of_running_work_before_the_end_of_the_stream(
    tmp_path: Path, dispatch: str
) -> None:
    began: list[str] = []
    released = threading.Event()
    sidecar = Sidecar(tmp_path)
    sidecar.start()
    config = SchedulerEngineConfig.model_validate(
        {"type": "scheduler", "endpoint": sidecar.endpoint, "dispatch": dispatch, "worker": {"threads": 1}}
    )
    engine = SchedulerEngine("foreign", config)
    await engine.start()
    try:
        worker = engine.worker(workflows(began, released))
        worker.start()
        names = ["a", "b", "c"]
        for name in names:
            await engine.client.schedule_new_orchestration("one", input=name, instance_id=name)
        await eventually(lambda: bool(began) and len(sidecar.database.hub.dispatcher.leases) == len(names))
        stopping = asyncio.create_task(stop_worker(worker, TIMEOUT))
        await eventually(lambda: worker.items.is_closed)
        released.set()
        assert await stopping
        assert len(began) == 1
        worker = engine.worker(workflows(began, released))
        worker.start()
        for name in names:
            ended = await engine.client.wait_for_orchestration_completion(name, timeout=TIMEOUT)
            assert ended is not None
            assert ended.get_output() == name
        assert await stop_worker(worker, TIMEOUT)
        assert sorted(began) == names
    finally:
        released.set()
        await engine.stop()
        sidecar.close()


@pytest.mark.parametrize("mode", MODES)
async def test_work_of_a_stopping_worker_that_has_not_begun_goes_to_others_at_once_and_is_not_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: str
) -> None:
    """The stopping worker never ends: it holds the item that runs."""
    began: list[str] = []
    first_is_released, others_are_released = threading.Event(), threading.Event()
    others_are_released.set()
    names = ["a", "b", "c"]
    async with engine_of(mode, tmp_path, threads=1) as engine:
        worker = engine.worker(workflows(began, first_is_released))
        worker.start()
        for name in names:
            await engine.client.schedule_new_orchestration("one", input=name, instance_id=name)
        await eventually(lambda: began)
        stopping = asyncio.create_task(stop_worker(worker, TIMEOUT))
        other = engine.worker(workflows(began, others_are_released))
        other.start()
        for name in names:
            if name not in began[:1]:
                ended = await engine.client.wait_for_orchestration_completion(name, timeout=TIMEOUT)
                assert ended is not None
                assert ended.get_output() == name
        first_is_released.set()
        assert await stopping
        await engine.client.wait_for_orchestration_completion(began[0], timeout=TIMEOUT)
        assert await stop_worker(other, TIMEOUT)
    assert sorted(began) == names
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_what_a_worker_that_can_give_work_back_answers_is_seen_by_its_witness(tmp_path: Path) -> None:
    def fails(ctx: task.ActivityContext, _: Any) -> None:
        raise UnknownTarget("no such target")

    def one(ctx: task.OrchestrationContext, _: Any) -> Any:
        try:
            yield ctx.call_activity("fails")
        except task.TaskFailedError:
            yield task.when_any([ctx.call_activity("missing"), ctx.create_timer(timedelta(milliseconds=1))])
        return "done"

    monitor = CompatibilityMonitor()
    config = EmbeddedEngineConfig(type="embedded")
    host = EmbeddedEngine("host", config, tmp_path / "engine", host=True)
    await host.start()
    engine = EmbeddedEngine("attached", config, tmp_path / "engine", host=False)
    await engine.start()
    try:
        worker = engine.worker(Workflows(orchestrators={"one": one}, activities={"fails": fails}), None, monitor)
        worker.start()
        await engine.client.schedule_new_orchestration("one", instance_id="i")
        ended = await engine.client.wait_for_orchestration_completion("i", timeout=TIMEOUT)
        assert ended is not None
        assert monitor.unknown == {"target": 1, "activity": 1}
        assert await stop_worker(worker, TIMEOUT)
    finally:
        await engine.stop()
        await host.stop()
