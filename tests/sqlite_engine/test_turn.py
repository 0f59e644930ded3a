"""Turns: results of an orchestrator's answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from durabletask.internal import helpers
from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.sqlite_engine.database import Database
from bridge.sqlite_engine.hub.hub import MAX_REQUESTS
from bridge.sqlite_engine.hub.leases import ACTIVITY
from bridge.sqlite_engine.model.reply import Rejection
from bridge.sqlite_engine.model.values import Timestamp, due
from bridge.sqlite_engine.options import DatabaseOptions
from bridge.system.clock import SYSTEM
from tests.kit.protocol_client import (
    ProtocolClient,
    activity,
    again,
    begin,
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
from tests.sqlite_engine.conftest import Restartable, SteppedClock


def test_an_activity_runs_and_its_result_is_the_next_turns_news(database: Database) -> None:
    remote = ProtocolClient(database)
    start(database, "work", "a")
    remote.turn(remote.take(), activity(1, "charge", {"sum": 3}))
    task = remote.take()
    assert (task.activityRequest.name, task.activityRequest.taskId) == ("charge", 1)
    remote.result(task, "paid")
    item = remote.take()
    assert kinds(item) == ["taskCompleted"]
    past = [event.WhichOneof("eventType") for event in item.orchestratorRequest.pastEvents]
    assert past == ["orchestratorStarted", "executionStarted", "taskScheduled"]
    remote.turn(item, complete(2, "ok"))
    assert state(database, "a").output.value == '"ok"'


def test_a_result_is_recorded_once(database: Database) -> None:
    remote = ProtocolClient(database)
    start(database, "work", "a")
    remote.turn(remote.take(), activity(1, "charge"))
    task = remote.take()
    remote.result(task, 1)
    with pytest.raises(Rejection, match="no longer"):
        remote.result(task, 2)
    item = remote.take()
    assert [e.taskCompleted.result.value for e in item.orchestratorRequest.newEvents][1:] == ["1"]


def test_turn_times_increase_even_within_a_microsecond_and_across_generations(database: Database) -> None:
    remote = ProtocolClient(database)
    start(database, "work", "a")
    moments = []
    for number in range(20):
        item = remote.take()
        moments.append(item.orchestratorRequest.newEvents[0].timestamp.ToNanoseconds())
        remote.turn(item, again(1, number))
    assert moments == sorted(set(moments))


def test_timers_fire_in_order_and_not_before_their_time(database: Database) -> None:
    remote = ProtocolClient(database)
    start(database, "work", "a")
    began = SYSTEM.wall()
    remote.turn(remote.take(), timer(1, began + 120_000), timer(2, began + 40_000))
    fired: list[Any] = []
    while len(fired) < 2:
        item = remote.take()
        fired += [event.timerFired.timerId for event in item.orchestratorRequest.newEvents][1:]
        remote.turn(item)
    assert fired == [2, 1]
    assert SYSTEM.wall() >= began + 120_000


@pytest.mark.parametrize("nanos", [0, 1, 999, 1000, 123_456_789, 999_999_999])
def test_a_timer_keeps_its_nanoseconds_and_fires_not_before(database: Database, nanos: int) -> None:
    remote = ProtocolClient(database)
    start(database, "work", "a")
    moment = Timestamp(seconds=SYSTEM.wall() // 1_000_000 - 1, nanos=nanos)
    remote.turn(remote.take(), pb.OrchestratorAction(id=1, createTimer=pb.CreateTimerAction(fireAt=moment)))
    item = remote.take().orchestratorRequest
    assert item.pastEvents[-1].timerCreated.fireAt == moment
    assert (item.newEvents[1].timerFired.fireAt, item.newEvents[1].timerFired.timerId) == (moment, 1)
    assert item.newEvents[1].timestamp.ToNanoseconds() >= moment.ToNanoseconds()


def test_what_is_due_at_a_nanosecond_waits_for_it(database: Database) -> None:
    assert due(Timestamp(seconds=3, nanos=7_000)) == 3_000_007
    assert due(Timestamp(seconds=3, nanos=7_001)) == 3_000_008
    assert due(Timestamp(seconds=3, nanos=999_999_999)) == 4_000_000
    assert due(Timestamp(seconds=-1, nanos=1)) == -999_999
    assert due(Timestamp(seconds=2**60, nanos=-5)) == due(Timestamp(seconds=2**61, nanos=2**31 - 1)) - 999_999


def ids(database: Database, instance_id: str) -> list[tuple[str | None, int]]:
    chunks = call(database, "StreamInstanceHistory", pb.StreamInstanceHistoryRequest(instanceId=instance_id))
    return [(event.WhichOneof("eventType"), event.eventId) for chunk in chunks for event in chunk.events]


def test_events_of_a_history_have_the_ids_of_what_they_are_about(database: Database) -> None:
    remote = ProtocolClient(database)
    start(database, "work", "a")
    remote.turn(remote.take(), activity(1, "x"))
    remote.result(remote.take())
    remote.turn(remote.take(), again(2, "more"))
    remote.turn(remote.take(), timer(1, SYSTEM.wall()))
    remote.turn(remote.take(), complete(2))
    assert state(database, "a").orchestrationStatus == pb.ORCHESTRATION_STATUS_COMPLETED
    assert ids(database, "a") == [
        ("orchestratorStarted", -1), ("executionStarted", 0), ("timerCreated", 1),
        ("orchestratorStarted", -1), ("timerFired", -1), ("executionCompleted", 2),
    ]  # fmt: skip
    start(database, "work", "b")
    call(database, "TerminateInstance", pb.TerminateRequest(instanceId="b"))
    assert ids(database, "b") == [("executionStarted", 0), ("executionTerminated", -1), ("executionCompleted", -1)]


def test_a_child_answers_its_parent_and_a_failed_one_fails_its_task(database: Database) -> None:
    remote = ProtocolClient(database)
    start(database, "parent", "p")
    remote.turn(remote.take(), child(1, "child", "p:1"), child(2, "child", "p:2"))
    for _ in range(2):
        item = remote.take()
        link = item.orchestratorRequest.newEvents[1].executionStarted.parentInstance
        assert (link.orchestrationInstance.instanceId, link.name.value) == ("p", "parent")
        remote.turn(item, complete(1, "fine") if item.orchestratorRequest.instanceId == "p:1" else fail(1, "broken"))
    news: list[Any] = []
    while len(news) < 2:
        item = remote.take()
        news += list(item.orchestratorRequest.newEvents)[1:]
        remote.turn(item)
    by_kind = {event.WhichOneof("eventType"): event for event in news}
    assert by_kind["subOrchestrationInstanceCompleted"].subOrchestrationInstanceCompleted.result.value == '"fine"'
    assert (
        by_kind["subOrchestrationInstanceFailed"].subOrchestrationInstanceFailed.failureDetails.errorMessage == "broken"
    )


def test_continue_as_new_begins_anew_with_carried_events_before_those_that_came_meanwhile(database: Database) -> None:
    remote = ProtocolClient(database)
    start(database, "work", "a", 0, tags={"k": "v"})
    item = remote.take()
    first = item.orchestratorRequest.executionId.value
    # Answered at the end of the turn.
    late = begin(database, "RaiseEvent", pb.RaiseEventRequest(instanceId="a", name="later", input=text("2")))
    remote.turn(item, again(1, 1, helpers.new_event_raised_event("kept", "1")))
    late.future.result(20)
    item = remote.take()
    request = item.orchestratorRequest
    assert request.executionId.value != first
    assert len(request.pastEvents) == 0
    assert kinds(item) == ["executionStarted", "eventRaised", "eventRaised"]
    assert [event.eventRaised.name for event in request.newEvents][2:] == ["kept", "later"]
    assert request.newEvents[1].executionStarted.input.value == "1"
    assert dict(request.newEvents[1].executionStarted.tags) == {"k": "v"}


@pytest.fixture
def stepped(tmp_path: Path) -> Iterator[tuple[Database, SteppedClock]]:
    """Engine on a clock that the test steps."""
    clock = SteppedClock()
    found = Restartable(tmp_path / "stepped.db", DatabaseOptions(clock=clock))
    yield found.now, clock
    found.now.stop()


def test_what_belongs_to_an_earlier_generation_is_dropped(stepped: tuple[Database, SteppedClock]) -> None:
    database, clock = stepped
    remote = ProtocolClient(database)
    start(database, "work", "a")
    soon = clock.wall() + 3_600_000_000
    remote.turn(remote.take(), activity(1, "slow"), timer(2, soon), child(3, "child", "a:3"))
    got = {}
    for _ in range(2):
        item = remote.take()
        got[item.WhichOneof("request")] = item
    raise_event(database, "a", "go")
    remote.turn(remote.take(), again(4, "second"))
    second = remote.take()
    remote.turn(second, timer(5, soon + 1))
    remote.result(got["activityRequest"], "late")
    remote.turn(got["orchestratorRequest"], complete(1, "late"))
    clock.step(7200.0)
    item = remote.take()
    assert kinds(item) == ["timerFired"]
    assert item.orchestratorRequest.newEvents[1].timerFired.timerId == 5


def test_a_child_id_that_recurs_replaces_the_finished_child_and_is_refused_while_it_runs(database: Database) -> None:
    remote = ProtocolClient(database)
    start(database, "parent", "p", 0)
    remote.turn(remote.take(), child(1, "child", "p:0001", "one"))
    remote.turn(remote.take(), complete(1, "one"))
    remote.turn(remote.take(), again(2, 1))
    remote.turn(remote.take(), child(1, "child", "p:0001", "two"))
    running = remote.take()
    assert running.orchestratorRequest.newEvents[1].executionStarted.input.value == '"two"'
    raise_event(database, "p", "go")
    remote.turn(remote.take(), child(2, "child", "p:0001", "three"))
    item = remote.take()
    assert kinds(item) == ["subOrchestrationInstanceFailed"]
    failure = item.orchestratorRequest.newEvents[1].subOrchestrationInstanceFailed
    assert (failure.taskScheduledId, failure.failureDetails.errorType) == (2, "InstanceAlreadyExists")


def test_an_answer_that_no_orchestrator_may_give_fails_its_instance_clearly(database: Database) -> None:
    remote = ProtocolClient(database)
    start(database, "work", "a")
    remote.turn(remote.take(), complete(1), complete(2))
    received = state(database, "a")
    assert received.orchestrationStatus == pb.ORCHESTRATION_STATUS_FAILED
    assert "completes the orchestration twice" in received.failureDetails.errorMessage


def test_a_fan_out_of_thousands_completes(database: Database) -> None:
    remote = ProtocolClient(database, maxConcurrentActivityWorkItems=10_000)
    start(database, "work", "a")
    remote.turn(remote.take(), *[activity(number, "one") for number in range(1, 2001)])
    done = 0
    tasks = [remote.take() for _ in range(2000)]
    for task in tasks:
        remote.result(task, 1)
    while done < 2000:
        item = remote.take()
        done += len(kinds(item))
        remote.turn(item, *([complete(3000, done)] if done == 2000 else []))
    assert state(database, "a").output.value == "2000"


def test_inputs_of_many_waiting_activities_stay_on_disk(database: Database) -> None:
    filters = pb.WorkItemFilters(orchestrations=[pb.OrchestrationFilter(name="work")])
    turns = ProtocolClient(database, workItemFilters=filters)
    start(database, "work", "a")
    turns.turn(turns.take(), *[activity(number, "x", number) for number in range(1, MAX_REQUESTS + 501)])
    assert turns.nothing()
    assert len(database.hub.dispatcher.ready[ACTIVITY]) == MAX_REQUESTS + 500
    remote = ProtocolClient(database, maxConcurrentActivityWorkItems=10_000)
    items = [remote.take().activityRequest for _ in range(MAX_REQUESTS + 500)]
    assert all(item.input.value == str(item.taskId) for item in items)


def test_send_event_and_terminate_reach_other_instances(database: Database) -> None:
    remote = ProtocolClient(database)
    start(database, "receiver", "r")
    remote.turn(remote.take())
    start(database, "victim", "v")
    remote.turn(remote.take())
    start(database, "sender", "s")
    stop = pb.OrchestratorAction(id=2, terminateOrchestration=pb.TerminateOrchestrationAction(instanceId="v"))
    remote.turn(remote.take(), helpers.new_send_event_action(1, "r", "hello", "1"), stop, complete(3))
    item = remote.take()
    assert (item.orchestratorRequest.instanceId, kinds(item)) == ("r", ["eventRaised"])
    assert state(database, "v").orchestrationStatus == pb.ORCHESTRATION_STATUS_TERMINATED


def test_a_wait_is_answered_after_the_commit_and_only_then(database: Database) -> None:
    remote = ProtocolClient(database)
    start(database, "work", "a")
    wanted = pb.GetInstanceRequest(instanceId="a", getInputsAndOutputs=True)
    running = begin(database, "WaitForInstanceStart", wanted)
    finished = begin(database, "WaitForInstanceCompletion", wanted)
    remote.turn(remote.take(), activity(1, "x"))
    assert running.future.result(20).orchestrationState.orchestrationStatus == pb.ORCHESTRATION_STATUS_RUNNING
    assert not finished.future.done()
    remote.result(remote.take())
    remote.turn(remote.take(), complete(2, 5))
    assert finished.future.result(20).orchestrationState.output.value == "5"
    assert call(database, "WaitForInstanceCompletion", wanted).exists
