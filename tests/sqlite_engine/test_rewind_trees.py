"""A rewind reaches failed child instances, changes all of them or nothing, and keeps the state of others."""

from __future__ import annotations

import signal
from typing import Any

import grpc
import pytest
from durabletask import task
from durabletask.client import OrchestrationStatus
from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.sqlite_engine.database import Database
from bridge.sqlite_engine.hub import rewind as rewinding
from bridge.sqlite_engine.model.reply import Rejection
from tests.kit.processes import ModuleProcess
from tests.kit.protocol_client import (
    ProtocolClient,
    activity,
    begin,
    call,
    child,
    complete,
    fail,
    kinds,
    start,
    state,
)
from tests.kit.waiting import TIMEOUT
from tests.sqlite_engine.conftest import Restartable
from tests.sqlite_engine.rewind import RewindFixture, Steps, act, in_writer, retries, snapshot
from tests.sqlite_engine.test_control import terminate


def family(ctx: task.OrchestrationContext, depth: int) -> Steps:
    """Handle a failure at every level, beside a successful sister."""
    try:
        yield act(ctx, f"handled-{depth}", 2)
    except task.TaskFailedError:
        yield act(ctx, f"instead-{depth}")
    if not depth:
        return (yield act(ctx, "leaf", 2))
    children: list[Any] = [
        ctx.call_sub_orchestrator("family", input=depth - 1),
        ctx.call_sub_orchestrator("family_well"),
    ]
    return (yield task.when_all(children))


def family_well(ctx: task.OrchestrationContext, _: Any) -> Steps:
    return (yield act(ctx, "well"))


def test_failed_children_go_on_too_and_others_are_left_alone(database: Database) -> None:
    setup = RewindFixture(database, family, family_well)
    setup.broken("leaf", *(f"handled-{depth}" for depth in range(4)))
    setup.start("family", 3)
    setup.failed()
    setup.rewind()
    assert setup.output() == [[["leaf", "well"], "well"], "well"]
    assert setup.runs == ["leaf"]
    setup.worker.stop()


def tried_child(ctx: task.OrchestrationContext, _: Any) -> Steps:
    return (yield ctx.call_sub_orchestrator("family", input=0, retry_policy=retries(2)))


def test_a_child_with_a_retry_policy_is_tried_as_often_again(database: Database) -> None:
    setup = RewindFixture(database, tried_child, family)
    setup.broken("leaf")
    setup.start("tried_child")
    setup.failed()
    setup.failures["leaf"] = 3
    setup.rewind()
    assert setup.output() == "leaf"
    # Two attempts of the rewound child, and one of a new child.
    assert setup.runs == ["leaf", "leaf", "handled-0", "leaf", "leaf"]
    setup.worker.stop()


def test_a_child_that_was_rewound_by_itself_brings_its_result(database: Database) -> None:
    setup = RewindFixture(database, family, family_well)
    setup.broken("leaf")
    setup.start("family", 1)
    setup.failed()
    (failed_child,) = [
        each for each in in_writer(database, lambda: database.hub.store.children("i"))
        if setup.ended(each).runtime_status == OrchestrationStatus.FAILED
    ]  # fmt: skip
    setup.rewind(failed_child)
    assert setup.output(failed_child) == "leaf"
    setup.rewind()
    assert setup.output() == ["leaf", "well"]
    assert setup.runs == ["leaf"]
    setup.worker.stop()


def test_a_child_that_was_terminated_or_is_gone_is_a_reason_to_refuse(database: Database) -> None:
    setup = RewindFixture(database, family, family_well)
    setup.broken("leaf")
    setup.start("family", 2)
    setup.failed()
    call(database, "PurgeInstances", pb.PurgeInstancesRequest(instanceId=leaf_of(database, "i")))
    setup.refused("is gone")
    setup.worker.stop()
    remote = ProtocolClient(database)
    start(database, "parent", "p")
    remote.turn(remote.take(), child(1, "child", "p:1"))
    remote.take()
    terminate(database, "p:1")
    remote.turn(remote.take(), fail(2, "the child is gone"))
    setup.refused("'p:1' was terminated", "p")


