"""Activities that publish have their own threads: a hanging broker blocks no other activity."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from durabletask import task

from bridge.engines.worker.setup import stop_worker
from bridge.engines.workflows import Workflows
from tests.kit.engine_modes import MODES, engine_of
from tests.kit.waiting import TIMEOUT, eventually

PUBLISHES = 40


def greet(ctx: task.ActivityContext, name: str) -> str:
    return f"hello {name}"


def greeting(ctx: task.OrchestrationContext, name: str) -> Any:
    return (yield ctx.call_activity(greet, input=name))


def publishing(ctx: task.OrchestrationContext, _: Any) -> Any:
    return (yield ctx.call_activity("publish"))


@pytest.mark.parametrize("way", MODES)
async def test_a_broker_that_hangs_stops_no_other_activity(tmp_path: Path, way: str) -> None:
    back = threading.Event()
    waiting = threading.Semaphore(0)

    def publish(ctx: task.ActivityContext, _: Any) -> str:
        waiting.release()
        assert back.wait(TIMEOUT * 2)
        return "published"

    async with engine_of(way, tmp_path, threads=4, publish_threads=4) as engine:
        workers = [
            engine.worker(Workflows({"greeting": greeting, "publishing": publishing}, {"greet": greet})),
            engine.worker(Workflows(activities={"publish": publish}, publishers=True)),
        ]
        for worker in workers:
            worker.start()
        client = engine.client
        try:
            for number in range(PUBLISHES):
                await client.schedule_new_orchestration("publishing", instance_id=f"p-{number}")
            await eventually(lambda: waiting._value == 4)
            for number in range(10):
                await client.schedule_new_orchestration("greeting", input="you", instance_id=f"g-{number}")
                state = await client.wait_for_orchestration_completion(f"g-{number}", timeout=int(TIMEOUT))
                assert state is not None
                assert state.get_output() == "hello you"
        finally:
            back.set()
        for number in range(PUBLISHES):
            state = await client.wait_for_orchestration_completion(f"p-{number}", timeout=int(TIMEOUT))
            assert state is not None
            assert state.get_output() == "published"
        for worker in workers:
            assert await stop_worker(worker, TIMEOUT)
