"""Restarts find all pending work. (Kills at random moments: test_crash.)"""

from __future__ import annotations

import time

import pytest
from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.sqlite_engine.model.reply import Rejection
from bridge.sqlite_engine.model.values import timestamp
from bridge.sqlite_engine.options import DatabaseOptions
from bridge.system.clock import SYSTEM
from tests.kit.protocol_client import (
    ProtocolClient,
    activity,
    call,
    child,
    complete,
    kinds,
    raise_event,
    signal,
    start,
    state,
    timer,
)
from tests.sqlite_engine.conftest import Restartable, SteppedClock
from tests.sqlite_engine.test_entity import calling, entities, locking, operations


def test_pending_turns_activities_and_operations_are_handed_out_again(restartable: Restartable) -> None:
    remote = ProtocolClient(restartable.now)
    start(restartable.now, "work", "fresh")
    start(restartable.now, "work", "waits")
    items = [remote.take(), remote.take()]
    waits = next(item for item in items if item.orchestratorRequest.instanceId == "waits")
    remote.turn(waits, activity(1, "x", {"big": "y" * 1000}))
    remote.take()
    signal(restartable.now, "@c@x", "add", 1)
    remote.take()
    remote = ProtocolClient(restartable.again())
    found = {item.WhichOneof("request"): item for item in (remote.take(), remote.take(), remote.take())}
    assert found["orchestratorRequest"].orchestratorRequest.instanceId == "fresh"
    assert found["activityRequest"].activityRequest.input.value == '{"big": "' + "y" * 1000 + '"}'
    assert operations(found["entityRequestV2"]) == ["add"]
    remote.result(found["activityRequest"], 7)
    item = remote.take()
    assert len(item.orchestratorRequest.pastEvents) == 3
    remote.turn(item, complete(2, "ok"))
    assert state(restartable.again(), "waits").output.value == '"ok"'


def test_timers_starts_and_signals_that_came_due_meanwhile_fire_at_once(restartable: Restartable) -> None:
    remote = ProtocolClient(restartable.now)
    start(restartable.now, "work", "timed")
    due = SYSTEM.wall() + 100_000
    remote.turn(remote.take(), timer(1, due))
    start(restartable.now, "work", "later", scheduledStartTimestamp=timestamp(due))
    signal(restartable.now, "@c@x", "later", scheduledTime=timestamp(due))
    restartable.now.stop()
    time.sleep(0.15)
    remote = ProtocolClient(restartable.again())
    found = [remote.take() for _ in range(3)]
    turns = [item for item in found if item.HasField("orchestratorRequest")]
    by_id = {item.orchestratorRequest.instanceId: kinds(item) for item in turns}
    assert by_id == {"timed": ["timerFired"], "later": ["executionStarted"]}


def test_events_suspension_children_and_locks_survive(restartable: Restartable) -> None:
    remote = ProtocolClient(restartable.now)
    start(restartable.now, "parent", "p")
    remote.turn(remote.take(), child(1, "child", "p:1"), locking(2, "s", "@c@x"))
    items = {item.orchestratorRequest.instanceId: item for item in (remote.take(), remote.take())}
    remote.turn(items["p"], calling(3, "@c@x", "inside", "r"))
    call(restartable.now, "SuspendInstance", pb.SuspendRequest(instanceId="p"))
    raise_event(restartable.now, "p", "e", 1)
    remote = ProtocolClient(restartable.again())
    found = {item.WhichOneof("request"): item for item in (remote.take(), remote.take())}
    assert found["orchestratorRequest"].orchestratorRequest.instanceId == "p:1"
    assert operations(found["entityRequestV2"]) == ["inside"]
    (locked,) = entities(restartable.now, includeTransient=True)
    assert locked.lockedBy.value == "p"
    remote.turn(found["orchestratorRequest"], complete(1, "child"))
    assert remote.nothing()
    assert state(restartable.now, "p").orchestrationStatus == pb.ORCHESTRATION_STATUS_SUSPENDED
    database = restartable.again()
    call(database, "ResumeInstance", pb.ResumeRequest(instanceId="p"))
    remote = ProtocolClient(database)
    found = {item.WhichOneof("request"): item for item in (remote.take(), remote.take())}
    news = kinds(found["orchestratorRequest"])
    assert news == ["executionSuspended", "eventRaised", "subOrchestrationInstanceCompleted", "executionResumed"]
    remote.turn(found["orchestratorRequest"], complete(9))
    assert state(database, "p").orchestrationStatus == pb.ORCHESTRATION_STATUS_COMPLETED
    assert not any(each.HasField("lockedBy") for each in entities(database, includeTransient=True))