def leaf_of(database: Database, instance_id: str) -> str:
    """Return the failed instance that has no failed child."""
    while True:
        children = in_writer(database, lambda of=instance_id: database.hub.store.children(of))
        failed = [
            each for each in children if state(database, each).orchestrationStatus == pb.ORCHESTRATION_STATUS_FAILED
        ]
        if not failed:
            return instance_id
        (instance_id,) = failed


def test_a_tree_of_any_depth(database: Database) -> None:
    depth = 1100  # beyond the recursion limit
    remote = ProtocolClient(database)
    start(database, "level", "level-0")
    for level in range(1, depth):
        remote.turn(remote.take(), child(1, "level", f"level-{level}"))
    remote.turn(remote.take(), activity(1, "leaf"))
    remote.result(remote.take(), failure=pb.TaskFailureDetails(errorType="E", errorMessage="broken"))
    for _ in range(depth):
        remote.turn(remote.take(), fail(2, "broken"))
    call(database, "RewindInstance", pb.RewindInstanceRequest(instanceId="level-0"))
    turns = 0
    while turns < depth + 1:
        item = remote.take()
        if item.HasField("activityRequest"):
            assert item.activityRequest.orchestrationInstance.instanceId == f"level-{depth - 1}"
            leaf = item
        else:
            turns += 1
            remote.turn(item)
        if turns == depth:
            remote.result(leaf, 1)
    assert state(database, f"level-{depth - 1}").orchestrationStatus == pb.ORCHESTRATION_STATUS_RUNNING


