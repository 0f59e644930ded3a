"""Leases of work items: holders, lost workers, returned items and late answers."""

from __future__ import annotations

from pathlib import Path

import pytest
from durabletask.internal import orchestrator_service_pb2 as pb
from google.protobuf.wrappers_pb2 import Int32Value

from bridge.sqlite_engine.database import Database
from bridge.sqlite_engine.model.reply import Rejection
from bridge.sqlite_engine.model.values import timestamp
from bridge.sqlite_engine.options import DatabaseOptions
from bridge.system.clock import SYSTEM
from tests.kit.protocol_client import ProtocolClient, activity, begin, call, complete, signal, start, state, text
from tests.sqlite_engine.conftest import Restartable
from tests.sqlite_engine.test_entity import calling, operations


def test_a_worker_that_goes_gives_all_back_at_once_and_is_late_with_its_answers(database: Database) -> None:
    gone = ProtocolClient(database)
    start(database, "work", "a")
    gone.turn(gone.take(), activity(1, "x"))
    start(database, "work", "b")
    signal(database, "@counter@c", "add", 1)
    items = {item.WhichOneof("request"): item for item in (gone.take(), gone.take(), gone.take())}
    gone.leave()
    other = ProtocolClient(database)
    again = {item.WhichOneof("request"): item for item in (other.take(), other.take(), other.take())}
    assert again.keys() == items.keys()
    for late in (
        lambda: gone.result(items["activityRequest"], "late"),
        lambda: gone.turn(items["orchestratorRequest"], complete(1, "late")),
        lambda: gone.batch(items["entityRequestV2"], "late"),
    ):
        with pytest.raises(Rejection, match="no longer"):
            late()  # type: ignore[no-untyped-call]  # it comes without types
    other.turn(again["orchestratorRequest"], complete(1, "fine"))
    assert state(database, "b").output.value == '"fine"'


def test_an_abandoned_turn_rests_longer_each_time(database: Database) -> None:
    remote = ProtocolClient(database)
    start(database, "work", "a")
    for _ in range(3):
        item = remote.take()
        request = pb.AbandonOrchestrationTaskRequest(completionToken=item.completionToken)
        call(database, "AbandonTaskOrchestratorWorkItem", request)
    remote.turn(remote.take(), activity(1, "x"))
    item = remote.take()
    call(database, "AbandonTaskActivityWorkItem", pb.AbandonActivityTaskRequest(completionToken=item.completionToken))
    remote.result(remote.take(), 1)
    remote.turn(remote.take(), complete(2, 1))
    assert state(database, "a").output.value == "1"


def test_an_abandoned_batch_comes_again(database: Database) -> None:
    remote = ProtocolClient(database)
    signal(database, "@counter@c", "add", 1)
    item = remote.take()
    call(database, "AbandonTaskEntityWorkItem", pb.AbandonEntityTaskRequest(completionToken=item.completionToken))
    again = remote.take()
    assert len(again.entityRequestV2.operationRequests) == 1
    call(database, "AbandonTaskEntityWorkItem", pb.AbandonEntityTaskRequest(completionToken="unknown"))


def test_a_worker_gets_no_more_than_its_credits_and_zero_means_the_default(database: Database) -> None:
    remote = ProtocolClient(database, maxConcurrentOrchestrationWorkItems=2)
    for number in range(5):
        start(database, "work", f"w-{number}")
    first, _ = remote.take(), remote.take()
    assert remote.nothing()
    remote.turn(first, complete(1))
    remote.take()
    assert remote.nothing()
    default = ProtocolClient(database)
    assert {default.take().orchestratorRequest.instanceId for _ in range(2)} == {"w-3", "w-4"}


def test_an_activity_without_a_version_goes_by_that_of_its_orchestration(restartable: Restartable) -> None:
    database = restartable.now
    filters = pb.WorkItemFilters(
        orchestrations=[pb.OrchestrationFilter(name="work", versions=["3.0"])],
        activities=[pb.ActivityFilter(name=name, versions=["3.0"]) for name in ("plain", "other")],
    )
    worker = ProtocolClient(database, workItemFilters=filters)
    start(database, "work", "a", version=text("3.0"))
    other = activity(2, "other")
    other.scheduleTask.version.value = "2.0"
    worker.turn(worker.take(), activity(1, "plain"), other)
    assert worker.take().activityRequest.name == "plain"
    assert worker.nothing()
    database = restartable.again()
    worker = ProtocolClient(database, workItemFilters=filters)
    item = worker.take()
    assert (item.activityRequest.name, item.activityRequest.HasField("version")) == ("plain", False)
    assert worker.nothing()
    assert ProtocolClient(database).take().activityRequest.version.value == "2.0"


