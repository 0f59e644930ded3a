"""A rewound instance takes its locks on entities again and repeats only failed operations."""

from __future__ import annotations

from typing import Any

import pytest
from durabletask import task
from durabletask.entities import EntityContext, EntityInstanceId
from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.sqlite_engine.database import Database
from bridge.sqlite_engine.model.reply import Rejection
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
)
from tests.sqlite_engine.conftest import Restartable
from tests.sqlite_engine.rewind import RewindFixture, Steps, counter, in_writer, snapshot
from tests.sqlite_engine.test_entity import calling, locking, operations, unlocking


def owners(database: Database, *entity_ids: str) -> list[str | None]:
    """Return the holders of the entities' locks."""
    return [in_writer(database, lambda of=each: database.hub.entities.find(of).owner) for each in entity_ids]


def locked_and_failed(database: Database) -> ProtocolClient:
    """Run `i` until it fails in a critical section of two entities, after one successful operation."""
    remote = ProtocolClient(database)
    start(database, "work", "i")
    remote.turn(remote.take(), locking(1, "s", "@c@x", "@c@y"))
    item = remote.take()
    assert kinds(item) == ["entityLockGranted"]
    remote.turn(item, calling(2, "@c@x", "read", "r1"))
    remote.batch(remote.take(), 1, new_state=1)
    remote.turn(remote.take(), activity(3, "step"))
    remote.result(remote.take(), failure=pb.TaskFailureDetails(errorType="E", errorMessage="broken"))
    remote.turn(remote.take(), unlocking(4, "s", "@c@x"), unlocking(5, "s", "@c@y"), fail(6, "broken"))
    assert owners(database, "@c@x", "@c@y") == [None, None]
    return remote


def test_locks_are_taken_again(restartable: Restartable) -> None:
    locked_and_failed(restartable.now)
    call(restartable.now, "RewindInstance", pb.RewindInstanceRequest(instanceId="i"))
    database = restartable.again()
    remote = ProtocolClient(database)
    assert owners(database, "@c@x", "@c@y") == ["i", "i"]
    start(database, "work", "other")
    items = {}
    for _ in range(3):
        item = remote.take()
        items[item.orchestratorRequest.instanceId or item.activityRequest.name] = item
    remote.turn(items["other"], calling(1, "@c@x", "write", "r9"))
    remote.turn(items["i"])
    assert remote.nothing(), "operations of others wait for the lock"
    remote.result(items["step"], 1)
    remote.turn(remote.take(), unlocking(4, "s", "@c@x"), unlocking(5, "s", "@c@y"), complete(6))
    assert operations(remote.take()) == ["write"]
    assert state(database, "i").orchestrationStatus == pb.ORCHESTRATION_STATUS_COMPLETED


def test_a_lock_that_another_holds_is_a_reason_to_refuse(database: Database) -> None:
    remote = locked_and_failed(database)
    start(database, "work", "other")
    remote.turn(remote.take(), locking(1, "t", "@c@y"))
    item = remote.take()
    before = snapshot(database)
    with pytest.raises(Rejection, match="lock of entity '@c@y', which 'other' holds now"):
        call(database, "RewindInstance", pb.RewindInstanceRequest(instanceId="i"))
    assert snapshot(database) == before
    remote.turn(item, unlocking(2, "t", "@c@y"), complete(3))
    call(database, "RewindInstance", pb.RewindInstanceRequest(instanceId="i"))
    assert owners(database, "@c@x", "@c@y") == ["i", "i"]