def test_turn_times_increase_across_a_start_over(restartable: Restartable) -> None:
    remote = ProtocolClient(restartable.now)
    start(restartable.now, "work", "a")
    first = remote.take()
    remote.turn(first, activity(1, "x"))
    remote = ProtocolClient(restartable.again())
    remote.result(remote.take(), 1)
    second = remote.take()
    moments = [item.orchestratorRequest.newEvents[0].timestamp.ToNanoseconds() for item in (first, second)]
    assert moments[0] < moments[1]


def test_finished_instances_are_read_from_the_file(restartable: Restartable) -> None:
    remote = ProtocolClient(restartable.now)
    start(restartable.now, "work", "a", {"x": 1})
    remote.turn(remote.take(), complete(1, "ok"), customStatus=None)
    database = restartable.again()
    received = state(database, "a")
    assert (received.input.value, received.output.value) == ('{"x": 1}', '"ok"')
    assert len(database.hub.instances) == 0


def test_an_activity_that_is_done_is_not_handed_out_again(restartable: Restartable) -> None:
    remote = ProtocolClient(restartable.now)
    start(restartable.now, "work", "a")
    remote.turn(remote.take(), activity(1, "x"))
    remote.result(remote.take(), 1)
    assert kinds(remote.take()) == ["taskCompleted"]
    remote = ProtocolClient(restartable.again())
    item = remote.take()
    assert kinds(item) == ["taskCompleted"]
    assert remote.nothing()


def test_turn_times_increase_when_an_id_is_reused_and_the_clock_was_set_back(restartable: Restartable) -> None:
    clock = SteppedClock()
    restartable.options = DatabaseOptions(clock=clock)
    restartable.again()
    clock.step(3600)
    remote = ProtocolClient(restartable.now)
    start(restartable.now, "work", "a")
    first = remote.take()
    remote.turn(first, complete(1))
    clock.step(-3600)
    database = restartable.again()
    call(database, "RestartInstance", pb.RestartInstanceRequest(instanceId="a"))
    second = ProtocolClient(database).take()
    moments = [item.orchestratorRequest.newEvents[0].timestamp.ToNanoseconds() for item in (first, second)]
    assert moments[0] < moments[1]


def test_a_result_from_before_a_restart_is_not_taken_for_that_of_other_work(restartable: Restartable) -> None:
    """Each start of the engine has completion tokens of its own."""
    remote = ProtocolClient(restartable.now)
    for name in ("a", "b"):
        start(restartable.now, "work", name)
    items = {item.orchestratorRequest.instanceId: item for item in (remote.take(), remote.take())}
    remote.turn(items["a"], activity(1, "x"))
    old = remote.take()
    restarted = restartable.again()
    remote = ProtocolClient(restarted)
    taken = [remote.take(), remote.take()]
    tokens = {item.completionToken for item in taken}
    assert old.completionToken not in tokens
    assert not tokens & {item.completionToken for item in items.values()}
    late = pb.ActivityResponse(instanceId="a", taskId=1, completionToken=old.completionToken)
    with pytest.raises(Rejection, match="no longer"):
        call(restarted, "CompleteActivityTask", late)
