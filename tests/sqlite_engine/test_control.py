"""Suspend, resume, terminate, restart, rewind and purge."""

from __future__ import annotations

import grpc
import pytest
from durabletask.internal import helpers
from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.sqlite_engine.database import Database
from bridge.sqlite_engine.model.reply import Rejection
from bridge.sqlite_engine.model.values import Duration
from bridge.system.clock import SYSTEM
from tests.kit.protocol_client import (
    ProtocolClient,
    activity,
    call,
    child,
    complete,
    fail,
    kinds,
    raise_event,
    start,
    state,
    text,
    timer,
)
from tests.sqlite_engine.conftest import Restartable


def terminate(database: Database, instance_id: str, **fields: object) -> None:
    call(database, "TerminateInstance", pb.TerminateRequest(instanceId=instance_id, **fields))  # type: ignore[arg-type]


def purge(database: Database, **fields: object) -> int:
    response = call(database, "PurgeInstances", pb.PurgeInstancesRequest(**fields))  # type: ignore[arg-type]
    assert response.isComplete.value
    return int(response.deletedInstanceCount)


def test_a_suspended_instance_keeps_its_events_until_it_is_resumed(database: Database) -> None:
    remote = ProtocolClient(database)
    start(database, "work", "a")
    remote.turn(remote.take(), activity(1, "x"))
    task = remote.take()
    call(database, "SuspendInstance", pb.SuspendRequest(instanceId="a", reason=text("wait")))
    assert state(database, "a").orchestrationStatus == pb.ORCHESTRATION_STATUS_SUSPENDED
    remote.result(task, 1)
    raise_event(database, "a", "e")
    assert remote.nothing()
    call(database, "ResumeInstance", pb.ResumeRequest(instanceId="a"))
    assert state(database, "a").orchestrationStatus == pb.ORCHESTRATION_STATUS_RUNNING
    assert kinds(remote.take()) == ["executionSuspended", "taskCompleted", "eventRaised", "executionResumed"]


def test_an_instance_suspended_before_its_first_turn_is_pending_again_when_resumed(database: Database) -> None:
    start(database, "work", "a")
    call(database, "SuspendInstance", pb.SuspendRequest(instanceId="a"))
    remote = ProtocolClient(database)
    assert remote.nothing()
    call(database, "ResumeInstance", pb.ResumeRequest(instanceId="a"))
    assert kinds(remote.take())[0] == "executionStarted"


def test_termination_needs_no_worker_and_takes_its_children_along(database: Database) -> None:
    remote = ProtocolClient(database)
    start(database, "parent", "p")
    remote.turn(remote.take(), child(1, "child", "p:1"))
    remote.turn(remote.take(), child(1, "grandchild", "p:1:1"), activity(2, "never"))
    remote.leave()
    start(database, "lonely", "l")
    terminate(database, "p", output=text('"stop"'), recursive=True)
    for instance_id in ("p", "p:1", "p:1:1"):
        assert state(database, instance_id).orchestrationStatus == pb.ORCHESTRATION_STATUS_TERMINATED
    assert state(database, "p").output.value == '"stop"'
    others = ProtocolClient(database)
    assert others.take().orchestratorRequest.instanceId == "l"
    assert others.nothing()


def test_termination_alone_leaves_children_and_tells_the_parent(database: Database) -> None:
    remote = ProtocolClient(database)
    start(database, "parent", "p")
    remote.turn(remote.take(), child(1, "child", "p:1"))
    item = remote.take()
    terminate(database, "p:1")
    with pytest.raises(Rejection, match="no longer"):
        remote.turn(item, complete(1))
    item = remote.take()
    assert kinds(item) == ["subOrchestrationInstanceFailed"]
    remote.turn(item, child(2, "child", "p:2"))
    terminate(database, "p")
    assert state(database, "p:2").orchestrationStatus == pb.ORCHESTRATION_STATUS_PENDING


def test_unknown_instances(database: Database) -> None:
    terminate(database, "nobody")
    for method, request in (
        ("SuspendInstance", pb.SuspendRequest(instanceId="nobody")),
        ("ResumeInstance", pb.ResumeRequest(instanceId="nobody")),
        ("RestartInstance", pb.RestartInstanceRequest(instanceId="nobody")),
        ("RewindInstance", pb.RewindInstanceRequest(instanceId="nobody")),
    ):
        with pytest.raises(Rejection) as refused:
            call(database, method, request)
        assert refused.value.code is grpc.StatusCode.NOT_FOUND
    assert purge(database, instanceId="nobody") == 0


