"""Contract tests for every engine.

A suite subclasses EngineContract beside a module-scoped `station` fixture.
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
async def process_station(engine: EmbeddedEngine, number: int = 2) -> AsyncIterator[EngineFixture]:
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
async def station(engine: Engine) -> AsyncIterator[EngineFixture]:
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
    async def test_probe(self, station: EngineFixture) -> None:
        await station.engine.probe()

    async def test_schedule_runs_with_input(self, station: EngineFixture) -> None:
        value = {"id": "ü", "n": [1, 2.5, None, True], "nested": {"a": "b"}}
        assert await station.output(await station.start("echo", value)) == value

    async def test_activities(self, station: EngineFixture) -> None:
        assert await station.output(await station.start("chain", 1)) == 3

    async def test_fan_out(self, station: EngineFixture) -> None:
        assert await station.output(await station.start("fan_out", 10)) == sum(range(1, 11))

    async def test_timer(self, station: EngineFixture) -> None:
        began = time.monotonic()
        assert await station.output(await station.start("patient", 0.3)) == "woke"
        assert time.monotonic() - began >= 0.3

    async def test_sub_orchestration(self, station: EngineFixture) -> None:
        assert await station.output(await station.start("parent", 1)) == 3

    async def test_continue_as_new(self, station: EngineFixture) -> None:
        assert await station.output(await station.start("countdown", 3)) == "done"

    async def test_custom_status(self, station: EngineFixture) -> None:
        instance_id = await station.start("reporting", "waiting for go")
        await station.running(instance_id)
        state = await station.engine.client.get_orchestration_state(instance_id)
        assert state is not None
        assert state.get_custom_status() == "waiting for go"
        await station.executor.execute(RaiseEvent(instance_id, "go"))
        await station.finished(instance_id)

    async def test_failure_is_kept(self, station: EngineFixture) -> None:
        state = await station.finished(await station.start("failing"))
        assert state.runtime_status is OrchestrationStatus.FAILED
        assert state.failure_details is not None
        assert "as planned" in state.failure_details.message

    async def test_duplicate_start_is_refused(self, station: EngineFixture) -> None:
        instance_id = await station.start("approval")
        with pytest.raises(InstanceAlreadyExists):
            await station.executor.execute(ScheduleOrchestration("approval", instance_id))
        await station.executor.execute(Terminate(instance_id))

    async def test_duplicate_start_of_a_finished_instance_is_refused(self, station: EngineFixture) -> None:
        instance_id = await station.start("echo", 1)
        await station.finished(instance_id)
        with pytest.raises(InstanceAlreadyExists):
            await station.executor.execute(ScheduleOrchestration("echo", instance_id, 2))
        assert await station.output(instance_id) == 1

    async def test_restart_replaces_a_finished_instance(self, station: EngineFixture) -> None:
        for first, more in (("echo", {}), ("failing", {})):  # type: ignore[var-annotated]  # wider than its annotation, on purpose
            instance_id = await station.start(first, 1, **more)
            await station.finished(instance_id)
            again = ScheduleOrchestration("echo", instance_id, 2, on_existing=OnExisting.RESTART)
            await station.executor.execute(again)
            assert await station.output(instance_id) == 2

    async def test_restart_leaves_a_running_instance(self, station: EngineFixture) -> None:
        instance_id = await station.start("approval")
        await station.running(instance_id)
        with pytest.raises(InstanceAlreadyExists):
            await station.executor.execute(
                ScheduleOrchestration("approval", instance_id, on_existing=OnExisting.RESTART)
            )
        await station.executor.execute(RaiseEvent(instance_id, "approve", "same"))
        assert await station.output(instance_id) == "same"

    async def test_start_at(self, station: EngineFixture) -> None:
        due = datetime.now(UTC) + timedelta(seconds=0.6)
        instance_id = await station.start("echo", "late", start_at=due)
        state = await station.engine.client.get_orchestration_state(instance_id)
        assert state is not None
        assert state.runtime_status is OrchestrationStatus.PENDING
        assert await station.output(instance_id) == "late"
        assert datetime.now(UTC) >= due

    async def test_delay(self, station: EngineFixture) -> None:
        began = time.monotonic()
        assert await station.output(await station.start("echo", 1, delay=0.3)) == 1
        assert time.monotonic() - began >= 0.3

    async def test_events_before_a_late_start_are_kept(self, station: EngineFixture) -> None:
        instance_id = await station.start("approval", delay=0.4)
        await station.executor.execute(RaiseEvent(instance_id, "approve", "early"))
        assert await station.output(instance_id) == "early"

    async def test_late_start_is_terminated_before_it_is_due(self, station: EngineFixture) -> None:
        instance_id = await station.start("chain", 1, delay=3600.0)
        await station.executor.execute(Terminate(instance_id))
        assert (await station.finished(instance_id)).runtime_status is OrchestrationStatus.TERMINATED

    async def test_version(self, station: EngineFixture) -> None:
        assert await station.output(await station.start("versioned", version="1.2")) == "1.2"

    async def test_tags_are_taken(self, station: EngineFixture) -> None:
        assert await station.output(await station.start("echo", 1, tags={"team": "orders"})) == 1

    async def test_raise(self, station: EngineFixture) -> None:
        instance_id = await station.start("approval")
        await station.executor.execute(RaiseEvent(instance_id, "approve", {"by": "ann"}))
        assert await station.output(instance_id) == {"by": "ann"}

    async def test_raise_keeps_order_and_early_events(self, station: EngineFixture) -> None:
        instance_id = await station.start("twice")
        await station.executor.execute(RaiseEvent(instance_id, "item", 1))
        await station.executor.execute(RaiseEvent(instance_id, "item", 2))
        assert await station.output(instance_id) == [1, 2]

    async def test_raise_to_missing_instance(self, station: EngineFixture) -> None:
        with pytest.raises(InstanceNotFound):
            await station.executor.execute(RaiseEvent("t-missing", "approve"))

    async def test_raise_to_finished_instance(self, station: EngineFixture) -> None:
        instance_id = await station.start("echo", 1)
        await station.finished(instance_id)
        with pytest.raises(InstanceFinished):
            await station.executor.execute(RaiseEvent(instance_id, "approve"))

    async def test_repeated_raise_that_was_delivered_is_done(self, station: EngineFixture) -> None:
        instance_id = await station.start("approval")
        approve = RaiseEvent(instance_id, "approve", {"by": "ann"})
        await station.executor.execute(approve, FIRST)
        await station.finished(instance_id)
        with pytest.raises(AlreadyTaken):
            await station.executor.execute(approve, FIRST)
        with pytest.raises(InstanceFinished):
            await station.executor.execute(approve, SECOND)

    async def test_start_or_raise(self, station: EngineFixture) -> None:
        instance_id = f"t-{uuid.uuid4().hex}"
        for number in (0, 1, 2):
            await station.executor.execute(StartOrRaise("twice", instance_id, "item", data=number))
        assert await station.output(instance_id) == [1, 2]
        with pytest.raises(InstanceFinished):
            await station.executor.execute(StartOrRaise("twice", instance_id, "item", data=3))

    async def test_cancel(self, station: EngineFixture) -> None:
        instance_id = await station.start("cancellable")
        await station.executor.execute(Cancel(instance_id, reason="customer asked"))
        assert await station.output(instance_id) == {"reason": "customer asked"}

    async def test_terminate(self, station: EngineFixture) -> None:
        instance_id = await station.start("approval")
        await station.executor.execute(Terminate(instance_id, output="stopped"))
        state = await station.finished(instance_id)
        assert state.runtime_status is OrchestrationStatus.TERMINATED
        assert state.get_output() == "stopped"
        with pytest.raises(InstanceFinished):
            await station.executor.execute(Terminate(instance_id))

    @pytest.mark.parametrize("recursive", [True, False])
    async def test_terminate_reaches_children_or_leaves_them(self, station: EngineFixture, recursive: bool) -> None:
        child = f"t-{uuid.uuid4().hex}"
        instance_id = await station.start("waits_for_child", child)
        async with asyncio.timeout(TIMEOUT):
            while await station.engine.client.get_orchestration_state(child) is None:
                await asyncio.sleep(0.01)
        await station.running(child)
        await station.executor.execute(Terminate(instance_id, recursive=recursive))
        assert (await station.finished(instance_id)).runtime_status is OrchestrationStatus.TERMINATED
        if recursive:
            assert (await station.finished(child)).runtime_status is OrchestrationStatus.TERMINATED
        else:
            await station.executor.execute(RaiseEvent(child, "approve", "alone"))
            assert await station.output(child) == "alone"

    @pytest.mark.parametrize("command", [Terminate("t-missing"), Suspend("t-missing"), Resume("t-missing")])
    async def test_nothing_is_done_to_a_missing_instance(self, station: EngineFixture, command: Any) -> None:
        with pytest.raises(InstanceNotFound):
            await station.executor.execute(command)

    async def test_suspend_and_resume(self, station: EngineFixture) -> None:
        instance_id = await station.start("approval")
        await station.running(instance_id)
        await station.executor.execute(Suspend(instance_id, "audit"))
        await station.until(instance_id, OrchestrationStatus.SUSPENDED)
        await station.executor.execute(Suspend(instance_id))
        await station.executor.execute(RaiseEvent(instance_id, "approve", "kept"))
        await station.executor.execute(Resume(instance_id))
        assert await station.output(instance_id) == "kept"
        with pytest.raises(InstanceFinished):
            await station.executor.execute(Suspend(instance_id))

    async def test_signal_entity(self, station: EngineFixture) -> None:
        key = uuid.uuid4().hex
        await station.executor.execute(SignalEntity("counter", key, "add", 2))
        await station.executor.execute(SignalEntity("Counter", key, "add", 3, delay=0.2))
        await station.entity("counter", key, 5)

    async def test_entity_key_that_the_sdk_refuses(self, station: EngineFixture) -> None:
        with pytest.raises(EngineRejected, match="signal 'add'"):
            await station.executor.execute(SignalEntity("counter", "a@b", "add", 1))

    async def test_input_that_is_not_json(self, station: EngineFixture) -> None:
        with pytest.raises(EngineRejected, match="TypeError"):
            await station.start("echo", object.__new__(type("Odd", (), {"__slots__": ()})))

    async def test_request_over_the_limit(self, station: EngineFixture) -> None:
        with pytest.raises(EngineRejected, match="larger than max"):
            await station.start("echo", "x" * (1 << 20))
        with pytest.raises(EngineRejected, match="larger than max"):
            await station.executor.execute(RaiseEvent("t-any", "approve", "x" * (1 << 20)))

    async def test_query_and_purge(self, station: EngineFixture) -> None:
        prefix = f"q{uuid.uuid4().hex}"
        for number in range(3):
            await station.executor.execute(ScheduleOrchestration("echo", f"{prefix}-{number}", number))
            await station.finished(f"{prefix}-{number}")
        query = OrchestrationQuery(instance_id_prefix=prefix, fetch_inputs_and_outputs=True, max_instance_count=2)
        states = await station.engine.client.get_all_orchestration_states(query)
        assert sorted(state.get_output() for state in states) == [0, 1, 2]
        assert (await station.engine.client.purge_orchestration(f"{prefix}-0")).deleted_instance_count == 1
        assert await station.engine.client.get_orchestration_state(f"{prefix}-0") is None

    async def test_history(self, station: EngineFixture) -> None:
        instance_id = await station.start("chain", 1)
        await station.finished(instance_id)
        history = await station.engine.client.get_orchestration_history(instance_id)
        assert {"ExecutionStartedEvent", "TaskCompletedEvent"} <= {type(event).__name__ for event in history}

    async def test_wait_ends_at_its_timeout(self, station: EngineFixture) -> None:
        instance_id = await station.start("approval")
        with pytest.raises(EngineTimeout):
            await station.engine.client.wait_for_orchestration_completion(instance_id, timeout=0.2)
        await station.executor.execute(Terminate(instance_id))

    async def test_unknown_orchestrations_are_left_to_other_workers(self, station: EngineFixture) -> None:
        instance_id = await station.start("somebody_elses")
        assert await station.output(await station.start("echo", 1)) == 1
        state = await station.engine.client.get_orchestration_state(instance_id)
        assert state is not None
        assert state.runtime_status is OrchestrationStatus.PENDING

    async def test_many_at_once(self, station: EngineFixture) -> None:
        ids = await asyncio.gather(*(station.start("echo", number) for number in range(50)))
        assert await asyncio.gather(*(station.output(instance_id) for instance_id in ids)) == list(range(50))
