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

from bridge.config.model.engines import EmbeddedEngineConfig
from bridge.core.errors import UnknownTarget
from bridge.engines.embedded.engine import EmbeddedEngine
from bridge.engines.worker.compatibility import CompatibilityMonitor
from bridge.engines.worker.setup import stop_worker
from bridge.engines.workflows import Workflows
from tests.kit.waiting import TIMEOUT, eventually


@pytest.mark.parametrize(("dispatch", "finished"), [("direct", 1), ("protocol", 0)])
async def test_what_a_drained_worker_holds_goes_to_others_and_is_not_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, dispatch: str, finished: int
) -> None:
    """A stopping worker keeps and finishes this number of running items."""

    began: list[str] = []
    released = threading.Event()

    def hold(ctx: task.ActivityContext, name: str) -> str:
        began.append(name)
        assert released.wait(TIMEOUT)
        return name

    def one(ctx: task.OrchestrationContext, name: str) -> Any:
        return (yield ctx.call_activity(hold, input=name))

    workflows = Workflows(orchestrators={"one": one}, activities={"hold": hold})
    config = EmbeddedEngineConfig(type="embedded", worker={"threads": 1}, dispatch=dispatch)
    host = EmbeddedEngine("host", config, tmp_path / "engine", host=True)
    await host.start()
    engine = EmbeddedEngine("attached", config, tmp_path / "engine", host=False)
    await engine.start()
    try:
        worker = engine.worker(workflows)
        worker.start()
        names = ["a", "b", "c"]
        for name in names:
            await engine.client.schedule_new_orchestration("one", input=name, instance_id=name)
        assert host._database is not None
        hub = host._database.hub
        await eventually(lambda: bool(began) and len(hub.dispatcher.leases) == len(names))
        stopping = asyncio.create_task(stop_worker(worker, TIMEOUT))
        await eventually(lambda: not hub.dispatcher.streams and len(hub.dispatcher.leases) == finished)
        assert not await stop_worker(worker, 0.0)  # it waits for running work
        released.set()
        assert await stopping
        assert len(began) == 1
        other = engine.worker(workflows)
        other.start()
        for name in names:
            ended = await engine.client.wait_for_orchestration_completion(name, timeout=TIMEOUT)
            assert ended is not None
            assert ended.get_output() == name
        await stop_worker(other, TIMEOUT)
        assert hub.losses is not None
        assert not hub.losses._counts
    finally:
        released.set()
        await engine.stop()
        await host.stop()
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
