"""The bridge's own loop for remote engines: results overlap, sessions save replays, and nothing stale runs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from durabletask import task
from durabletask.client import OrchestrationStatus
from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.config.model.engines import SchedulerEngineConfig
from bridge.engines.embedded.remote import worker as remote
from bridge.engines.embedded.remote.completions import RemoteStub
from bridge.engines.embedded.remote.worker import RemoteWorker
from bridge.engines.scheduler import SchedulerEngine
from bridge.engines.worker.setup import stop_worker
from bridge.engines.workflows import Workflows
from tests.engines.hostile import HostileEngine
from tests.engines.sidecar import Sidecar
from tests.kit.waiting import TIMEOUT, eventually

STEPS = 5


def add(ctx: task.ActivityContext, number: int) -> int:
    return number + 1


def count(ctx: task.OrchestrationContext, number: int) -> Any:
    for _ in range(STEPS):
        number = yield ctx.call_activity("add", input=number)
    return number


def listen(ctx: task.OrchestrationContext, number: int) -> Any:
    """Collect events until there are enough of them."""
    found: list[Any] = []
    while len(found) < number:
        found += [(yield ctx.wait_for_external_event("go"))]
    return found


WORKFLOWS = Workflows({"count": count, "listen": listen}, {"add": add})


@asynccontextmanager
async def worker_of(
    endpoint: str, workflows: Workflows = WORKFLOWS, **settings: Any
) -> AsyncIterator[tuple[SchedulerEngine, RemoteWorker]]:
    config = {"type": "scheduler", "endpoint": endpoint, "credential": "none", **settings}
    engine = SchedulerEngine("x", SchedulerEngineConfig.model_validate(config))
    await engine.start()
    worker = engine.worker(workflows)
    assert isinstance(worker, RemoteWorker)
    worker.start()
    try:
        yield engine, worker
    finally:
        assert await stop_worker(worker, TIMEOUT)
        await engine.stop()


@pytest.fixture
def sidecar(tmp_path: Path) -> Iterator[Sidecar]:
    found = Sidecar(tmp_path)
    found.start()
    yield found
    found.close()


async def finished(engine: SchedulerEngine, instance_id: str) -> Any:
    state = await engine.client.wait_for_orchestration_completion(instance_id, timeout=TIMEOUT)
    assert state is not None
    assert state.runtime_status is OrchestrationStatus.COMPLETED, state
    return state.get_output()


async def test_turns_go_on_in_memory_although_each_brings_its_history(sidecar: Sidecar) -> None:
    async with worker_of(sidecar.endpoint) as (engine, worker):
        await engine.client.schedule_new_orchestration("count", input=0, instance_id="i")
        assert await finished(engine, "i") == STEPS
        assert worker.stats.replays == 0
        assert worker.session_count == 0


async def test_a_session_catches_up_with_turns_that_another_worker_ran(sidecar: Sidecar) -> None:
    async with worker_of(sidecar.endpoint) as (engine, first):
        await engine.client.schedule_new_orchestration("listen", input=3, instance_id="i")
        await eventually(lambda: first.session_count == 1)
        dispatcher = sidecar.database.hub.dispatcher
        sidecar.database.writer.submit(dispatcher.retire, dispatcher.streams[0])
        async with worker_of(sidecar.endpoint) as (_, second):
            await engine.client.raise_orchestration_event("i", "go", data="one")
            await eventually(lambda: second.stats.replays == 1)
        assert first._stream is not None
        first._stream.call.cancel()  # it connects again
        for data in ("two", "three"):
            await engine.client.raise_orchestration_event("i", "go", data=data)
        assert await finished(engine, "i") == ["one", "two", "three"]
        assert first.stats.replays == 0


async def test_the_session_of_an_earlier_instance_with_the_same_id_is_dropped(sidecar: Sidecar) -> None:
    async with worker_of(sidecar.endpoint) as (engine, worker):
        for number in (2, 1):
            await engine.client.schedule_new_orchestration("listen", input=number, instance_id="i")
            await eventually(lambda: worker.session_count == 1)
            if number == 1:
                break
            await engine.client.raise_orchestration_event("i", "go", data="old")
            await engine.client.terminate_orchestration("i")
            await engine.client.wait_for_orchestration_completion("i", timeout=TIMEOUT)
            await engine.client.purge_orchestration("i")
        await engine.client.raise_orchestration_event("i", "go", data="new")
        assert await finished(engine, "i") == ["new"]


async def test_without_sessions_each_turn_is_a_replay(sidecar: Sidecar) -> None:
    async with worker_of(sidecar.endpoint, sessions=0) as (engine, worker):
        await engine.client.schedule_new_orchestration("count", input=0, instance_id="i")
        assert await finished(engine, "i") == STEPS
        assert worker.stats.replays == STEPS


async def test_an_engine_that_goes_away_and_comes_back(sidecar: Sidecar) -> None:
    """A result that was ready while the engine was away is delivered late or made again; the work goes on."""
    began, go = threading.Event(), threading.Event()

    def add(ctx: task.ActivityContext, number: int) -> int:
        began.set()
        assert go.wait(TIMEOUT)
        return number + 1

    async with worker_of(sidecar.endpoint, Workflows({"count": count}, {"add": add})) as (engine, worker):
        await engine.client.schedule_new_orchestration("count", input=0, instance_id="i")
        await asyncio.to_thread(began.wait, TIMEOUT)
        await asyncio.to_thread(sidecar.go_away)
        go.set()
        await eventually(lambda: worker._stream is not None and not worker._stream.is_open)
        await asyncio.to_thread(sidecar.start)
        assert await finished(engine, "i") == STEPS
        assert worker.stuck() == []


def activities(number: int) -> Iterator[bytes]:
    for each in range(number):
        item = pb.WorkItem(completionToken=f"c{each}")
        item.activityRequest.name, item.activityRequest.taskId = "work", each
        item.activityRequest.orchestrationInstance.instanceId = "i"
        yield item.SerializeToString()


async def test_results_are_sent_without_waiting_for_the_answers_to_earlier_ones() -> None:
    """One thread runs all activities while no result is answered."""
    number, ran, end = 30, [], threading.Event()

    def work(ctx: task.ActivityContext, _: Any) -> None:
        ran.append(ctx.task_id)

    def stream(_: bytes, __: int) -> Iterator[bytes]:
        yield from activities(number)
        end.wait(TIMEOUT)

    def never(_: bytes, __: int) -> bytes:
        end.wait(TIMEOUT)
        return b""

    with HostileEngine() as hostile:
        hostile.answers = {"GetWorkItems": stream, "CompleteActivityTask": never}
        async with worker_of(hostile.endpoint, Workflows(activities={"work": work}), worker={"threads": 1}):
            await eventually(lambda: len(ran) == number)
            end.set()
        assert ran == list(range(number))


async def test_a_result_whose_call_cannot_be_made_delays_no_other_one() -> None:
    """The first call has no headers, as when a token cannot be had."""
    failed: list[tuple[str, BaseException]] = []
    headers: Iterator[Any] = iter([OSError("no token"), ()])

    def next_headers() -> Any:
        found = next(headers)
        if isinstance(found, OSError):
            raise found
        return found

    with HostileEngine() as hostile, grpc.insecure_channel(hostile.endpoint.removeprefix("http://")) as channel:
        stub = RemoteStub(channel, next_headers, lambda token, error: failed.append((token, error)))
        for token in ("first", "second"):
            stub.CompleteActivityTask(pb.ActivityResponse(completionToken=token))
        await asyncio.to_thread(stub.stop)
        assert [(token, str(error)) for token, error in failed] == [("first", "no token")]
        assert hostile.calls["CompleteActivityTask"] == 1


async def test_work_of_a_broken_stream_that_has_not_begun_is_returned_and_does_not_run() -> None:
    ran, began, go, end = [], threading.Event(), threading.Event(), threading.Event()

    def work(ctx: task.ActivityContext, _: Any) -> None:
        ran.append(ctx.task_id)
        began.set()
        assert go.wait(TIMEOUT)

    def stream(_: bytes, number: int) -> Iterator[bytes]:
        if number:
            end.wait(TIMEOUT)
            return
        yield from activities(5)
        began.wait(TIMEOUT)  # and the stream ends

    with HostileEngine() as hostile:
        hostile.answers = {"GetWorkItems": stream}
        async with worker_of(hostile.endpoint, Workflows(activities={"work": work}), worker={"threads": 1}):
            await eventually(lambda: hostile.calls["GetWorkItems"] == 2)
            go.set()
            await eventually(lambda: hostile.calls["AbandonTaskActivityWorkItem"] == 4)
            await eventually(lambda: hostile.calls["CompleteActivityTask"] == 1)
            end.set()
        assert ran == [0]


async def test_a_stop_returns_what_has_not_begun_and_finishes_the_rest() -> None:
    ran, began, go, end = [], threading.Event(), threading.Event(), threading.Event()

    def work(ctx: task.ActivityContext, _: Any) -> None:
        ran.append(ctx.task_id)
        began.set()
        assert go.wait(TIMEOUT)

    def stream(_: bytes, __: int) -> Iterator[bytes]:
        yield from activities(5)
        end.wait(TIMEOUT)

    with HostileEngine() as hostile:
        hostile.answers = {"GetWorkItems": stream}
        async with worker_of(hostile.endpoint, Workflows(activities={"work": work}), worker={"threads": 1}) as (_, it):
            await asyncio.to_thread(began.wait, TIMEOUT)
            await eventually(lambda: it._pools[1]._jobs.qsize() == 4)
            stopping = asyncio.create_task(stop_worker(it, TIMEOUT))
            await eventually(lambda: it.items.is_closed)
            go.set()
            assert await stopping
            end.set()
        assert (hostile.calls["AbandonTaskActivityWorkItem"], hostile.calls["CompleteActivityTask"]) == (4, 1)
        assert ran == [0]


async def test_a_silent_stream_is_opened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "SILENCE_SECONDS", 0.2)
    end = threading.Event()

    def stream(_: bytes, __: int) -> Iterator[bytes]:
        end.wait(TIMEOUT)
        yield from ()

    with HostileEngine() as hostile:
        hostile.answers = {"GetWorkItems": stream}
        async with worker_of(hostile.endpoint):
            await eventually(lambda: hostile.calls["GetWorkItems"] >= 2)
            end.set()


async def test_the_worker_starts_before_its_engine_and_starts_again(sidecar: Sidecar) -> None:
    await asyncio.to_thread(sidecar.go_away)
    async with worker_of(sidecar.endpoint) as (engine, worker):
        with pytest.raises(RuntimeError, match="already running"):
            worker.start()
        await asyncio.to_thread(sidecar.start)
        await engine.client.schedule_new_orchestration("count", input=0, instance_id="a")
        assert await finished(engine, "a") == STEPS
        assert await stop_worker(worker, TIMEOUT)
        worker.start()
        await engine.client.schedule_new_orchestration("count", input=0, instance_id="b")
        assert await finished(engine, "b") == STEPS
