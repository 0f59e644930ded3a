"""Sagas on an engine with a real worker: sub-orchestrations, external cancels, and the view of a client."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from durabletask import task

from bridge.app.composition import create_engine
from bridge.config.model.engines import EmbeddedEngineConfig
from bridge.engines.client import EngineClient
from bridge.engines.worker.setup import stop_worker
from bridge.engines.workflows import Workflows
from bridge.workflow import Child, CompensationInput, DataConverter, Saga, Step, StepInput
from tests.kit.waiting import TIMEOUT, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

BRIEF = timedelta(milliseconds=300)
AGAIN = task.RetryPolicy(first_retry_interval=timedelta(milliseconds=10), max_number_of_attempts=3)

received: dict[str, list[Any]] = {}
"""Calls that activities received, by the instance that the first part of their input names."""


def note(ctx: task.ActivityContext, call: StepInput) -> str:
    received.setdefault(call.input["of"], []).append(("note", call.key))
    return "noted"


def erase(ctx: task.ActivityContext, call: CompensationInput) -> None:
    received.setdefault(call.input["of"], []).append(("erase", call.key, call.known))


def obedient_child(ctx: task.OrchestrationContext, call: StepInput) -> Any:
    """Wait for the event `cancel`, then stop."""
    reason = yield ctx.wait_for_external_event("cancel")
    yield ctx.call_activity(note, input=StepInput(reason["reason"], call.input))
    return "stopped"


def clumsy_child(ctx: task.OrchestrationContext, call: StepInput) -> Any:
    yield ctx.call_activity(note, input=call)
    if not ctx.instance_id.endswith(":3"):
        raise OSError("stumbled")
    return ctx.instance_id


def parent(ctx: task.OrchestrationContext, plan: dict[str, Any]) -> Any:
    saga = Saga(ctx, "parent")
    data = {"of": ctx.instance_id}

    def body() -> Any:
        yield from saga.step(Step("noted", note, data, compensation=erase))
        timeout = BRIEF if plan.get("brief") else None
        step = Step("child", Child(plan["child"]), data, compensation=erase, retry=AGAIN, timeout=timeout)
        return (yield from saga.step(step))

    return (yield from saga.run(body()))


class SagaFixture:
    def __init__(self, client: EngineClient) -> None:
        self.client = client

    async def start(self, **plan: Any) -> str:
        instance_id = f"saga-{uuid.uuid4().hex[:8]}"
        await self.client.schedule_new_orchestration("parent", input=plan, instance_id=instance_id)
        return instance_id

    async def reaches(self, instance_id: str, **steps: str) -> None:
        async with asyncio.timeout(TIMEOUT):
            while True:
                state = await self.client.get_orchestration_state(instance_id)
                assert state is not None
                shown = json.loads(state.serialized_custom_status or "{}").get("steps", {})
                if steps.items() <= shown.items():
                    return
                await asyncio.sleep(0.01)

    async def outcome(self, instance_id: str) -> dict[str, Any]:
        state = await self.client.wait_for_orchestration_completion(instance_id, timeout=int(TIMEOUT))
        assert state is not None
        state.raise_if_failed()
        output = state.get_output()
        assert isinstance(output, dict)
        return output


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hub(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SagaFixture]:
    config = EmbeddedEngineConfig(type="embedded")
    engine = create_engine("default", config, Path(tmp_path_factory.mktemp("engine")), host=True)
    await engine.start()
    orchestrators = {one.__name__: one for one in (parent, obedient_child, clumsy_child)}
    worker = engine.worker(Workflows(orchestrators, {"note": note, "erase": erase}), DataConverter())
    worker.start()
    yield SagaFixture(engine.client)
    await stop_worker(worker, 5.0)
    await engine.stop()


async def test_a_failed_child_is_tried_again_as_a_new_instance(hub: SagaFixture) -> None:
    instance_id = await hub.start(child="clumsy_child")
    outcome = await hub.outcome(instance_id)
    assert outcome["status"] == "completed"
    assert outcome["result"].startswith(f"{instance_id}:")
    keys = [key for _, key in received[instance_id]]
    assert len(keys) == 4
    assert len(set(keys[1:])) == 1
    assert keys[1].endswith("/child")


async def test_cancel_is_passed_to_the_child_and_all_is_undone(hub: SagaFixture) -> None:
    instance_id = await hub.start(child="obedient_child")
    await hub.reaches(instance_id, noted="completed", child="running")
    await hub.client.raise_orchestration_event(instance_id, "cancel", data={"reason": "typo"})
    outcome = await hub.outcome(instance_id)
    assert (outcome["status"], outcome["reason"], outcome["detail"]) == ("compensated", "cancelled", "typo")
    assert outcome["compensated"] == ["child", "noted"]
    assert [one[0] for one in received[instance_id]] == ["note", "note", "erase", "erase"]
    assert received[instance_id][1] == ("note", "cancelled")
    assert [one[2] for one in received[instance_id][2:]] == [True, True]


async def test_a_child_that_takes_too_long_is_told_so_and_undone(hub: SagaFixture) -> None:
    instance_id = await hub.start(child="obedient_child", brief=True)
    outcome = await hub.outcome(instance_id)
    assert (outcome["status"], outcome["reason"], outcome["step"]) == ("compensated", "timeout", "child")
    erased = [one for one in received[instance_id] if one[0] == "erase"]
    assert [known for _, _, known in erased] == [False, True]
    await eventually(lambda: ("note", "timeout") in received[instance_id])


async def test_one_key_for_a_step_and_its_compensation(hub: SagaFixture) -> None:
    instance_id = await hub.start(child="obedient_child")
    await hub.reaches(instance_id, child="running")
    await hub.client.raise_orchestration_event(instance_id, "cancel")
    await hub.outcome(instance_id)
    assert received[instance_id][0][1] == received[instance_id][-1][1]