def test_filters_choose_by_name_and_version(database: Database) -> None:
    filters = pb.WorkItemFilters(
        orchestrations=[pb.OrchestrationFilter(name="known", versions=["1"])],
        activities=[pb.ActivityFilter(name="mine")],
        entities=[pb.EntityFilter(name="Counter")],
    )
    choosy = ProtocolClient(database, workItemFilters=filters)
    start(database, "unknown", "u")
    start(database, "known", "two", version=text("2"))
    start(database, "known", "one", version=text("1"))
    signal(database, "@other@x", "add")
    signal(database, "@counter@x", "add")
    got = [choosy.take(), choosy.take()]
    assert {item.WhichOneof("request") for item in got} == {"orchestratorRequest", "entityRequestV2"}
    turn = next(item for item in got if item.HasField("orchestratorRequest"))
    assert turn.orchestratorRequest.instanceId == "one"
    choosy.turn(turn, activity(1, "theirs"), activity(2, "mine"))
    assert choosy.take().activityRequest.name == "mine"
    assert choosy.nothing()
    everything = ProtocolClient(database)
    rest = [everything.take() for _ in range(4)]
    assert {item.WhichOneof("request") for item in rest} == {
        "orchestratorRequest",
        "activityRequest",
        "entityRequestV2",
    }


def test_a_worker_that_sends_no_token_is_understood(database: Database) -> None:
    remote = ProtocolClient(database)
    start(database, "work", "a")
    item = remote.take()
    item.completionToken = ""
    remote.turn(item, activity(7, "x"))
    task = remote.take()
    task.completionToken = ""
    remote.result(task, 1)
    item = remote.take()
    remote.turn(item, complete(8, "ok"))
    assert state(database, "a").output.value == '"ok"'


def test_a_token_of_another_kind_of_work_is_refused_and_stays_valid(database: Database) -> None:
    remote = ProtocolClient(database)
    start(database, "work", "a")
    item = remote.take()
    with pytest.raises(Rejection, match="no longer"):
        call(database, "CompleteActivityTask", pb.ActivityResponse(completionToken=item.completionToken))
    remote.turn(item, complete(1, "ok"))
    assert state(database, "a").output.value == '"ok"'


def test_a_history_too_large_for_a_message_fails_its_instance_clearly(database: Database) -> None:
    remote = ProtocolClient(database)
    start(database, "work", "a")
    remote.turn(remote.take(), *[activity(number, "big") for number in range(1, 4)])
    tasks = [remote.take() for _ in range(3)]
    for task in tasks:
        remote.result(task, "x" * 1_700_000)
    while state(database, "a").orchestrationStatus == pb.ORCHESTRATION_STATUS_RUNNING:
        if not remote.nothing():
            remote.turn(remote.take())
    received = state(database, "a")
    assert received.orchestrationStatus == pb.ORCHESTRATION_STATUS_FAILED
    assert received.failureDetails.errorType == "HistoryTooLarge"


def test_news_too_large_for_a_message_fail_an_instance_whose_history_is_streamed(database: Database) -> None:
    remote = ProtocolClient(database, capabilities=[pb.WORKER_CAPABILITY_HISTORY_STREAMING])
    start(database, "work", "a", "x" * 300_000)
    remote.turn(remote.take(), activity(1, "x"))
    remote.result(remote.take(), "x" * 5_000_000)
    reply = begin(database, "WaitForInstanceCompletion", pb.GetInstanceRequest(instanceId="a"))
    assert reply.future.result(20).orchestrationState.failureDetails.errorType == "HistoryTooLarge"


def test_an_activity_whose_input_is_too_large_for_a_message_fails_clearly(database: Database) -> None:
    remote = ProtocolClient(database, capabilities=[pb.WORKER_CAPABILITY_HISTORY_STREAMING])
    start(database, "work", "a")
    remote.turn(remote.take(), activity(1, "large", "x" * 5_000_000), activity(2, "small"))
    items = {item.WhichOneof("request"): item for item in (remote.take(), remote.take())}
    assert items["activityRequest"].activityRequest.name == "small"
    failed = items["orchestratorRequest"].orchestratorRequest.newEvents[1].taskFailed
    assert (failed.taskScheduledId, failed.failureDetails.errorType) == (1, "ActivityTooLarge")
    remote.turn(items["orchestratorRequest"], complete(3, "ok"))
    assert state(database, "a").output.value == '"ok"'


