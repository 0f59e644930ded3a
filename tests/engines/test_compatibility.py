"""Code that changes under running instances is detected for every kind of worker, and a rewind fixes the instances."""

from __future__ import annotations

import contextlib
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from durabletask import task

from bridge.engines.base import Engine
from bridge.engines.worker.compatibility import CompatibilityMonitor, IncompatibleInstance
from bridge.engines.worker.setup import stop_worker
from bridge.engines.workflows import Workflows
from bridge.workflow import CompensationInput, DataConverter, Saga, Step, StepInput, message_aware
from tests.kit.engine_modes import MODES, engine_of
from tests.kit.waiting import TIMEOUT, eventually

BRIEF = task.RetryPolicy(first_retry_interval=timedelta(milliseconds=10), max_number_of_attempts=3)
undone: list[str] = []
tried: list[str] = []


def reserve(ctx: task.ActivityContext, call: StepInput) -> str:
    """Fail for the first call with a key."""
    tried.append(call.key)
    if tried.count(call.key) == 1:
        raise ConnectionError("the warehouse is away for a moment")
    return call.key


def release(ctx: task.ActivityContext, undo: CompensationInput) -> None:
    undone.append(undo.key)


def order(ctx: task.OrchestrationContext, _: Any) -> Any:
    saga = Saga(ctx, "order")

    def body() -> Any:
        yield from saga.step(Step("stock", reserve, compensation=release, retry=BRIEF))
        yield from saga.wait_for_event("paid")
        return "kept"

    return (yield from saga.run(body()))


def changed(ctx: task.OrchestrationContext, _: Any) -> Any:
    yield ctx.create_timer(timedelta(seconds=1))
    return (yield from order(ctx, _))


def flow(orchestrator: Any, name: str = "order") -> Workflows:
    def registered(ctx: task.OrchestrationContext, given: Any) -> Any:
        return (yield from orchestrator(ctx, given))

    registered.__name__ = name
    return Workflows({name: message_aware(registered)}, {"reserve": reserve, "release": release})


async def started(
    engine: Engine, known: Workflows, monitor: CompatibilityMonitor, leaving: contextlib.AsyncExitStack
) -> Any:
    """Start a worker, and stop it at the end of the stack however the test ends. A second stop has no effect."""
    worker = engine.worker(known, DataConverter(), monitor)
    worker.start()
    leaving.push_async_callback(stop_worker, worker, TIMEOUT)
    return worker


@pytest.mark.parametrize("way", MODES)
async def test_a_changed_saga_is_seen_and_goes_on_after_a_rewind(tmp_path: Path, way: str) -> None:
    tried.clear()
    received: list[IncompatibleInstance] = []
    monitor = CompatibilityMonitor(received.append)
    async with engine_of(way, tmp_path) as engine, contextlib.AsyncExitStack() as leaving:
        worker = await started(engine, flow(order), monitor, leaving)
        client = engine.client
        await client.schedule_new_orchestration("order", instance_id="o-1")

        async def reserved() -> bool:
            state = await client.get_orchestration_state("o-1")
            return state is not None and '"completed"' in (state.serialized_custom_status or "")

        await eventually(reserved)
        assert await stop_worker(worker, TIMEOUT)
        assert (monitor.open, received) == ([], [])

        worker = await started(engine, flow(changed), monitor, leaving)
        await client.raise_orchestration_event("o-1", "paid", data=True)
        state = await client.wait_for_orchestration_completion("o-1", timeout=int(TIMEOUT))
        assert state is not None
        assert state.runtime_status.name == "FAILED"
        assert undone == []
        assert [(one.orchestration, one.instance_id) for one in monitor.open] == [("order", "o-1")]
        assert monitor.counts == {"order": 1}
        assert received == monitor.open
        assert received[0].error
        assert await stop_worker(worker, TIMEOUT)

        worker = await started(engine, flow(order), monitor, leaving)
        await client.rewind_orchestration("o-1", reason="repaired")
        state = await client.wait_for_orchestration_completion("o-1", timeout=int(TIMEOUT))
        assert state is not None
        state.raise_if_failed()
        output = state.get_output()
        assert (output["status"], output["result"]) == ("completed", "kept")
        assert len(tried) == 2, "the step is not done again"
        assert monitor.open == []
        assert monitor.counts == {"order": 1}
        assert await stop_worker(worker, TIMEOUT)


async def test_other_failures_are_not_its_business(tmp_path: Path) -> None:
    def broken(ctx: task.OrchestrationContext, _: Any) -> Any:
        raise ValueError("of its own")
        yield

    monitor = CompatibilityMonitor()
    async with engine_of("direct", tmp_path) as engine, contextlib.AsyncExitStack() as leaving:
        worker = await started(engine, flow(broken), monitor, leaving)
        await engine.client.schedule_new_orchestration("order", instance_id="o-2")
        await engine.client.wait_for_orchestration_completion("o-2", timeout=int(TIMEOUT))
        assert await stop_worker(worker, TIMEOUT)
    assert (monitor.open, monitor.counts) == ([], {})
