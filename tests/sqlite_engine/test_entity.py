"""Entities: order, locks, delayed signals, clean-up."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.sqlite_engine.database import Database
from bridge.sqlite_engine.model.reply import Rejection
from bridge.sqlite_engine.model.values import timestamp
from bridge.system.clock import SYSTEM
from tests.kit.protocol_client import ProtocolClient, call, complete, kinds, signal, start, state, text


def calling(number: int, entity_id: str, operation: str, request_id: str) -> pb.OrchestratorAction:
    called = pb.EntityOperationCalledEvent(
        requestId=request_id, operation=operation, targetInstanceId=text(entity_id), parentInstanceId=text("ignored")
    )
    message = pb.SendEntityMessageAction(entityOperationCalled=called)
    return pb.OrchestratorAction(id=number, sendEntityMessage=message)


def locking(number: int, section: str, *entity_ids: str) -> pb.OrchestratorAction:
    request = pb.EntityLockRequestedEvent(criticalSectionId=section, lockSet=entity_ids)
    return pb.OrchestratorAction(id=number, sendEntityMessage=pb.SendEntityMessageAction(entityLockRequested=request))


def unlocking(number: int, section: str, entity_id: str) -> pb.OrchestratorAction:
    sent = pb.EntityUnlockSentEvent(criticalSectionId=section, targetInstanceId=text(entity_id))
    return pb.OrchestratorAction(id=number, sendEntityMessage=pb.SendEntityMessageAction(entityUnlockSent=sent))


def entity(database: Database, entity_id: str) -> pb.GetEntityResponse:
    return call(database, "GetEntity", pb.GetEntityRequest(instanceId=entity_id, includeState=True))


def entities(database: Database, **query: Any) -> list[pb.EntityMetadata]:
    return list(call(database, "QueryEntities", pb.QueryEntitiesRequest(query=pb.EntityQuery(**query))).entities)


def operations(item: pb.WorkItem) -> list[str]:
    found = []
    for event in item.entityRequestV2.operationRequests:
        called = event.HasField("entityOperationCalled")
        found.append(event.entityOperationCalled.operation if called else event.entityOperationSignaled.operation)
    return found


def test_signals_come_in_order_and_one_batch_at_a_time(database: Database) -> None:
    remote = ProtocolClient(database)
    signal(database, "@Counter@Key", "one")
    item = remote.take()
    assert item.entityRequestV2.instanceId == "@counter@Key"
    signal(database, "@counter@Key", "two")
    signal(database, "@counter@Key", "three")
    assert remote.nothing()
    remote.batch(item, None, new_state=1)
    item = remote.take()
    assert operations(item) == ["two", "three"]
    assert item.entityRequestV2.entityState.value == "1"
    assert entity(database, "@counter@Key").entity.backlogQueueSize == 2
    remote.batch(item, None, None, new_state=3)
    found = entity(database, "@COUNTER@Key").entity
    assert (found.serializedState.value, found.backlogQueueSize) == ("3", 0)


def test_operations_without_result_stay_in_the_queue(database: Database) -> None:
    remote = ProtocolClient(database)
    start(database, "work", "o")
    remote.turn(remote.take(), calling(1, "@c@x", "one", "r1"), calling(2, "@c@x", "two", "r2"))
    item = remote.take()
    remote.batch(item, "first", new_state=1)
    items = {each.WhichOneof("request"): each for each in (remote.take(), remote.take())}
    assert operations(items["entityRequestV2"]) == ["two"]
    completed = items["orchestratorRequest"].orchestratorRequest.newEvents[1].entityOperationCompleted
    assert (completed.requestId, completed.output.value) == ("r1", '"first"')
    no = pb.OperationResult(failure={"failureDetails": pb.TaskFailureDetails(errorType="E", errorMessage="no")})
    remote.batch(items["entityRequestV2"], new_state=1, results=[no])
    remote.turn(items["orchestratorRequest"])
    item = remote.take()
    assert kinds(item) == ["entityOperationFailed"]
    assert entity(database, "@c@x").entity.serializedState.value == "1"


def test_a_batch_that_its_worker_could_not_run_is_run_again(database: Database) -> None:
    remote = ProtocolClient(database)
    start(database, "work", "o")
    remote.turn(remote.take(), calling(1, "@c@x", "one", "r1"))
    remote.batch(remote.take(), new_state=1)
    batch = remote.take()
    remote.batch(batch, failureDetails=pb.TaskFailureDetails(errorType="NoMemory", errorMessage="x"))
    again = remote.take()
    assert operations(again) == operations(batch) == ["one"]
    remote.batch(again, "done", new_state=2)
    assert kinds(remote.take()) == ["entityOperationCompleted"]
    assert entity(database, "@c@x").entity.serializedState.value == "2"


def test_a_lock_waits_for_what_came_before_and_holds_back_what_came_after(database: Database) -> None:
    remote = ProtocolClient(database)
    signal(database, "@c@x", "before")
    batch = remote.take()
    start(database, "work", "o")
    remote.turn(remote.take(), locking(1, "section", "@c@y", "@c@x"))
    signal(database, "@c@x", "after")
    assert remote.nothing()
    remote.batch(batch, None, new_state=0)
    item = remote.take()
    assert kinds(item) == ["entityLockGranted"]
    assert item.orchestratorRequest.newEvents[1].entityLockGranted.criticalSectionId == "section"
    assert entity(database, "@c@x").entity.lockedBy.value == "o"
    remote.turn(item, calling(2, "@c@x", "inside", "r1"))
    batch = remote.take()
    assert operations(batch) == ["inside"]
    remote.batch(batch, None, new_state=1)
    remote.turn(remote.take(), unlocking(3, "section", "@c@x"), unlocking(4, "section", "@c@y"), complete(5))
    assert operations(remote.take()) == ["after"]
    assert state(database, "o").orchestrationStatus == pb.ORCHESTRATION_STATUS_COMPLETED
    locked = {each.instanceId: each.HasField("lockedBy") for each in entities(database, includeTransient=True)}
    assert locked == {"@c@x": False, "@c@y": False}
    assert [each.instanceId for each in entities(database)] == ["@c@x"]


def test_an_entity_without_a_state_is_none_unless_one_asks_for_it(database: Database) -> None:
    remote = ProtocolClient(database)
    signal(database, "@c@x", "add")
    assert not entity(database, "@c@x").exists
    remote.batch(remote.take(), 1, new_state=1)
    assert entity(database, "@c@x").exists
    signal(database, "@c@x", "delete")
    remote.batch(remote.take(), None, new_state=None)
    assert not entity(database, "@c@x").exists
    assert entities(database) == []
    assert [each.instanceId for each in entities(database, includeTransient=True)] == ["@c@x"]


def test_locks_are_freed_when_their_owner_ends_however_it_ends(database: Database) -> None:
    remote = ProtocolClient(database)
    start(database, "work", "one")
    remote.turn(remote.take(), locking(1, "s1", "@c@x"))
    remote.turn(remote.take())
    start(database, "work", "two")
    remote.turn(remote.take(), locking(1, "s2", "@c@x"))
    start(database, "work", "three")
    remote.turn(remote.take(), locking(1, "s3", "@c@x"))
    assert remote.nothing()
    call(database, "TerminateInstance", pb.TerminateRequest(instanceId="two"))
    call(database, "TerminateInstance", pb.TerminateRequest(instanceId="one"))
    item = remote.take()
    assert (item.orchestratorRequest.instanceId, kinds(item)) == ("three", ["entityLockGranted"])


def test_a_delayed_signal_waits_for_its_time(database: Database) -> None:
    remote = ProtocolClient(database)
    due = SYSTEM.wall() + 100_000
    signal(database, "@c@x", "later", scheduledTime=timestamp(due))
    assert remote.nothing()
    assert operations(remote.take()) == ["later"]
    assert SYSTEM.wall() >= due


def test_what_an_entity_does_reaches_others(database: Database) -> None:
    remote = ProtocolClient(database)
    signal(database, "@c@x", "go")
    received = pb.OperationAction(sendSignal=pb.SendSignalAction(instanceId="@c@y", name="hello"))
    begun = pb.OperationAction(startNewOrchestration=pb.StartNewOrchestrationAction(instanceId="o", name="work"))
    wrong = pb.OperationAction(sendSignal=pb.SendSignalAction(instanceId="nonsense", name="hello"))
    remote.batch(remote.take(), None, new_state=1, actions=[received, wrong, begun])
    items = {each.WhichOneof("request"): each for each in (remote.take(), remote.take())}
    assert operations(items["entityRequestV2"]) == ["hello"]
    assert state(database, "o").name == "work"


def test_empty_entities_are_cleaned_and_purged_and_others_kept(database: Database) -> None:
    remote = ProtocolClient(database)
    for key in ("empty", "full", "purged"):
        signal(database, f"@c@{key}", "x")
    for _ in range(3):
        item = remote.take()
        remote.batch(item, None, new_state=1 if item.entityRequestV2.instanceId == "@c@full" else None)
    assert call(database, "PurgeInstances", pb.PurgeInstancesRequest(instanceId="@c@purged")).deletedInstanceCount == 1
    request = pb.CleanEntityStorageRequest(removeEmptyEntities=True, releaseOrphanedLocks=True)
    assert call(database, "CleanEntityStorage", request).emptyEntitiesRemoved == 1
    assert not entity(database, "@c@empty").exists
    assert entity(database, "@c@full").exists


@pytest.mark.parametrize("entity_id", ["counter", "@counter", "@@x", "", "@" + "n" * 2000 + "@k"])
def test_what_is_no_entity_id_is_refused(database: Database, entity_id: str) -> None:
    with pytest.raises(Rejection) as refused:
        signal(database, entity_id, "x")
    assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT
