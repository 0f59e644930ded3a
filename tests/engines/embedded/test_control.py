"""Suspend, resume, terminate, restart, rewind, purge."""

from __future__ import annotations

import grpc
import pytest
from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.engines.embedded.clock import now
from bridge.engines.embedded.database import Database
from bridge.engines.embedded.rejection import Rejection
from tests.engines.embedded.hands import (
    Hands,
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


def terminate(database: Database, instance_id: str, **fields: object) -> None:
    call(database, "TerminateInstance", pb.TerminateRequest(instanceId=instance_id, **fields))  # type: ignore[arg-type]


def purge(database: Database, **fields: object) -> int:
    response = call(database, "PurgeInstances", pb.PurgeInstancesRequest(**fields))  # type: ignore[arg-type]
    assert response.isComplete.value
    return int(response.deletedInstanceCount)


def test_a_suspended_instance_keeps_its_events_until_it_is_resumed(database: Database) -> None:
    hands = Hands(database)
    start(database, "work", "a")
    hands.turn(hands.take(), activity(1, "x"))
    task = hands.take()
    call(database, "SuspendInstance", pb.SuspendRequest(instanceId="a", reason=text("wait")))
    assert state(database, "a").orchestrationStatus == pb.ORCHESTRATION_STATUS_SUSPENDED
    hands.result(task, 1)
    raise_event(database, "a", "e")
    assert hands.nothing()
    call(database, "ResumeInstance", pb.ResumeRequest(instanceId="a"))
    assert state(database, "a").orchestrationStatus == pb.ORCHESTRATION_STATUS_RUNNING
    assert kinds(hands.take()) == ["executionSuspended", "taskCompleted", "eventRaised", "executionResumed"]


def test_an_instance_suspended_before_its_first_turn_is_pending_again_when_resumed(database: Database) -> None:
    start(database, "work", "a")
    call(database, "SuspendInstance", pb.SuspendRequest(instanceId="a"))
    hands = Hands(database)
    assert hands.nothing()
    call(database, "ResumeInstance", pb.ResumeRequest(instanceId="a"))
    assert kinds(hands.take())[0] == "executionStarted"


def test_termination_needs_no_worker_and_takes_its_children_along(database: Database) -> None:
    hands = Hands(database)
    start(database, "parent", "p")
    hands.turn(hands.take(), child(1, "child", "p:1"))
    hands.turn(hands.take(), child(1, "grandchild", "p:1:1"), activity(2, "never"))
    hands.leave()
    start(database, "lonely", "l")
    terminate(database, "p", output=text('"stop"'), recursive=True)
    for instance_id in ("p", "p:1", "p:1:1"):
        assert state(database, instance_id).orchestrationStatus == pb.ORCHESTRATION_STATUS_TERMINATED
    assert state(database, "p").output.value == '"stop"'
    others = Hands(database)
    assert others.take().orchestratorRequest.instanceId == "l"
    assert others.nothing()


def test_termination_alone_leaves_children_and_tells_the_parent(database: Database) -> None:
    hands = Hands(database)
    start(database, "parent", "p")
    hands.turn(hands.take(), child(1, "child", "p:1"))
    item = hands.take()
    terminate(database, "p:1")
    with pytest.raises(Rejection, match="no longer"):
        hands.turn(item, complete(1))
    item = hands.take()
    assert kinds(item) == ["subOrchestrationInstanceFailed"]
    hands.turn(item, child(2, "child", "p:2"))
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
    hands = Hands(database)
    start(database, "work", "a", {"x": 1}, tags={"k": "v"})
    with pytest.raises(Rejection, match="terminal"):
        call(database, "RestartInstance", pb.RestartInstanceRequest(instanceId="a"))
    request = pb.RestartInstanceRequest(instanceId="a", restartWithNewInstanceId=True)
    copy = call(database, "RestartInstance", request).instanceId
    first, second = hands.take(), hands.take()
    assert [first.orchestratorRequest.instanceId, second.orchestratorRequest.instanceId] == ["a", copy]
    hands.turn(first, complete(1))
    same = call(database, "RestartInstance", pb.RestartInstanceRequest(instanceId="a")).instanceId
    assert same == "a"
    item = hands.take()
    assert item.orchestratorRequest.newEvents[1].executionStarted.input.value == '{"x": 1}'
    assert dict(item.orchestratorRequest.newEvents[1].executionStarted.tags) == {"k": "v"}
    hands.turn(item, complete(1))
    other = call(database, "RestartInstance", request).instanceId
    assert other != "a"
    assert hands.take().orchestratorRequest.instanceId == other


def test_a_rewound_instance_gets_going_all_that_it_still_waits_for(database: Database) -> None:
    hands = Hands(database)
    start(database, "work", "a")
    hands.turn(hands.take(), activity(1, "good"), activity(2, "waits"), timer(3, now() + 1000))
    tasks = {}
    while len(tasks) < 2:
        item = hands.take()
        if item.HasField("activityRequest"):
            tasks[item.activityRequest.name] = item
        else:
            hands.turn(item)
    hands.turn(hands.take()) if not hands.nothing() else None
    hands.result(tasks["good"], 1)
    hands.turn(hands.take(), fail(9, "broken"))
    assert state(database, "a").orchestrationStatus == pb.ORCHESTRATION_STATUS_FAILED
    call(database, "RewindInstance", pb.RewindInstanceRequest(instanceId="a", reason=text("fixed")))
    item = hands.take()
    assert kinds(item) == ["executionRewound"]
    request = item.orchestratorRequest
    kept = [event for event in request.pastEvents if not event.HasField("executionCompleted")]
    rewind = pb.OrchestratorAction(id=-1, rewindOrchestration=pb.RewindOrchestrationAction(newHistory=kept))
    hands.turn(item, rewind)
    items = {}
    for _ in range(2):
        item = hands.take()
        items[item.WhichOneof("request")] = item
    assert items["activityRequest"].activityRequest.name == "waits"
    assert kinds(items["orchestratorRequest"]) == ["genericEvent"]
    hands.turn(items["orchestratorRequest"])
    with pytest.raises(Rejection, match="failed state"):
        call(database, "RewindInstance", pb.RewindInstanceRequest(instanceId="a"))
    hands.result(items["activityRequest"], 2)
    hands.turn(hands.take(), complete(10, "ok"))
    assert state(database, "a").output.value == '"ok"'


def test_purge_takes_finished_instances_only_and_their_children_when_told(database: Database) -> None:
    hands = Hands(database)
    start(database, "parent", "p")
    assert purge(database, instanceId="p") == 0
    hands.turn(hands.take(), child(1, "child", "p:1"))
    hands.turn(hands.take(), complete(1))
    hands.turn(hands.take(), complete(2))
    assert purge(database, instanceId="p", recursive=True) == 2
    request = pb.GetInstanceRequest(instanceId="p:1")
    assert not call(database, "GetInstance", request).exists
    start(database, "parent", "p")
    assert state(database, "p").orchestrationStatus == pb.ORCHESTRATION_STATUS_PENDING


def test_purge_by_filter_goes_in_steps_and_counts_all(database: Database) -> None:
    hands = Hands(database)
    for number in range(450):
        start(database, "work", f"w-{number}")
    for number in range(430):
        hands.turn(hands.take(), complete(1) if number % 2 else fail(1, "x"))
    only = pb.PurgeInstanceFilter(runtimeStatus=[pb.ORCHESTRATION_STATUS_COMPLETED])
    assert purge(database, purgeInstanceFilter=only) == 215
    assert purge(database, purgeInstanceFilter=pb.PurgeInstanceFilter()) == 215
    assert purge(database, instanceBatch=pb.InstanceBatch(instanceIds=["w-1", "w-449"])) == 0