def test_a_lock_that_was_waited_for_is_waited_for_anew(database: Database) -> None:
    remote = ProtocolClient(database)
    start(database, "work", "owner")
    remote.turn(remote.take(), locking(1, "t", "@c@y"))
    owner = remote.take()
    start(database, "work", "i")
    remote.turn(remote.take(), locking(1, "s", "@c@x", "@c@y"), activity(2, "step"))
    remote.result(remote.take(), failure=pb.TaskFailureDetails(errorType="E", errorMessage="broken"))
    remote.turn(remote.take(), fail(6, "broken"))
    call(database, "RewindInstance", pb.RewindInstanceRequest(instanceId="i"))
    items = {item.WhichOneof("request"): item for item in (remote.take(), remote.take())}
    remote.turn(items["orchestratorRequest"])
    remote.turn(owner, unlocking(2, "t", "@c@y"), complete(3))
    assert kinds(remote.take()) == ["entityLockGranted"]
    assert owners(database, "@c@x", "@c@y") == ["i", "i"]


def test_a_failed_operation_is_asked_for_again_and_others_are_not(database: Database) -> None:
    broken = [True]

    def account(ctx: EntityContext, amount: int) -> int:
        return counter(ctx, -1 if broken[0] and amount == 5 else amount)

    def booking(ctx: task.OrchestrationContext, _: Any) -> Steps:
        target = EntityInstanceId("account", "a")
        with (yield ctx.lock_entities([target])):
            yield ctx.call_entity(target, "add", 1)
            try:
                yield ctx.call_entity(target, "add", -1)
            except task.TaskFailedError:
                yield ctx.call_entity(target, "add", 2)
            return (yield ctx.call_entity(target, "add", 5))

    setup = RewindFixture(database, booking, entities=(account,))
    setup.start("booking")
    setup.failed()
    broken[0] = False
    setup.rewind()
    assert setup.output() == 8
    assert owners(database, "@account@a") == [None]
    setup.worker.stop()


@pytest.mark.parametrize("answered", [False, True])
def test_an_operation_under_way_is_not_sent_again(database: Database, answered: bool) -> None:
    remote = ProtocolClient(database)
    start(database, "work", "i")
    remote.turn(remote.take(), calling(1, "@c@x", "add", "r1"), activity(2, "step"))
    items = {item.WhichOneof("request"): item for item in (remote.take(), remote.take())}
    remote.result(items["activityRequest"], failure=pb.TaskFailureDetails(errorType="E", errorMessage="broken"))
    remote.turn(remote.take(), fail(6, "broken"))
    if answered:
        remote.batch(items["entityRequestV2"], "sum", new_state=1)
    call(database, "RewindInstance", pb.RewindInstanceRequest(instanceId="i"))
    taken = [remote.take(), remote.take()]
    turn = next(item for item in taken if item.HasField("orchestratorRequest"))
    events = kinds(turn)
    remote.turn(turn)
    if not answered:
        remote.batch(items["entityRequestV2"], "sum", new_state=1)
        events += kinds(remote.take())
    assert sorted(events) == ["entityOperationCompleted", "executionRewound"]
    assert remote.nothing()


def test_answers_to_what_the_failed_turn_asked_for_are_dropped(database: Database) -> None:
    """The turn runs again with other task ids; no old answer may count as the result of an earlier step."""
    remote = ProtocolClient(database)
    start(database, "work", "i")
    remote.turn(remote.take(), activity(1, "kept"))
    kept = remote.take()
    raise_event(database, "i", "go")
    stray = [activity(1, "stray"), activity(2, "stray"), calling(3, "@c@x", "add", "r3"), child(4, "child", "i:4")]
    remote.turn(remote.take(), *stray, fail(5, "another code"))
    for _ in range(4):
        item = remote.take()
        if item.HasField("activityRequest"):
            remote.result(item, "stray")
        elif item.HasField("entityRequestV2"):
            remote.batch(item, "stray", new_state=1)
        else:
            remote.turn(item, complete(1, "stray"))
    call(database, "RewindInstance", pb.RewindInstanceRequest(instanceId="i"))
    item = remote.take()
    assert kinds(item) == ["executionRewound", "eventRaised"]
    remote.turn(item)
    remote.result(kept, "kept")
    (result,) = remote.take().orchestratorRequest.newEvents[1:]
    assert result.taskCompleted.result.value == '"kept"'
