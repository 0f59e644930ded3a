"""Contract tests for every engine.

A suite subclasses EngineContract beside a module-scoped `harness` fixture.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from durabletask.client import OrchestrationQuery, OrchestrationState, OrchestrationStatus
from durabletask.entities import EntityInstanceId

from bridge.app.serve.worker_processes import MODULE
from bridge.app.worker_process import user_workflows
from bridge.core.commands import (
    Cancel,
    OnExisting,
    RaiseEvent,
    Resume,
    ScheduleOrchestration,
    SignalEntity,
    StartOrRaise,
    Suspend,
    Terminate,
)
from bridge.core.errors import (
    AlreadyTaken,
    EngineRejected,
    EngineTimeout,
    InstanceAlreadyExists,
    InstanceFinished,
    InstanceNotFound,
)
from bridge.engines.base import Engine
from bridge.engines.commands.command_runner import CommandRunner
from bridge.engines.embedded.engine import EmbeddedEngine
from bridge.engines.embedded.processes.settings import ProcessSettings
from bridge.engines.embedded.processes.supervisor import default_command
from bridge.engines.worker.setup import stop_worker
from bridge.engines.workflows import Workflows, load
from bridge.workflow import DataConverter, message_aware
from bridge.workflow.entity import bare_state
from tests.engines.correlation import FIRST, SECOND, CorrelationContract
from tests.kit.waiting import TIMEOUT, eventually


@dataclass
class EngineFixture:
    """Started engine with a running worker."""

    engine: Engine
    executor: CommandRunner

    async def start(self, orchestration: str, value: Any = None, **more: Any) -> str:
        instance_id = f"t-{uuid.uuid4().hex}"
        await self.executor.execute(ScheduleOrchestration(orchestration, instance_id, value, **more))
        return instance_id

    async def finished(self, instance_id: str) -> OrchestrationState:
        state = await self.engine.client.wait_for_orchestration_completion(instance_id, timeout=TIMEOUT)
        assert state is not None
        return state

    async def output(self, instance_id: str) -> Any:
        state = await self.finished(instance_id)
        assert state.runtime_status is OrchestrationStatus.COMPLETED, state
        return state.get_output()

    async def running(self, instance_id: str) -> None:
        await self.engine.client.wait_for_orchestration_start(instance_id, timeout=TIMEOUT)

    async def until(self, instance_id: str, status: OrchestrationStatus) -> None:
        async def is_reached() -> bool:
            state = await self.engine.client.get_orchestration_state(instance_id)
            return state is not None and state.runtime_status is status

        await eventually(is_reached, f"{instance_id} is {status.name}")

    async def entity(self, entity: str, key: str, expected: Any) -> None:
        async def is_reached() -> bool:
            found = await self.engine.client.get_entity(EntityInstanceId(entity, key))
            return found is not None and found.get_state() is not None and found.get_typed_state(int) == expected

        await eventually(is_reached, f"{entity}@{key} is {expected}")

    async def noted(self, count: int) -> list[str]:
        """Return the notes of all runs of `noted` once there are at least `count`."""
        noted: list[str] = []

        async def complete() -> bool:
            found = await self.engine.client.get_entity(EntityInstanceId("notes", "all"))
            noted[:] = json.loads(found.get_state()) if found is not None and found.get_state() else []
            return len(noted) >= count

        await eventually(complete, lambda: f"{count} notes: {noted}")
        return noted

    async def remembered(self, key: str) -> Any:
        """Return the state of the entity `remembering`, without the envelope that the bridge adds."""
        found = await self.engine.client.get_entity(EntityInstanceId("remembering", key))
        return None if found is None or found.get_state() is None else bare_state(json.loads(found.get_state()))


def workflows() -> Workflows:
    return load(["tests.engines.sample"], Path(__file__).parents[2])


@asynccontextmanager
async def process_harness(engine: EmbeddedEngine, number: int = 2) -> AsyncIterator[EngineFixture]:
    """Run worker processes on a started engine, and stop them at the end."""
    settings = ProcessSettings("default", ("tests.engines.sample",), str(Path(__file__).parents[2]))
    names = user_workflows(workflows())
    processes = engine.worker_processes(number, settings, names, default_command(MODULE))
    processes.start()
    try:
        await eventually(
            lambda: all(view.runs for view in processes.views()),
            lambda: str(processes.views()),
        )
        yield EngineFixture(engine, CommandRunner(engine))
    finally:
        assert await stop_worker(processes, TIMEOUT)


@asynccontextmanager
async def harness(engine: Engine) -> AsyncIterator[EngineFixture]:
    """Run a worker on a started engine, and stop the worker at the end."""
    known = workflows()
    aware = {name: message_aware(each) for name, each in known.orchestrators.items()}
    worker = engine.worker(replace(known, orchestrators=aware), DataConverter())
    worker.start()
    try:
        yield EngineFixture(engine, CommandRunner(engine))
    finally:
        assert await stop_worker(worker, TIMEOUT)


class EngineContract(CorrelationContract):
    async def test_probe(self, harness: EngineFixture) -> None:
        await harness.engine.probe()

    async def test_schedule_runs_with_input(self, harness: EngineFixture) -> None:
        value = {"id": "ü", "n": [1, 2.5, None, True], "nested": {"a": "b"}}
        assert await harness.output(await harness.start("echo", value)) == value

    async def test_activities(self, harness: EngineFixture) -> None:
        assert await harness.output(await harness.start("chain", 1)) == 3

    async def test_fan_out(self, harness: EngineFixture) -> None:
        assert await harness.output(await harness.start("fan_out", 10)) == sum(range(1, 11))

    async def test_timer(self, harness: EngineFixture) -> None:
        began = time.monotonic()
        assert await harness.output(await harness.start("patient", 0.3)) == "woke"
        assert time.monotonic() - began >= 0.3

    async def test_sub_orchestration(self, harness: EngineFixture) -> None:
        assert await harness.output(await harness.start("parent", 1)) == 3

    async def test_continue_as_new(self, harness: EngineFixture) -> None:
        assert await harness.output(await harness.start("countdown", 3)) == "done"

    async def test_custom_status(self, harness: EngineFixture) -> None:
        instance_id = await harness.start("reporting", "waiting for go")
        await harness.running(instance_id)
        state = await harness.engine.client.get_orchestration_state(instance_id)
        assert state is not None
        assert state.get_custom_status() == "waiting for go"
        await harness.executor.execute(RaiseEvent(instance_id, "go"))
        await harness.finished(instance_id)

    async def test_failure_is_kept(self, harness: EngineFixture) -> None:
        state = await harness.finished(await harness.start("failing"))
        assert state.runtime_status is OrchestrationStatus.FAILED
        assert state.failure_details is not None
        assert "as planned" in state.failure_details.message

    async def test_duplicate_start_is_refused(self, harness: EngineFixture) -> None:
        instance_id = await harness.start("approval")
        with pytest.raises(InstanceAlreadyExists):
            await harness.executor.execute(ScheduleOrchestration("approval", instance_id))
        await harness.executor.execute(Terminate(instance_id))

    async def test_duplicate_start_of_a_finished_instance_is_refused(self, harness: EngineFixture) -> None:
        instance_id = await harness.start("echo", 1)
        await harness.finished(instance_id)
        with pytest.raises(InstanceAlreadyExists):
            await harness.executor.execute(ScheduleOrchestration("echo", instance_id, 2))
        assert await harness.output(instance_id) == 1

    async def test_restart_replaces_a_finished_instance(self, harness: EngineFixture) -> None:
        for first, more in (("echo", {}), ("failing", {})):  # type: ignore[var-annotated]  # wider than its annotation, on purpose
            instance_id = await harness.start(first, 1, **more)
            await harness.finished(instance_id)
            again = ScheduleOrchestration("echo", instance_id, 2, on_existing=OnExisting.RESTART)
            await harness.executor.execute(again)
            assert await harness.output(instance_id) == 2

    async def test_restart_leaves_a_running_instance(self, harness: EngineFixture) -> None:
        instance_id = await harness.start("approval")
        await harness.running(instance_id)
        with pytest.raises(InstanceAlreadyExists):
            await harness.executor.execute(
                ScheduleOrchestration("approval", instance_id, on_existing=OnExisting.RESTART)
            )
        await harness.executor.execute(RaiseEvent(instance_id, "approve", "same"))
        assert await harness.output(instance_id) == "same"

    async def test_start_at(self, harness: EngineFixture) -> None:
        due = datetime.now(UTC) + timedelta(seconds=0.6)
        instance_id = await harness.start("echo", "late", start_at=due)
        state = await harness.engine.client.get_orchestration_state(instance_id)
        assert state is not None
        assert state.runtime_status is OrchestrationStatus.PENDING
        assert await harness.output(instance_id) == "late"
        assert datetime.now(UTC) >= due

    async def test_delay(self, harness: EngineFixture) -> None:
        began = time.monotonic()
        assert await harness.output(await harness.start("echo", 1, delay=0.3)) == 1
        assert time.monotonic() - began >= 0.3

    async def test_events_before_a_late_start_are_kept(self, harness: EngineFixture) -> None:
        instance_id = await harness.start("approval", delay=0.4)
        await harness.executor.execute(RaiseEvent(instance_id, "approve", "early"))
        assert await harness.output(instance_id) == "early"

    async def test_late_start_is_terminated_before_it_is_due(self, harness: EngineFixture) -> None:
        instance_id = await harness.start("chain", 1, delay=3600.0)
        await harness.executor.execute(Terminate(instance_id))
        assert (await harness.finished(instance_id)).runtime_status is OrchestrationStatus.TERMINATED

    async def test_version(self, harness: EngineFixture) -> None:
        assert await harness.output(await harness.start("versioned", version="1.2")) == "1.2"

    async def test_tags_are_taken(self, harness: EngineFixture) -> None:
        assert await harness.output(await harness.start("echo", 1, tags={"team": "orders"})) == 1

    async def test_raise(self, harness: EngineFixture) -> None:
        instance_id = await harness.start("approval")
        await harness.executor.execute(RaiseEvent(instance_id, "approve", {"by": "ann"}))
        assert await harness.output(instance_id) == {"by": "ann"}

    async def test_raise_keeps_order_and_early_events(self, harness: EngineFixture) -> None:
        instance_id = await harness.start("twice")
        await harness.executor.execute(RaiseEvent(instance_id, "item", 1))
        await harness.executor.execute(RaiseEvent(instance_id, "item", 2))
        assert await harness.output(instance_id) == [1, 2]

    async def test_raise_to_missing_instance(self, harness: EngineFixture) -> None:
        with pytest.raises(InstanceNotFound):
            await harness.executor.execute(RaiseEvent("t-missing", "approve"))

    async def test_raise_to_finished_instance(self, harness: EngineFixture) -> None:
        instance_id = await harness.start("echo", 1)
        await harness.finished(instance_id)
        with pytest.raises(InstanceFinished):
            await harness.executor.execute(RaiseEvent(instance_id, "approve"))

    async def test_repeated_raise_that_was_delivered_is_done(self, harness: EngineFixture) -> None:
        instance_id = await harness.start("approval")
        approve = RaiseEvent(instance_id, "approve", {"by": "ann"})
        await harness.executor.execute(approve, FIRST)
        await harness.finished(instance_id)
        with pytest.raises(AlreadyTaken):
            await harness.executor.execute(approve, FIRST)
        with pytest.raises(InstanceFinished):
            await harness.executor.execute(approve, SECOND)

    async def test_start_or_raise(self, harness: EngineFixture) -> None:
        instance_id = f"t-{uuid.uuid4().hex}"
        for number in (0, 1, 2):
            await harness.executor.execute(StartOrRaise("twice", instance_id, "item", data=number))
        assert await harness.output(instance_id) == [1, 2]
        with pytest.raises(InstanceFinished):
            await harness.executor.execute(StartOrRaise("twice", instance_id, "item", data=3))

    async def test_cancel(self, harness: EngineFixture) -> None:
        instance_id = await harness.start("cancellable")
        await harness.executor.execute(Cancel(instance_id, reason="customer asked"))
        assert await harness.output(instance_id) == {"reason": "customer asked"}

    async def test_terminate(self, harness: EngineFixture) -> None:
        instance_id = await harness.start("approval")
        await harness.executor.execute(Terminate(instance_id, output="stopped"))
        state = await harness.finished(instance_id)
        assert state.runtime_status is OrchestrationStatus.TERMINATED
        assert state.get_output() == "stopped"
        with pytest.raises(InstanceFinished):
            await harness.executor.execute(Terminate(instance_id))

    @pytest.mark.parametrize("recursive", [True, False])
    async def test_terminate_reaches_children_or_leaves_them(self, harness: EngineFixture, recursive: bool) -> None:
        child = f"t-{uuid.uuid4().hex}"
        instance_id = await harness.start("waits_for_child", child)

        async def reached() -> object:
            return await harness.engine.client.get_orchestration_state(child) is not None

        await eventually(reached)
        await harness.running(child)
        await harness.executor.execute(Terminate(instance_id, recursive=recursive))
        assert (await harness.finished(instance_id)).runtime_status is OrchestrationStatus.TERMINATED
        if recursive:
            assert (await harness.finished(child)).runtime_status is OrchestrationStatus.TERMINATED
        else:
            await harness.executor.execute(RaiseEvent(child, "approve", "alone"))
            assert await harness.output(child) == "alone"

    @pytest.mark.parametrize("command", [Terminate("t-missing"), Suspend("t-missing"), Resume("t-missing")])
    async def test_nothing_is_done_to_a_missing_instance(self, harness: EngineFixture, command: Any) -> None:
        with pytest.raises(InstanceNotFound):
            await harness.executor.execute(command)

    async def test_suspend_and_resume(self, harness: EngineFixture) -> None:
        instance_id = await harness.start("approval")
        await harness.running(instance_id)
        await harness.executor.execute(Suspend(instance_id, "audit"))
        await harness.until(instance_id, OrchestrationStatus.SUSPENDED)
        await harness.executor.execute(Suspend(instance_id))
        await harness.executor.execute(RaiseEvent(instance_id, "approve", "kept"))
        await harness.executor.execute(Resume(instance_id))
        assert await harness.output(instance_id) == "kept"
        with pytest.raises(InstanceFinished):
            await harness.executor.execute(Suspend(instance_id))

    async def test_signal_entity(self, harness: EngineFixture) -> None:
        key = uuid.uuid4().hex
        await harness.executor.execute(SignalEntity("counter", key, "add", 2))
        await harness.executor.execute(SignalEntity("Counter", key, "add", 3, delay=0.2))
        await harness.entity("counter", key, 5)

    async def test_entity_key_that_the_sdk_refuses(self, harness: EngineFixture) -> None:
        with pytest.raises(EngineRejected, match="signal 'add'"):
            await harness.executor.execute(SignalEntity("counter", "a@b", "add", 1))

    async def test_input_that_is_not_json(self, harness: EngineFixture) -> None:
        with pytest.raises(EngineRejected, match="TypeError"):
            await harness.start("echo", object.__new__(type("Odd", (), {"__slots__": ()})))

    async def test_request_over_the_limit(self, harness: EngineFixture) -> None:
        with pytest.raises(EngineRejected, match="larger than max"):
            await harness.start("echo", "x" * (1 << 20))
        with pytest.raises(EngineRejected, match="larger than max"):
            await harness.executor.execute(RaiseEvent("t-any", "approve", "x" * (1 << 20)))

    async def test_query_and_purge(self, harness: EngineFixture) -> None:
        prefix = f"q{uuid.uuid4().hex}"
        for number in range(3):
            await harness.executor.execute(ScheduleOrchestration("echo", f"{prefix}-{number}", number))
            await harness.finished(f"{prefix}-{number}")
        query = OrchestrationQuery(instance_id_prefix=prefix, fetch_inputs_and_outputs=True, max_instance_count=2)
        states = await harness.engine.client.get_all_orchestration_states(query)
        assert sorted(state.get_output() for state in states) == [0, 1, 2]
        assert (await harness.engine.client.purge_orchestration(f"{prefix}-0")).deleted_instance_count == 1
        assert await harness.engine.client.get_orchestration_state(f"{prefix}-0") is None

    async def test_history(self, harness: EngineFixture) -> None:
        instance_id = await harness.start("chain", 1)
        await harness.finished(instance_id)
        history = await harness.engine.client.get_orchestration_history(instance_id)
        assert {"ExecutionStartedEvent", "TaskCompletedEvent"} <= {type(event).__name__ for event in history}

    async def test_wait_ends_at_its_timeout(self, harness: EngineFixture) -> None:
        instance_id = await harness.start("approval")
        with pytest.raises(EngineTimeout):
            await harness.engine.client.wait_for_orchestration_completion(instance_id, timeout=0.2)
        await harness.executor.execute(Terminate(instance_id))

    async def test_unknown_orchestrations_are_left_to_other_workers(self, harness: EngineFixture) -> None:
        instance_id = await harness.start("somebody_elses")
        assert await harness.output(await harness.start("echo", 1)) == 1
        state = await harness.engine.client.get_orchestration_state(instance_id)
        assert state is not None
        assert state.runtime_status is OrchestrationStatus.PENDING

    async def test_many_at_once(self, harness: EngineFixture) -> None:
        ids = await asyncio.gather(*(harness.start("echo", number) for number in range(50)))
        assert await asyncio.gather(*(harness.output(instance_id) for instance_id in ids)) == list(range(50))