def test_all_or_nothing(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = RewindFixture(database, family, family_well)
    setup.broken("leaf")
    setup.start("family", 3)
    setup.failed()
    before = snapshot(database)
    seen: list[str] = []
    ordinary = rewinding._entities

    def failing(hub: Any, instance: Any, parts: Any) -> None:
        seen.append(instance.id)
        if len(seen) == 3:
            raise OSError("the power is out")
        ordinary(hub, instance, parts)

    monkeypatch.setattr(rewinding, "_entities", failing)
    with pytest.raises(grpc.RpcError):
        setup.rewind()
    assert snapshot(database) == before
    monkeypatch.undo()
    setup.rewind()
    assert setup.output() == [[["leaf", "well"], "well"], "well"]
    assert setup.runs == ["leaf"]
    setup.worker.stop()


def test_a_crash_in_the_middle_changes_nothing(restartable: Restartable) -> None:
    setup = RewindFixture(restartable.now, family, family_well)
    setup.broken("leaf")
    setup.start("family", 3)
    setup.failed()
    setup.worker.stop()
    before = snapshot(restartable.now)
    restartable.now.stop()
    with ModuleProcess("tests.sqlite_engine.rewind", restartable.path, "i") as process:
        assert process.process.wait(TIMEOUT) == -signal.SIGKILL
    again = RewindFixture(restartable.again(), family, family_well)
    assert snapshot(restartable.now) == before
    again.rewind()
    assert again.output() == [[["leaf", "well"], "well"], "well"]
    assert again.runs == ["leaf"]
    again.worker.stop()


def test_a_saga_hand_written_that_raises_its_failure_again_has_handled_it(database: Database) -> None:
    def saga(ctx: task.OrchestrationContext, _: Any) -> Steps:
        yield act(ctx, "reserve")
        try:
            yield act(ctx, "charge", 2)
        except task.TaskFailedError:
            yield act(ctx, "release")
            raise

    setup = RewindFixture(database, saga)
    setup.broken("charge")
    setup.start("saga")
    setup.failed()
    setup.refused("ended with that failure later: it handled the failure")
    assert setup.runs == []
    setup.worker.stop()


def test_the_engines_own_failure_loses_no_result(database: Database) -> None:
    remote = ProtocolClient(database)
    start(database, "work", "i")
    remote.turn(remote.take(), activity(1, "x"))
    remote.result(remote.take(), "precious")
    remote.turn(remote.take(), complete(2), complete(3))  # an answer that no worker may give
    assert state(database, "i").failureDetails.errorType == "InvalidOrchestratorResponse"
    call(database, "RewindInstance", pb.RewindInstanceRequest(instanceId="i"))
    item = remote.take()
    past = [each.WhichOneof("eventType") for each in item.orchestratorRequest.pastEvents]
    assert past == ["orchestratorStarted", "executionStarted", "taskScheduled"]
    assert kinds(item) == ["taskCompleted", "executionRewound"] or kinds(item) == ["executionRewound", "taskCompleted"]
    assert remote.nothing()


def test_an_instance_that_failed_before_its_first_turn_begins_again(database: Database) -> None:
    start(database, "work", "i", "given")
    instance = in_writer(database, lambda: database.hub.find("i"))
    failure = pb.TaskFailureDetails(errorType="E", errorMessage="broken")
    in_writer(database, lambda: database.hub.fail(instance, failure))
    for _ in range(2):
        call(database, "RewindInstance", pb.RewindInstanceRequest(instanceId="i"))
        in_writer(database, lambda: database.hub.fail(database.hub.find("i"), failure))
    call(database, "RewindInstance", pb.RewindInstanceRequest(instanceId="i"))
    item = ProtocolClient(database).take()
    assert not item.orchestratorRequest.pastEvents
    assert kinds(item) == ["executionStarted", *["executionRewound"] * 3]


def test_what_was_suspended_stays_so(database: Database) -> None:
    remote = ProtocolClient(database)
    start(database, "work", "i")
    remote.turn(remote.take(), activity(1, "x"))
    item = remote.take()
    call(database, "SuspendInstance", pb.SuspendRequest(instanceId="i"))
    in_writer(database, lambda: database.hub.fail(database.hub.find("i"), pb.TaskFailureDetails(errorType="E")))
    call(database, "RewindInstance", pb.RewindInstanceRequest(instanceId="i"))
    assert state(database, "i").orchestrationStatus == pb.ORCHESTRATION_STATUS_SUSPENDED
    remote.result(item, 1)
    call(database, "ResumeInstance", pb.ResumeRequest(instanceId="i"))
    taken = [remote.take()]
    if taken[0].HasField("activityRequest"):
        remote.result(taken[0], 1)
        taken.append(remote.take())
    assert "executionResumed" in kinds(taken[-1])


def test_a_refused_raise_leaves_no_trace(database: Database) -> None:
    remote = ProtocolClient(database)
    start(database, "work", "i")
    item = remote.take()
    late = begin(database, "RaiseEvent", pb.RaiseEventRequest(instanceId="i", name="late"))
    remote.turn(item, fail(1, "broken"))
    with pytest.raises(Rejection, match="has finished"):
        late.future.result(TIMEOUT)
    call(database, "RewindInstance", pb.RewindInstanceRequest(instanceId="i"))
    assert kinds(remote.take()) == ["executionStarted", "executionRewound"]


def test_a_child_started_by_the_failed_turn_is_waited_for(database: Database) -> None:
    remote = ProtocolClient(database)
    start(database, "parent", "p")
    remote.turn(remote.take(), child(1, "child", "p:1"), fail(2, "a bug"))
    item = remote.take()
    with pytest.raises(Rejection, match="'p:1', which it started as it failed, still runs"):
        call(database, "RewindInstance", pb.RewindInstanceRequest(instanceId="p"))
    remote.turn(item, complete(1))
    call(database, "RewindInstance", pb.RewindInstanceRequest(instanceId="p"))
    remote.turn(remote.take(), child(1, "child", "p:1"))
    assert remote.take().orchestratorRequest.instanceId == "p:1"
