"""Sagas in the API: their states, steps and reasons, which are no payload; on the daemon's engine and behind a port."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp
import pytest

from bridge.app.operations.instances.instances import InstanceInfo
from bridge.app.operations.instances.sagas import saga_of
from bridge.engines.sagas import saga_progress
from tests.kit.daemon import ENGINES, DaemonFixture, running
from tests.kit.waiting import TIMEOUT, eventually

FLOWS = """
from datetime import timedelta

from bridge.workflow import Saga, Step
from durabletask import task


def do(ctx: task.ActivityContext, given):
    if given == "fails":
        raise ValueError(f"SECRET {given}")


def undo(ctx: task.ActivityContext, given):
    if given != "fine":
        raise ValueError("SECRET undo")


def trip(ctx: task.OrchestrationContext, mood):
    saga = Saga(ctx, "journey")
    once = task.RetryPolicy(first_retry_interval=timedelta(milliseconds=1), max_number_of_attempts=1)
    retry = None if mood == "patient" else once

    def body():
        yield from saga.step(Step("stay", do, mood, compensation=undo, compensation_retry=retry, keyed=False))
        yield from saga.step(Step("go", do, mood and "fails", keyed=False))

    return (yield from saga.run(body()))


def slow(ctx: task.OrchestrationContext, _):
    saga = Saga(ctx, "slow")

    def body():
        yield from saga.step(Step("stay", do, None, keyed=False))
        yield ctx.wait_for_external_event("go")

    return (yield from saga.run(body()))
"""
CONFIG = """
sources: {plain: {broker: local, topics: [plain], codec: json, no_match: ignore}}
routes: [{name: none, from: plain, ignore: {reason: nothing}}]
"""
STARTS = {"good": None, "bad": "fine", "worse": "locked"}


async def _sagas(daemon: DaemonFixture, status: int = 200, **query: Any) -> Any:
    url = f"{daemon.daemon.url}/api/v1/sagas"
    async with aiohttp.ClientSession() as http, http.get(url, params=query) as response:
        assert response.status == status
        text = await response.text()
        assert "SECRET" not in text
        return await response.json()


@pytest.mark.parametrize("engine", ENGINES)
async def test_sagas_are_listed_by_state_and_step_without_payload(tmp_path: Path, engine: str) -> None:
    async with running(tmp_path, CONFIG, FLOWS, engine) as daemon:
        for instance_id, given in STARTS.items():
            await daemon.client.schedule_new_orchestration("trip", input=given, instance_id=instance_id)
            await daemon.client.wait_for_orchestration_completion(instance_id, timeout=TIMEOUT)
        await daemon.client.schedule_new_orchestration("trip", input="patient", instance_id="undoing")
        await daemon.client.schedule_new_orchestration("slow", input=None, instance_id="runs")

        async def ids(**query: Any) -> list[str]:
            return [each["instance_id"] for each in (await _sagas(daemon, **query))["sagas"]]

        async def open_ones() -> bool:
            return await ids(states="compensating") == ["undoing"] and await ids(states="running") == ["runs"]

        await eventually(open_ones, "one saga compensates and one runs")
        assert await ids() == ["worse", "bad", "good"]
        assert await ids(states="compensated,compensation_failed") == ["worse", "bad"]
        assert await ids(states="compensation_failed", step="go") == ["worse"]
        assert await ids(step="stay") == []
        assert await ids(saga="journey", states="completed") == ["good"]
        assert await ids(saga="slow") == []
        assert await ids(saga="journey", states="running") == []
        assert await ids(saga="slow", states="running") == ["runs"]
        [worse] = (await _sagas(daemon, states="compensation_failed"))["sagas"]
        assert (worse["step"], worse["reason"], worse["orchestration"]) == ("go", "failed", "trip")
        assert worse["failed_compensations"] == [{"step": "stay", "reason": "failed"}]
        assert worse["steps"] == {"stay": "compensation_failed", "go": "unknown"}
        first = await _sagas(daemon, limit=2)
        second = await _sagas(daemon, limit=2, cursor=first["next"])
        assert [each["instance_id"] for each in (*first["sagas"], *second["sagas"])] == ["worse", "bad", "good"]
        assert second["next"] is None
        for query in ({"states": "none"}, {"states": "running,completed"}, {"states": ""}, {"limit": 0}):
            await _sagas(daemon, 422, **query)


@pytest.mark.parametrize(
    "status",
    [
        None,
        1,
        "x",
        [],
        {},
        {"saga": 1},
        {"saga": "a"},
        {"saga": "a", "status": "b", "steps": []},
        {"saga": "a", "steps": {}},
    ],
)
def test_a_custom_status_of_anything_else_is_no_saga(status: Any) -> None:
    assert saga_progress(status) is None


def test_words_of_a_saga_are_printable_and_its_states_known() -> None:
    status = {"saga": "a\x1b[2J", "status": "running", "steps": {"s\n": "completed", "t": {"x": 1}, "u": "SECRET"}}
    progress = saga_progress(status)
    assert progress is not None
    assert progress.saga == "(unprintable)"
    assert progress.steps == (("(unprintable)", "completed"), ("t", "unknown"), ("u", "unknown"))
    one = InstanceInfo("i", "n", "RUNNING", "", "", None, None, status, None)
    found = saga_of(one)
    assert found is not None
    assert found.state == "running"
    assert saga_of(InstanceInfo("i", "n", "RUNNING", "", "", None, None, {"stage": 1}, None)) is None