def test_an_operation_too_large_for_a_message_fails_clearly_and_others_go_on(database: Database) -> None:
    remote = ProtocolClient(database, capabilities=[pb.WORKER_CAPABILITY_HISTORY_STREAMING])
    large = pb.SignalEntityRequest(instanceId="@c@x", name="large", input=text("x" * 5_000_000), requestId="s")
    call(database, "SignalEntity", large)
    start(database, "work", "a")
    called = calling(1, "@c@x", "large", "r1")
    called.sendEntityMessage.entityOperationCalled.input.value = "x" * 5_000_000
    remote.turn(remote.take(), called, calling(2, "@c@x", "small", "r2"))
    items = {item.WhichOneof("request"): item for item in (remote.take(), remote.take())}
    assert operations(items["entityRequestV2"]) == ["small"]
    failed = items["orchestratorRequest"].orchestratorRequest.newEvents[1].entityOperationFailed
    assert (failed.requestId, failed.failureDetails.errorType) == ("r1", "OperationTooLarge")


def test_a_worker_that_streams_history_is_given_none(database: Database) -> None:
    remote = ProtocolClient(database, capabilities=[pb.WORKER_CAPABILITY_HISTORY_STREAMING])
    start(database, "work", "a", "x" * 300_000)
    remote.turn(remote.take(), activity(1, "x"))
    remote.result(remote.take(), 1)
    request = remote.take().orchestratorRequest
    assert request.requiresHistoryStreaming
    assert len(request.pastEvents) == 0
    history = pb.StreamInstanceHistoryRequest(instanceId="a", forWorkItemProcessing=True)
    chunks = call(database, "StreamInstanceHistory", history)
    assert sum(len(chunk.events) for chunk in chunks) == 3


def test_an_answer_in_parts_is_one_answer(database: Database) -> None:
    remote = ProtocolClient(database)
    start(database, "work", "a")
    item = remote.take()
    trace = pb.OrchestrationTraceContext(spanID=text("span"), spanStartTime=timestamp(SYSTEM.wall()))
    for number in (0, 1, 1):
        # The trace comes with the first part, as .NET's worker sends it; the second is sent again.
        first = {"orchestrationTraceContext": trace} if number == 0 else {}
        part = activity(number + 1, f"part-{number}")
        remote.turn(item, part, isPartial=True, chunkIndex=Int32Value(value=number), **first)
    assert remote.nothing()
    remote.turn(item, activity(3, "part-2"), chunkIndex=Int32Value(value=2))
    items = [remote.take() for _ in range(3)]
    assert [each.activityRequest.name for each in items] == ["part-0", "part-1", "part-2"]
    assert remote.nothing()
    remote.result(items[0], 1)
    assert remote.take().orchestratorRequest.orchestrationTraceContext == trace


def test_parts_without_numbers_are_joined_as_they_came(database: Database) -> None:
    remote = ProtocolClient(database)
    start(database, "work", "a")
    item = remote.take()
    for number in range(3):
        remote.turn(item, activity(number + 1, f"part-{number}"), isPartial=number < 2)
    assert [remote.take().activityRequest.name for _ in range(3)] == ["part-0", "part-1", "part-2"]


def test_a_worker_that_needs_more_gets_the_turn_again(database: Database) -> None:
    remote = ProtocolClient(database)
    start(database, "work", "a")
    remote.turn(remote.take(), requiresHistory=True)
    remote.turn(remote.take(), complete(1, "ok"))
    assert state(database, "a").output.value == '"ok"'


def test_a_lease_runs_out_where_leases_have_a_time(tmp_path: Path) -> None:
    database = Database(tmp_path / "hub.db", DatabaseOptions(lease_seconds=0.05))
    database.start()
    remote = ProtocolClient(database, maxConcurrentOrchestrationWorkItems=1)
    start(database, "work", "a")
    slow = remote.take()
    remote.take()
    with pytest.raises(Rejection, match="no longer"):
        remote.turn(slow, complete(1))
    database.stop()
