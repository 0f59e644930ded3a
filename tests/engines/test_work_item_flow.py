"""Work items of an engine that sends more than a worker takes, or closes its stream at once."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from durabletask.internal import orchestrator_service_pb2 as pb
from durabletask.task import ActivityContext

from bridge.config.model.engines import SchedulerEngineConfig
from bridge.engines.remote.remote_limits import BURST, PAUSE
from bridge.engines.scheduler import SchedulerEngine
from bridge.engines.worker.setup import stop_worker
from bridge.engines.workflows import Workflows
from tests.engines.hostile import HostileEngine
from tests.kit.waiting import TIMEOUT, eventually

MAX_ANSWER = 65_536
ITEM = 100_000
ITEMS = 200


def items(count: int) -> Iterator[bytes]:
    """Work items for the activity `work`."""
    for number in range(count):
        item = pb.WorkItem(completionToken=f"c{number}")
        item.activityRequest.name, item.activityRequest.taskId = "work", number
        item.activityRequest.orchestrationInstance.instanceId = "i"
        item.activityRequest.input.value = '"' + "x" * ITEM + '"'
        yield item.SerializeToString()
        yield pb.WorkItem(healthPing=pb.HealthPing()).SerializeToString()


@pytest.fixture(params=["direct", "protocol"])
def dispatch(request: pytest.FixtureRequest) -> str:
    """Loop of the worker."""
    return str(request.param)


async def start(hostile: HostileEngine, activity: Any, dispatch: str) -> tuple[SchedulerEngine, Any]:
    config = {
        "type": "scheduler",
        "endpoint": hostile.endpoint,
        "credential": "none",
        "max_answer": MAX_ANSWER,
        "dispatch": dispatch,
    }
    engine = SchedulerEngine("x", SchedulerEngineConfig.model_validate(config))
    await engine.start()
    worker = engine.worker(Workflows(activities={"work": activity}))
    worker.start()
    return engine, worker


async def test_a_worker_holds_a_bounded_number_of_bytes_and_does_all_work(dispatch: str) -> None:
    highest = 0
    held = threading.Lock()

    def work(ctx: ActivityContext, data: str) -> int:
        nonlocal highest
        with held:
            highest = max(highest, worker.flow._queued + worker.flow._working)
        return len(data)

    with HostileEngine() as hostile:
        end = threading.Event()

        def stream(_: bytes, number: int) -> Iterator[bytes]:
            yield from items(ITEMS if number == 0 else 0)
            end.wait()

        hostile.answers = {"GetWorkItems": stream}
        engine, worker = await start(hostile, work, dispatch)
        try:
            await eventually(lambda: hostile.calls["CompleteActivityTask"] == ITEMS)
            assert ITEM < highest < 8 * MAX_ANSWER + 2 * ITEM
            await eventually(lambda: worker.flow._queued + worker.flow._working == 0)
        finally:
            end.set()
            assert await stop_worker(worker, 20)
            await engine.stop()


async def test_a_worker_that_waits_for_room_goes_on_after_a_broken_stream_and_stops(dispatch: str) -> None:
    go = threading.Event()

    def work(ctx: ActivityContext, data: str) -> None:
        go.wait()

    with HostileEngine() as hostile:
        end = threading.Event()

        def stream(_: bytes, number: int) -> Iterator[bytes]:
            yield from items(20)
            end.wait()

        hostile.answers = {"GetWorkItems": stream}
        engine, worker = await start(hostile, work, dispatch)
        try:
            flow = worker.flow
            await eventually(lambda: flow._queued + flow._working >= 8 * MAX_ANSWER)
            (worker._stream.call if dispatch == "direct" else worker._response_stream).cancel()
            await eventually(lambda: hostile.calls["GetWorkItems"] == 2)
            go.set()
            await eventually(lambda: hostile.calls["CompleteActivityTask"] >= 20)
            await eventually(lambda: flow._queued + flow._working == 0)
        finally:
            go.set()
            end.set()
            assert await stop_worker(worker, 20)
            await engine.stop()


async def test_a_stream_that_is_closed_at_once_is_not_opened_in_a_busy_loop(dispatch: str) -> None:
    def work(ctx: ActivityContext, data: str) -> None: ...

    with HostileEngine() as hostile:
        began = time.monotonic()
        engine, worker = await start(hostile, work, dispatch)
        try:
            await eventually(lambda: hostile.calls["GetWorkItems"] > 2 * BURST)
            assert time.monotonic() - began >= 2 * PAUSE
        finally:
            assert await stop_worker(worker, 20)
            await engine.stop()


async def test_a_work_item_beyond_the_bound_ends_its_stream_only(dispatch: str) -> None:
    huge = pb.WorkItem(completionToken="c")
    huge.activityRequest.input.value = "x" * (MAX_ANSWER * 8)
    done = asyncio.Event()
    loop = asyncio.get_running_loop()

    def work(ctx: ActivityContext, data: str) -> None:
        loop.call_soon_threadsafe(done.set)

    with HostileEngine() as hostile:
        hostile.answers = {
            "GetWorkItems": lambda _, number: iter([huge.SerializeToString()]) if number == 0 else items(1)
        }
        engine, worker = await start(hostile, work, dispatch)
        try:
            async with asyncio.timeout(TIMEOUT):
                await done.wait()
        finally:
            assert await stop_worker(worker, 20)
            await engine.stop()
