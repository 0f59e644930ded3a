"""Starts of instances."""

from __future__ import annotations

import time

import grpc
import pytest
from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.sqlite_engine.database import Database
from bridge.sqlite_engine.model import instance
from bridge.sqlite_engine.model.reply import Rejection
from bridge.sqlite_engine.model.values import timestamp
from bridge.system.clock import SYSTEM
from tests.kit.protocol_client import ProtocolClient, activity, begin, call, child, complete, kinds, start, state, text
from tests.kit.waiting import TIMEOUT

PENDING_TOO = [pb.ORCHESTRATION_STATUS_PENDING, pb.ORCHESTRATION_STATUS_TERMINATED]
RUNNING = pb.ORCHESTRATION_STATUS_RUNNING
FINISHED = [pb.ORCHESTRATION_STATUS_COMPLETED, pb.ORCHESTRATION_STATUS_FAILED]


def test_first_turn_carries_all_that_was_said_at_the_start(database: Database) -> None:
    trace = pb.TraceContext(traceParent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    start(database, "work", "a", {"x": 1}, version=text("1.2"), tags={"team": "blue"}, parentTraceContext=trace)
    item = ProtocolClient(database).take()
    started = item.orchestratorRequest.newEvents[1].executionStarted
    assert (started.name, started.version.value, started.input.value) == ("work", "1.2", '{"x": 1}')
    assert dict(started.tags) == {"team": "blue"}
    assert started.parentTraceContext == trace
    assert started.orchestrationInstance.instanceId == "a"
    assert started.orchestrationInstance.executionId.value
    received = state(database, "a")
    assert (received.version.value, dict(received.tags), received.executionId.value) == (
        "1.2",
        {"team": "blue"},
        started.orchestrationInstance.executionId.value,
    )


def test_an_id_that_is_taken_is_refused_in_one_group_and_across_groups(database: Database) -> None:
    start(database, "work", "a")
    with pytest.raises(Rejection) as refused:
        start(database, "work", "a")
    assert refused.value.code is grpc.StatusCode.ALREADY_EXISTS


def ended(database: Database, remote: ProtocolClient, instance_id: str, status: int) -> None:
    start(database, "work", instance_id, "first")
    item = remote.take()
    if status == pb.ORCHESTRATION_STATUS_TERMINATED:
        call(database, "TerminateInstance", pb.TerminateRequest(instanceId=instance_id))
    else:
        remote.turn(item, complete(1, "done", status))
    assert state(database, instance_id).orchestrationStatus == status


def known(database: Database) -> ProtocolClient:
    """Worker that has completed a turn, so that the engine knows that it sends tokens."""
    remote = ProtocolClient(database)
    start(database, "work", "first")
    remote.turn(remote.take(), complete(1, "done"))
    return remote


@pytest.mark.parametrize("status", sorted(instance.FINISHED))
def test_a_start_without_a_policy_replaces_a_finished_instance(database: Database, status: int) -> None:
    remote = known(database)
    ended(database, remote, "a", status)
    start(database, "work", "a", "second")
    item = remote.take()
    assert len(item.orchestratorRequest.pastEvents) == 0
    remote.turn(item, complete(1, "again"))
    found = state(database, "a")
    assert (found.input.value, found.output.value) == ('"second"', '"again"')


@pytest.mark.parametrize("policy", [None, pb.OrchestrationIdReusePolicy()])
def test_a_start_without_a_policy_leaves_an_instance_that_goes_on(
    database: Database, policy: pb.OrchestrationIdReusePolicy | None
) -> None:
    remote = ProtocolClient(database)
    for instance_id in ("pending", "suspended", "running"):
        start(database, "work", instance_id)
    call(database, "SuspendInstance", pb.SuspendRequest(instanceId="suspended"))
    for _ in range(2):
        item = remote.take()
        if item.orchestratorRequest.instanceId == "running":
            remote.turn(item, activity(1, "x"))
    for instance_id in ("pending", "suspended", "running"):
        with pytest.raises(Rejection) as refused:
            start(database, "work", instance_id, orchestrationIdReusePolicy=policy)
        assert refused.value.code is grpc.StatusCode.ALREADY_EXISTS


@pytest.mark.parametrize("status", sorted(instance.FINISHED))
def test_an_empty_policy_keeps_every_instance(database: Database, status: int) -> None:
    ended(database, ProtocolClient(database), "a", status)
    with pytest.raises(Rejection) as refused:
        start(database, "work", "a", orchestrationIdReusePolicy=pb.OrchestrationIdReusePolicy())
    assert refused.value.code is grpc.StatusCode.ALREADY_EXISTS
    assert state(database, "a").input.value == '"first"'


@pytest.mark.parametrize("running", [pb.ORCHESTRATION_STATUS_PENDING, RUNNING, pb.ORCHESTRATION_STATUS_SUSPENDED])
@pytest.mark.parametrize("there", [True, False])
def test_a_policy_that_could_not_be_kept_is_refused(database: Database, running: int, there: bool) -> None:
    if there:
        start(database, "work", "a", 1)
    policy = pb.OrchestrationIdReusePolicy(replaceableStatus=[*FINISHED, running])  # type: ignore[list-item]
    with pytest.raises(Rejection, match="cannot exclude 'Terminated' while also allowing reuse of running") as refused:
        start(database, "work", "a", 2, orchestrationIdReusePolicy=policy)
    assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT
    policy.replaceableStatus.append(pb.ORCHESTRATION_STATUS_TERMINATED)
    start(database, "work", "b", 2, orchestrationIdReusePolicy=policy)


def test_a_policy_lets_a_finished_instance_be_replaced_and_nothing_else(database: Database) -> None:
    remote = ProtocolClient(database)
    policy = pb.OrchestrationIdReusePolicy(replaceableStatus=FINISHED)
    start(database, "work", "a", 1)
    with pytest.raises(Rejection):
        start(database, "work", "a", 2, orchestrationIdReusePolicy=policy)
    first = remote.take()
    remote.turn(first, complete(1, "done"))
    start(database, "work", "a", 2, orchestrationIdReusePolicy=policy)
    assert state(database, "a").input.value == "2"
    second = remote.take()
    assert len(second.orchestratorRequest.pastEvents) == 0
    moments = [item.orchestratorRequest.newEvents[0].timestamp.ToMicroseconds() for item in (first, second)]
    assert moments[0] < moments[1]


def test_a_running_instance_is_replaced_when_the_policy_says_so_and_its_worker_is_late(database: Database) -> None:
    remote = ProtocolClient(database)
    start(database, "work", "a", 1)
    item = remote.take()
    policy = pb.OrchestrationIdReusePolicy(replaceableStatus=PENDING_TOO)
    start(database, "work", "a", 2, orchestrationIdReusePolicy=policy)
    with pytest.raises(Rejection, match="no longer"):
        remote.turn(item, complete(1, "old"))
    remote.turn(remote.take(), complete(1, "new"))
    assert state(database, "a").output.value == '"new"'


def test_the_parent_of_a_running_child_that_is_replaced_hears_of_its_end(database: Database) -> None:
    remote = ProtocolClient(database)
    start(database, "parent", "p")
    remote.turn(remote.take(), child(1, "child", "p:1"))
    remote.take()
    policy = pb.OrchestrationIdReusePolicy(replaceableStatus=PENDING_TOO)
    start(database, "child", "p:1", orchestrationIdReusePolicy=policy)
    items = {item.orchestratorRequest.instanceId: item for item in (remote.take(), remote.take())}
    failed = items["p"].orchestratorRequest.newEvents[1].subOrchestrationInstanceFailed
    assert (failed.taskScheduledId, failed.failureDetails.errorType) == (1, "SubOrchestrationTerminated")
    remote.turn(items["p:1"], complete(1))
    remote.turn(items["p"], complete(2))


def test_a_raise_that_waits_for_a_turn_is_refused_when_its_instance_is_replaced(database: Database) -> None:
    remote = known(database)
    start(database, "work", "a")
    remote.take()
    raised = begin(database, "RaiseEvent", pb.RaiseEventRequest(instanceId="a", name="late"))
    policy = pb.OrchestrationIdReusePolicy(replaceableStatus=PENDING_TOO)
    start(database, "work", "a", orchestrationIdReusePolicy=policy)
    with pytest.raises(Rejection, match="has finished"):
        raised.future.result(TIMEOUT)
    assert kinds(remote.take()) == ["executionStarted"]


def test_an_earlier_form_of_the_policy_can_ask_to_leave_the_instance_alone(database: Database) -> None:
    start(database, "work", "a", 1)
    # Field 2, which the present message no longer has, with the value 1.
    ignore = pb.OrchestrationIdReusePolicy(replaceableStatus=[pb.ORCHESTRATION_STATUS_PENDING])
    ignore.MergeFromString(b"\x10\x01")
    start(database, "work", "a", 2, orchestrationIdReusePolicy=ignore)
    assert state(database, "a").input.value == "1"
    replace = pb.OrchestrationIdReusePolicy(replaceableStatus=[pb.ORCHESTRATION_STATUS_PENDING])
    replace.MergeFromString(b"\x10\x02")
    start(database, "work", "a", 3, orchestrationIdReusePolicy=replace)
    assert state(database, "a").input.value == "3"


def test_a_start_in_the_future_waits_for_its_time(database: Database) -> None:
    remote = ProtocolClient(database)
    due = SYSTEM.wall() + 150_000
    start(database, "work", "later", scheduledStartTimestamp=timestamp(due))
    assert state(database, "later").orchestrationStatus == pb.ORCHESTRATION_STATUS_PENDING
    assert remote.nothing()
    remote.take()
    assert time.time_ns() // 1000 >= due


@pytest.mark.parametrize("instance_id", ["@counter@a", "x" * 1025, "a\0b"])
def test_ids_that_no_orchestration_may_have(database: Database, instance_id: str) -> None:
    with pytest.raises(Rejection) as refused:
        start(database, "work", instance_id)
    assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT


def test_a_start_without_name_is_refused_and_one_without_id_gets_one(database: Database) -> None:
    with pytest.raises(Rejection, match="name"):
        start(database, "", "a")
    made = call(database, "StartInstance", pb.CreateInstanceRequest(name="work")).instanceId
    assert state(database, made).name == "work"