def test_restart_begins_anew_under_the_same_or_a_new_id(database: Database) -> None:
    remote = ProtocolClient(database)
    start(database, "work", "a", {"x": 1}, tags={"k": "v"})
    with pytest.raises(Rejection, match="terminal"):
        call(database, "RestartInstance", pb.RestartInstanceRequest(instanceId="a"))
    request = pb.RestartInstanceRequest(instanceId="a", restartWithNewInstanceId=True)
    copy = call(database, "RestartInstance", request).instanceId
    first, second = remote.take(), remote.take()
    assert [first.orchestratorRequest.instanceId, second.orchestratorRequest.instanceId] == ["a", copy]
    remote.turn(first, complete(1))
    same = call(database, "RestartInstance", pb.RestartInstanceRequest(instanceId="a")).instanceId
    assert same == "a"
    item = remote.take()
    assert item.orchestratorRequest.newEvents[1].executionStarted.input.value == '{"x": 1}'
    assert dict(item.orchestratorRequest.newEvents[1].executionStarted.tags) == {"k": "v"}
    remote.turn(item, complete(1))
    other = call(database, "RestartInstance", request).instanceId
    assert other != "a"
    assert remote.take().orchestratorRequest.instanceId == other


def test_a_rewound_instance_gets_going_all_that_it_still_waits_for(database: Database) -> None:
    remote = ProtocolClient(database)
    start(database, "work", "a")
    remote.turn(remote.take(), activity(1, "good"), activity(2, "waits"), timer(3, SYSTEM.wall() + 1000))
    tasks = {}
    for _ in range(3):
        item = remote.take()
        if item.HasField("activityRequest"):
            tasks[item.activityRequest.name] = item
        else:
            remote.turn(item)  # the timer has fired
    remote.result(tasks["good"], 1)
    remote.turn(remote.take(), fail(9, "broken"))
    assert state(database, "a").orchestrationStatus == pb.ORCHESTRATION_STATUS_FAILED
    call(database, "RewindInstance", pb.RewindInstanceRequest(instanceId="a", reason=text("fixed")))
    item = remote.take()
    assert kinds(item) == ["executionRewound", "taskCompleted"]
    past = [event.WhichOneof("eventType") for event in item.orchestratorRequest.pastEvents]
    assert past[-2:] == ["orchestratorStarted", "timerFired"]
    remote.turn(item)
    with pytest.raises(Rejection, match="failed state"):
        call(database, "RewindInstance", pb.RewindInstanceRequest(instanceId="a"))
    assert remote.nothing(), "the activity that a worker has in hand is not handed out once more"
    remote.result(tasks["waits"], 2)
    remote.turn(remote.take(), complete(10, "ok"))
    assert state(database, "a").output.value == '"ok"'


def serve(remote: ProtocolClient, broken: set[str]) -> list[str]:
    """Work as an orchestrator `p` with two activities and a child until it ends. Returns the activities that ran.

    The orchestrator requests the results that its history does not contain. It ends when all are there; with the first
    failure, if there is one.
    """
    wanted = {
        "p": {1: activity(1, "good"), 2: activity(2, "bad"), 3: child(3, "child", "p:1")},
        "p:1": {1: activity(1, "deep")},
    }
    ran = []
    while True:
        item = remote.take()
        if item.HasField("activityRequest"):
            name = item.activityRequest.name
            ran.append(name)
            remote.result(item, 1, pb.TaskFailureDetails(errorType="E", errorMessage=name) if name in broken else None)
            continue
        request = item.orchestratorRequest
        events = [*request.pastEvents, *request.newEvents]
        asked = {event.eventId for event in events if event.WhichOneof("eventType") in ASKING}
        missing = [action for number, action in wanted[request.instanceId].items() if number not in asked]
        answers = [event.WhichOneof("eventType") for event in events if event.WhichOneof("eventType") in ANSWERING]
        if missing or len(answers) < len(asked):
            remote.turn(item, *missing)
            continue
        failures = [failure_of(event) for event in events if event.WhichOneof("eventType") in FAILING]
        remote.turn(item, failed(9, failures[0]) if failures else complete(9, "ok"))
        if request.instanceId == "p":
            return ran


def failure_of(event: pb.HistoryEvent) -> pb.TaskFailureDetails:
    if event.HasField("taskFailed"):
        return event.taskFailed.failureDetails
    return event.subOrchestrationInstanceFailed.failureDetails


def failed(number: int, cause: pb.TaskFailureDetails) -> pb.OrchestratorAction:
    """Return the final action of an orchestrator that did not catch a failed step."""
    details = pb.TaskFailureDetails(errorType="TaskFailedError", errorMessage="a step failed", innerFailure=cause)
    return helpers.new_complete_orchestration_action(number, pb.ORCHESTRATION_STATUS_FAILED, None, details)


