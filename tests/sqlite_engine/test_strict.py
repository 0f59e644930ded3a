"""Optional enforcement of the scheduler's limits."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from durabletask.entities import EntityInstanceId
from durabletask.internal import helpers
from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.config.model.engines import EmbeddedEngineConfig
from bridge.core.commands import ScheduleOrchestration
from bridge.core.errors import EngineRejected
from bridge.engines.commands.command_runner import CommandRunner
from bridge.engines.embedded.engine import EmbeddedEngine
from bridge.sqlite_engine.database import Database
from bridge.sqlite_engine.model.reply import Rejection
from bridge.sqlite_engine.options import DatabaseOptions
from tests.kit.protocol_client import ProtocolClient, activity, again, call, child, complete, signal, start, state, text
from tests.sqlite_engine.conftest import Restartable

MIB = 1024 * 1024
LARGEST = "x" * (MIB - 2)
"""Text with 1 MiB in JSON form."""


@pytest.fixture
def strict(tmp_path: Path) -> Iterator[Database]:
    found = Restartable(tmp_path / "hub.db", DatabaseOptions(strict=True))
    yield found.now
    found.now.stop()


@pytest.fixture(params=[True, False], ids=["strict", "not strict"])
def either(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Database]:
    found = Restartable(tmp_path / "hub.db", DatabaseOptions(strict=request.param))
    yield found.now
    found.now.stop()


def attempt(database: Database, run: Callable[[], Any], bound: str) -> None:
    """Run a call; a strict database must refuse it with this limit."""
    if not database.options.strict:
        run()
        return
    with pytest.raises(Rejection, match=rf"{bound}.*, the scheduler's limit, by `strict`") as refused:
        run()
    assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("instance_id", ["x" * 101, "näh", "a\nb", "\x7f", "☃"])
def test_ids_of_instances_and_entities(either: Database, instance_id: str) -> None:
    bound = "101 characters; at most 100 are allowed" if len(instance_id) > 100 else "other characters than printable"
    attempt(either, lambda: start(either, "work", instance_id), bound)
    entity = f"@c@{instance_id}"[:101]
    attempt(either, lambda: signal(either, entity, "go"), bound)


def test_what_is_within_the_limits(strict: Database) -> None:
    start(strict, "work", "x" * 100, LARGEST)
    start(strict, "work", " ~!|", LARGEST)
    signal(strict, "@c@" + "x" * 97, "go", LARGEST)
    remote = ProtocolClient(strict)
    for _ in range(3):
        item = remote.take()
        if item.HasField("entityRequestV2"):
            remote.batch(item, None, new_state=LARGEST)
        else:
            remote.turn(item, complete(1, LARGEST), customStatus=text(LARGEST))
    assert state(strict, "x" * 100).output.value == f'"{LARGEST}"'
    found = call(strict, "GetEntity", pb.GetEntityRequest(instanceId="@c@" + "x" * 97, includeState=True))
    assert found.entity.serializedState.value == f'"{LARGEST}"'


@pytest.mark.parametrize("large", [LARGEST + "x", "ä" * (MIB // 2)])
def test_payloads_of_clients(either: Database, large: str) -> None:
    # In the JSON of these clients a letter such as ä has six bytes; therefore the text is passed unchanged.
    payload = text(f'"{large}"')
    bound = r"of \d+ bytes; at most 1048576 are allowed"
    request = pb.CreateInstanceRequest(instanceId="a", name="work", input=payload)
    attempt(either, lambda: call(either, "StartInstance", request), bound)
    start(either, "work", "b")
    raised = pb.RaiseEventRequest(instanceId="b", name="go", input=payload)
    attempt(either, lambda: call(either, "RaiseEvent", raised), bound)


def entity_action(kind: str, entity: str) -> pb.OrchestratorAction:
    target = EntityInstanceId("c", entity)
    if kind == "signal":
        return helpers.new_signal_entity_action(1, target, "go", None, "r", None)
    if kind == "call":
        return helpers.new_call_entity_action(1, "p", target, "go", None, "r")
    return helpers.new_lock_entities_action(1, pb.SendEntityMessageAction(
        entityLockRequested=pb.EntityLockRequestedEvent(criticalSectionId="s", lockSet=[str(target)])
    ))  # fmt: skip


@pytest.mark.parametrize(
    "action",
    [
        activity(1, "x", LARGEST + "x"),
        child(1, "x", "c", LARGEST + "x"),
        complete(1, LARGEST + "x"),
        again(1, LARGEST + "x"),
        pb.OrchestratorAction(id=1, sendEvent=pb.SendEventAction(name="x", data=text(LARGEST + "xxx"))),
        entity_action("signal", "x" * 101),
        entity_action("call", "x" * 101),
        entity_action("lock", "x" * 101),
    ],
    ids=["activity", "child", "output", "anew", "event", "signal", "call", "lock"],
)
def test_an_orchestrator_that_goes_beyond_fails(either: Database, action: pb.OrchestratorAction) -> None:
    start(either, "work", "a")
    remote = ProtocolClient(either)
    remote.turn(remote.take(), action)
    found = state(either, "a")
    failed = found.orchestrationStatus == pb.ORCHESTRATION_STATUS_FAILED
    assert failed == either.options.strict
    if failed:
        assert found.failureDetails.errorType == "InvalidOrchestratorResponse"
        assert "the scheduler's limit, by `strict`" in found.failureDetails.errorMessage


def test_a_sub_orchestration_with_too_long_an_id_fails_in_its_parent(either: Database) -> None:
    start(either, "work", "a")
    remote = ProtocolClient(either)
    remote.turn(remote.take(), child(1, "x", "c" * 101))
    item = remote.take().orchestratorRequest
    if either.options.strict:
        failure = item.newEvents[1].subOrchestrationInstanceFailed.failureDetails
        assert failure.errorType == "InvalidInstanceId"
        assert "at most 100 are allowed, the scheduler's limit, by `strict`" in failure.errorMessage
    else:
        assert item.instanceId == "c" * 101


def test_an_activity_with_too_large_an_output_fails(either: Database) -> None:
    start(either, "work", "a")
    remote = ProtocolClient(either)
    remote.turn(remote.take(), activity(1, "x"))
    remote.result(remote.take(), LARGEST + "x")
    event = remote.take().orchestratorRequest.newEvents[1]
    if either.options.strict:
        failure = event.taskFailed.failureDetails
        assert (failure.errorType, failure.isNonRetriable) == ("PayloadTooLarge", True)
        assert "an activity's output of 1048577 bytes; at most 1048576 are allowed" in failure.errorMessage
    else:
        assert event.HasField("taskCompleted")


def test_an_entity_keeps_its_state_when_the_new_one_is_too_large(
    either: Database, caplog: pytest.LogCaptureFixture
) -> None:
    remote = ProtocolClient(either)
    signal(either, "@c@x", "set")
    remote.batch(remote.take(), None, new_state="old")
    start(either, "work", "a")
    remote.turn(remote.take(), entity_action("call", "x"))
    with caplog.at_level(logging.WARNING):
        remote.batch(remote.take(), "done", new_state=LARGEST + "x")
        event = remote.take().orchestratorRequest.newEvents[1]
    found = call(either, "GetEntity", pb.GetEntityRequest(instanceId="@c@x", includeState=True)).entity
    if either.options.strict:
        assert "an entity's state of 1048577 bytes" in event.entityOperationFailed.failureDetails.errorMessage
        assert found.serializedState.value == '"old"'
        assert "The state of an entity c is too large" in caplog.text
    else:
        assert event.HasField("entityOperationCompleted")
        assert len(found.serializedState.value) == MIB + 1
    assert found.backlogQueueSize == 0


@pytest.mark.parametrize("is_strict", [True, False])
async def test_a_daemons_engine_is_strict_by_configuration(tmp_path: Path, is_strict: bool) -> None:
    config = EmbeddedEngineConfig(type="embedded", strict=is_strict)
    engine = EmbeddedEngine("default", config, tmp_path / "engine", host=True)
    await engine.start()
    try:
        start_it = CommandRunner(engine).execute(ScheduleOrchestration("work", "x" * 101))
        if is_strict:
            with pytest.raises(EngineRejected, match="at most 100 are allowed, the scheduler's limit, by `strict`"):
                await start_it
        else:
            await start_it
    finally:
        await engine.stop()