FAILING = ("taskFailed", "subOrchestrationInstanceFailed")
ASKING = ("taskScheduled", "subOrchestrationInstanceCreated")
ANSWERING = (
    "taskCompleted", "taskFailed", "subOrchestrationInstanceCompleted", "subOrchestrationInstanceFailed",
)  # fmt: skip


def test_what_failed_is_done_again_down_to_the_children_and_what_went_well_is_not(restartable: Restartable) -> None:
    database = restartable.now
    remote = ProtocolClient(database)
    start(database, "parent", "p")
    assert sorted(serve(remote, {"bad", "deep"})) == ["bad", "deep", "good"]
    before = {each: state(database, each) for each in ("p", "p:1")}
    assert {each.orchestrationStatus for each in before.values()} == {pb.ORCHESTRATION_STATUS_FAILED}
    call(database, "RewindInstance", pb.RewindInstanceRequest(instanceId="p", reason=text("fixed")))
    # No part of it is only in a worker or in memory.
    database = restartable.again()
    for each, old in before.items():
        now_ = state(database, each)
        assert now_.orchestrationStatus == pb.ORCHESTRATION_STATUS_RUNNING
        assert now_.executionId.value != old.executionId.value
        assert not now_.HasField("failureDetails")
    assert sorted(serve(ProtocolClient(database), set())) == ["bad", "deep"]
    assert state(database, "p").output.value == '"ok"'
    assert state(database, "p:1").output.value == '"ok"'


def test_what_starts_and_finishes_is_told_after_the_commit(database: Database) -> None:
    received: list[tuple[list[str], list[str]]] = []
    database.hub.watch_runs(
        lambda finished, started: received.append((list(finished), list(started))) if finished or started else None
    )
    start(database, "work", "a")
    remote = ProtocolClient(database)
    remote.turn(remote.take(), fail(1, "bad"))
    assert state(database, "a").orchestrationStatus == pb.ORCHESTRATION_STATUS_FAILED  # committed, not with the next
    call(database, "RewindInstance", pb.RewindInstanceRequest(instanceId="a"))
    terminate(database, "a")
    call(database, "RestartInstance", pb.RestartInstanceRequest(instanceId="a"))
    terminate(database, "a")
    assert received == [
        ([], ["a"]), (["a"], []),
        ([], ["a"]), (["a"], []),
        ([], ["a"]), (["a"], []),
    ]  # fmt: skip


def test_a_history_that_a_worker_has_rewritten_is_taken(database: Database) -> None:
    remote = ProtocolClient(database)
    start(database, "work", "a")
    remote.turn(remote.take(), activity(1, "x"))
    remote.result(remote.take(), 1)
    item = remote.take()
    kept = list(item.orchestratorRequest.pastEvents)
    rewind = pb.OrchestratorAction(id=-1, rewindOrchestration=pb.RewindOrchestrationAction(newHistory=kept))
    remote.turn(item, rewind)
    items = {item.WhichOneof("request"): item for item in (remote.take(), remote.take())}
    assert items["activityRequest"].activityRequest.name == "x"
    assert kinds(items["orchestratorRequest"]) == ["genericEvent"]


def test_purge_takes_finished_instances_only_and_their_children_when_told(database: Database) -> None:
    remote = ProtocolClient(database)
    start(database, "parent", "p")
    assert purge(database, instanceId="p") == 0
    remote.turn(remote.take(), child(1, "child", "p:1"))
    remote.turn(remote.take(), complete(1))
    remote.turn(remote.take(), complete(2))
    assert purge(database, instanceId="p", recursive=True) == 2
    request = pb.GetInstanceRequest(instanceId="p:1")
    assert not call(database, "GetInstance", request).exists
    start(database, "parent", "p")
    assert state(database, "p").orchestrationStatus == pb.ORCHESTRATION_STATUS_PENDING


def test_purge_by_filter_goes_in_steps_and_counts_all(database: Database) -> None:
    remote = ProtocolClient(database)
    for number in range(450):
        start(database, "work", f"w-{number}")
    for number in range(430):
        remote.turn(remote.take(), complete(1) if number % 2 else fail(1, "x"))
    endless = Duration(seconds=2**63 - 1, nanos=2**31 - 1)
    only = pb.PurgeInstanceFilter(timeout=endless, runtimeStatus=[pb.ORCHESTRATION_STATUS_COMPLETED])
    assert purge(database, purgeInstanceFilter=only) == 215
    none = Duration(seconds=-(2**63), nanos=-(2**31))
    assert purge(database, purgeInstanceFilter=pb.PurgeInstanceFilter(timeout=none)) == 215
    assert purge(database, instanceBatch=pb.InstanceBatch(instanceIds=["w-1", "w-449"])) == 0
