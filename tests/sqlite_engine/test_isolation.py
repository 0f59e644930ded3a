"""Isolation of failing operations: the owner gets an error once, and all others of the transaction commit.

Every kind of operation and every call has an injected fault here.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.sqlite_engine.database import Database
from bridge.sqlite_engine.hub.removal import STEP
from bridge.sqlite_engine.hub.working_set import OperationKind
from bridge.sqlite_engine.model import work
from bridge.sqlite_engine.model.reply import Rejection
from bridge.sqlite_engine.options import DatabaseOptions, RetentionPolicy
from bridge.system.clock import SYSTEM
from tests.kit.protocol_client import (
    ProtocolClient,
    activity,
    begin,
    call,
    child,
    complete,
    fail,
    kinds,
    signal,
    start,
    state,
    text,
    timer,
)
from tests.kit.waiting import TIMEOUT
from tests.sqlite_engine.conftest import Restartable
from tests.sqlite_engine.test_entity import calling, entities, locking, unlocking

FAILED = pb.ORCHESTRATION_STATUS_FAILED


@contextmanager
def together(database: Database) -> Iterator[None]:
    """Group all calls inside in one transaction."""
    reached, held = threading.Event(), threading.Event()

    def wait() -> None:
        reached.set()
        held.wait(TIMEOUT)

    database.writer.submit(wait, kind=OperationKind.WORKER)
    assert reached.wait(TIMEOUT)
    yield
    held.set()


def ended(database: Database, instance_id: str) -> pb.OrchestrationState:
    request = pb.GetInstanceRequest(instanceId=instance_id, getInputsAndOutputs=True)
    found: pb.OrchestrationState = call(database, "WaitForInstanceCompletion", request).orchestrationState
    return found


def refused(reply: Any) -> str:
    with pytest.raises(Rejection) as error:
        reply.future.result(TIMEOUT)
    assert error.value.code is grpc.StatusCode.INTERNAL
    return error.value.details


@dataclass
class Case:
    """Engine with a worker, and a way to make its methods fail."""

    engine: Restartable
    patch: pytest.MonkeyPatch
    hits: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.remote = ProtocolClient(self.database)

    @property
    def database(self) -> Database:
        return self.engine.now

    def break_(self, owner: Any, name: str, poisoned: Callable[..., bool]) -> None:
        """Make a method fail after its work, for the poisoned arguments."""
        real = getattr(owner, name)

        def broken(*args: Any, **kwargs: Any) -> Any:
            result = real(*args, **kwargs)
            if poisoned(*args, **kwargs):
                self.hits.append(name)
                raise RuntimeError("a bug")
            return result

        self.patch.setattr(owner, name, broken)

    def turns(self, *names: str) -> dict[str, pb.WorkItem]:
        """Take the first turns of new instances with these ids."""
        for name in names:
            start(self.database, "work", name)
        items = [self.remote.take() for _ in names]
        return {item.orchestratorRequest.instanceId: item for item in items}


def a_call(case: Case) -> None:
    case.break_(case.database.hub, "create", lambda instance_id, *_, **__: instance_id == "poison")
    with together(case.database):
        replies = {
            each: begin(case.database, "StartInstance", pb.CreateInstanceRequest(instanceId=each, name="work"))
            for each in ("before", "poison", "after")
        }
    assert "see its log for fault" in refused(replies["poison"])
    for each in ("before", "after"):
        assert replies[each].future.result(TIMEOUT).instanceId == each
        assert state(case.database, each).name == "work"
    assert not call(case.database, "GetInstance", pb.GetInstanceRequest(instanceId="poison")).exists


def a_turn(case: Case) -> None:
    items = case.turns("before", "poison", "after")
    case.break_(case.database.hub, "add_task", lambda instance, *_: instance.id == "poison")
    with together(case.database):
        for each in ("before", "poison", "after"):
            case.remote.turn(items[each], activity(1, each))
    assert ended(case.database, "poison").failureDetails.errorType == "EngineError"
    assert {case.remote.take().activityRequest.name for _ in range(2)} == {"before", "after"}


def an_activity(case: Case) -> None:
    items = case.turns("poison", "fine")
    for each, item in items.items():
        case.remote.turn(item, activity(1, each))
    tasks = {item.activityRequest.name: item for item in (case.remote.take(), case.remote.take())}
    case.break_(
        case.database.hub, "answer", lambda instance, event: instance.id == "poison" and event.HasField("taskCompleted")
    )
    with together(case.database):
        case.remote.result(tasks["poison"], 1)
        case.remote.result(tasks["fine"], 2)
    news = {item.orchestratorRequest.instanceId: kinds(item) for item in (case.remote.take(), case.remote.take())}
    assert news == {"poison": ["taskFailed"], "fine": ["taskCompleted"]}


def a_batch(case: Case) -> None:
    item = case.turns("o")["o"]
    case.remote.turn(item, calling(1, "@c@poison", "x", "r1"), calling(2, "@c@fine", "x", "r2"))
    batches = {item.entityRequestV2.instanceId: item for item in (case.remote.take(), case.remote.take())}
    case.break_(
        case.database.hub.entities,
        "answer",
        lambda event, answer: event.entityOperationCalled.requestId == "r1" and answer.HasField("success"),
    )
    with together(case.database):
        for each in batches.values():
            case.remote.batch(each, "ok", new_state=1)
    item = case.remote.take()
    while len(kinds(item)) < 2:
        case.remote.turn(item)
        more = case.remote.take()
        assert len(kinds(more)) == 1
        assert {*kinds(item), *kinds(more)} == {"entityOperationFailed", "entityOperationCompleted"}
        break
    found = {each.instanceId: each for each in entities(case.database, includeState=True, includeTransient=True)}
    assert found["@c@fine"].serializedState.value == "1"
    assert not found["@c@poison"].serializedState.value
    assert found["@c@poison"].backlogQueueSize == 0


def a_return(case: Case) -> None:
    items = case.turns("poison", "fine")
    case.break_(case.database.hub, "release", lambda _: not case.hits)
    case.hits.clear()
    with together(case.database):
        for each in ("poison", "fine"):
            token = items[each].completionToken
            call(
                case.database,
                "AbandonTaskOrchestratorWorkItem",
                pb.AbandonOrchestrationTaskRequest(completionToken=token),
            )
    assert ended(case.database, "poison").failureDetails.errorType == "EngineError"
    assert case.remote.take().orchestratorRequest.instanceId == "fine"


def a_worker(case: Case) -> None:
    case.break_(case.database.hub.dispatcher, "connect", lambda stream: not case.hits)
    with together(case.database):
        ProtocolClient(case.database)
        reply = begin(case.database, "StartInstance", pb.CreateInstanceRequest(instanceId="fine", name="work"))
    reply.future.result(TIMEOUT)


def a_timer(case: Case) -> None:
    items = case.turns("before", "poison", "after")
    case.break_(
        case.database.hub, "deliver", lambda instance, event: instance.id == "poison" and event.HasField("timerFired")
    )
    due = SYSTEM.wall() + 50_000
    with together(case.database):
        for each in ("before", "poison", "after"):
            case.remote.turn(items[each], timer(1, due))
    news = {item.orchestratorRequest.instanceId: kinds(item) for item in (case.remote.take(), case.remote.take())}
    assert news == {"before": ["timerFired"], "after": ["timerFired"]}
    assert ended(case.database, "poison").failureDetails.errorType == "EngineError"


def a_move(case: Case) -> None:
    items = case.turns("poison", "fine")
    case.remote.turn(items["poison"], activity(1, "x"))
    case.break_(
        case.database.hub, "end", lambda instance, status, output, failure, *_: failure.errorType == "HistoryTooLarge"
    )
    task = case.remote.take()
    with together(case.database):
        case.remote.result(task, "x" * 5_000_000)
        case.remote.turn(items["fine"], activity(1, "x"))
    assert ended(case.database, "poison").failureDetails.errorType == "EngineError"
    case.remote.result(case.remote.take(), 1)
    assert case.remote.take().orchestratorRequest.instanceId == "fine"


def a_purge(case: Case) -> None:
    for number in range(STEP + 1):
        start(case.database, "work", f"w{number}")
        case.remote.turn(case.remote.take(), complete(1))
    case.break_(case.database._purges, "_by_id", lambda instance_id, _: instance_id == f"w{STEP}")
    chosen = pb.PurgeInstanceFilter(runtimeStatus=[pb.ORCHESTRATION_STATUS_COMPLETED])
    reply = begin(case.database, "PurgeInstances", pb.PurgeInstancesRequest(purgeInstanceFilter=chosen))
    assert "this purge" in refused(reply)
    assert state(case.database, f"w{STEP}").name == "work"
    assert not call(case.database, "GetInstance", pb.GetInstanceRequest(instanceId="w0")).exists


def a_retention(case: Case) -> None:
    for each in ("poison", "fine"):
        start(case.database, "work", each)
        case.remote.turn(case.remote.take(), complete(1))
    case.engine.options = DatabaseOptions(retention=RetentionPolicy(age=0.0, period=3600.0))
    case.engine.again()
    case.remote = ProtocolClient(case.database)
    case.break_(case.database._purges, "remove", lambda instance: instance.id == "poison")
    for round_ in range(3):
        removed = begin(case.database, "WaitForInstanceCompletion", pb.GetInstanceRequest(instanceId=f"next-{round_}"))
        start(case.database, "work", f"next-{round_}")
        case.remote.turn(case.remote.take(), complete(1))
        removed.future.result(TIMEOUT)
        case.database.writer.submit(case.database._retention.step, kind=OperationKind.RETENTION)
        for _ in range(3):
            call(case.database, "GetInstance", pb.GetInstanceRequest(instanceId="x"))
        assert not call(case.database, "GetInstance", pb.GetInstanceRequest(instanceId=f"next-{round_}")).exists
    assert state(case.database, "poison").name == "work"


def a_handout(case: Case) -> None:
    case.break_(case.database.hub, "load_history", lambda instance: instance.id == "poison")
    with together(case.database):
        for each in ("poison", "fine"):
            begin(case.database, "StartInstance", pb.CreateInstanceRequest(instanceId=each, name="work"))
    assert case.remote.take().orchestratorRequest.instanceId == "fine"
    assert ended(case.database, "poison").failureDetails.errorType == "EngineError"


def a_recovery(case: Case) -> None:
    items = case.turns("poison", "fine")
    for each, item in items.items():
        case.remote.turn(item, activity(1, each))
        case.remote.take()
    execution = state(case.database, "poison").executionId.value
    case.break_(work, "pauses_of", lambda value: value == execution)
    case.engine.again()
    case.remote = ProtocolClient(case.database)
    found = {item.WhichOneof("request"): item for item in (case.remote.take(), case.remote.take())}
    assert found["activityRequest"].activityRequest.name == "fine"
    assert kinds(found["orchestratorRequest"]) == ["taskFailed"]


def a_clock(case: Case) -> None:
    items = case.turns("poison", "fine")
    due = SYSTEM.wall() + 50_000
    case.break_(case.database.hub, "set_timers", lambda: True)
    with together(case.database):
        for each in ("poison", "fine"):
            case.remote.turn(items[each], timer(1, due))
        case.database.hub.stepped = True
    assert [kinds(case.remote.take()) for _ in range(2)] == [["timerFired"], ["timerFired"]]


INJECTIONS: dict[OperationKind, Callable[[Case], None]] = {
    OperationKind.CALL: a_call,
    OperationKind.TURN: a_turn,
    OperationKind.ACTIVITY: an_activity,
    OperationKind.BATCH: a_batch,
    OperationKind.RETURN: a_return,
    OperationKind.WORKER: a_worker,
    OperationKind.TIMER: a_timer,
    OperationKind.CLOCK: a_clock,
    OperationKind.MOVE: a_move,
    OperationKind.PURGE: a_purge,
    OperationKind.RETENTION: a_retention,
    OperationKind.HANDOUT: a_handout,
    OperationKind.RECOVERY: a_recovery,
}


@pytest.mark.parametrize("kind", list(OperationKind))
def test_an_operation_of_any_kind_is_given_up_alone(
    restartable: Restartable, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, kind: OperationKind
) -> None:
    case = Case(restartable, monkeypatch)
    INJECTIONS[kind](case)
    assert case.database.writer.given_up == {kind: 1}
    received = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [record.args[0] for record in received if record.args] == [kind]  # type: ignore[index] # args of ours are a tuple
    assert case.database.writer.broken is None
    # The result is stable, and the engine works.
    start(case.database, "work", "later")
    while case.remote.take().orchestratorRequest.instanceId != "later":
        pass
    monkeypatch.undo()
    assert restartable.again().writer.given_up == {}


def _calls(database: Database) -> list[str]:
    return [*database._writes, *database._deferrable]


@pytest.mark.parametrize("in_company", [False, True])
def test_every_call_that_fails_is_answered(database: Database, in_company: bool) -> None:
    def broken(*_: Any) -> Any:
        raise RecursionError("too deep")

    for method in _calls(database):
        for table in (database._writes, database._deferrable):
            if method in table:
                table[method] = broken
    replies = {}
    with together(database):
        for method in _calls(database):
            replies[method] = begin(database, method, pb.GetInstanceRequest(instanceId=method))
            if in_company:
                database.writer.submit(database.hub.create, method, pb.CreateInstanceRequest(name="work"))
    for method, reply in replies.items():
        assert "could not apply this call" in refused(reply), method
    assert database.writer.given_up == {OperationKind.CALL: len(replies)}
    if in_company:
        remote = ProtocolClient(database)
        assert {remote.take().orchestratorRequest.instanceId for _ in replies} == set(replies)


def test_what_is_in_flight_stays_so_when_another_operation_fails(database: Database) -> None:
    remote = ProtocolClient(database)
    start(database, "work", "a")
    turn = remote.take()
    signal(database, "@c@x", "add", 1)
    batch = remote.take()
    raised = begin(database, "RaiseEvent", pb.RaiseEventRequest(instanceId="a", name="e"))

    def broken() -> None:
        database.hub.end(database.hub.find("a"), FAILED, None, None)
        database.hub.entities.release("@c@x")
        raise RuntimeError("a bug")

    database.writer.submit(broken)
    assert remote.nothing()
    assert not raised.future.done()
    remote.turn(turn, activity(1, "x"))
    raised.future.result(TIMEOUT)
    remote.batch(batch, None, new_state=1)
    found = {item.WhichOneof("request"): item for item in (remote.take(), remote.take())}
    assert kinds(found["orchestratorRequest"]) == ["eventRaised"]
    assert remote.nothing()


def test_an_instance_whose_end_fails_too_still_ends_and_its_owners_hear_of_it(
    restartable: Restartable, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(restartable, monkeypatch)
    case.remote.turn(case.turns("p")["p"], child(1, "child", "poison"))
    item = case.remote.take()
    case.remote.turn(item, locking(1, "s", "@c@x"))
    item = case.remote.take()
    case.break_(case.database.hub, "add_task", lambda instance, *_: True)
    case.break_(case.database.hub, "append", lambda instance, _: instance.id == "poison")
    case.remote.turn(item, activity(2, "x"))
    item = case.remote.take()
    assert kinds(item) == ["subOrchestrationInstanceFailed"]
    assert ended(case.database, "poison").failureDetails.errorType == "EngineError"
    assert not any(each.HasField("lockedBy") for each in entities(case.database, includeTransient=True))
    assert case.database.writer.given_up == {OperationKind.TURN: 1}


@pytest.mark.parametrize("count", [600, 5000])
def test_any_number_of_locks_may_wait(restartable: Restartable, count: int) -> None:
    remote = ProtocolClient(restartable.now)
    ids = [f"@c@{number:05d}" for number in range(count)]
    start(restartable.now, "work", "holder")
    remote.turn(remote.take(), locking(1, "first", ids[0]))
    held = remote.take()
    start(restartable.now, "work", "many")
    remote.turn(remote.take(), locking(1, "second", *ids))
    remote.turn(held, unlocking(2, "first", ids[0]), complete(3))
    item = remote.take()
    assert (item.orchestratorRequest.instanceId, kinds(item)) == ("many", ["entityLockGranted"])
    # The same with each of them taken, in the opposite order of their release.
    remote.turn(item, *[unlocking(2 + at, "second", each) for at, each in enumerate(ids)], locking(9999, "third", *ids))
    item = remote.take()
    assert kinds(item) == ["entityLockGranted"]
    start(restartable.now, "work", "next")
    remote.turn(remote.take(), locking(1, "fourth", *ids))
    assert remote.nothing()
    remote = ProtocolClient(restartable.again())
    call(restartable.now, "TerminateInstance", pb.TerminateRequest(instanceId="many"))
    item = remote.take()
    assert (item.orchestratorRequest.instanceId, kinds(item)) == ("next", ["entityLockGranted"])
    assert restartable.now.writer.given_up == {}


def test_a_deep_tree_of_instances_fails_is_terminated_and_purged(database: Database) -> None:
    remote = ProtocolClient(database)
    start(database, "work", "c0")
    for number in range(1500):
        remote.turn(remote.take(), child(1, "work", f"c{number + 1}"))
    call(database, "TerminateInstance", pb.TerminateRequest(instanceId="c0", recursive=True))
    assert state(database, "c1500").orchestrationStatus == pb.ORCHESTRATION_STATUS_TERMINATED
    purged = call(database, "PurgeInstances", pb.PurgeInstancesRequest(instanceId="c0", recursive=True))
    assert purged.deletedInstanceCount == 1501
    assert database.writer.given_up == {}


def test_the_credit_of_a_turn_comes_back_when_its_instance_was_ended_meanwhile(database: Database) -> None:
    remote = ProtocolClient(database, maxConcurrentOrchestrationWorkItems=1)
    for number in range(3):
        start(database, "work", f"a{number}")
        item = remote.take()
        call(database, "TerminateInstance", pb.TerminateRequest(instanceId=f"a{number}"))
        with pytest.raises(Rejection, match="no longer"):
            remote.turn(item, complete(1))


def test_after_a_fault_between_two_transactions_the_engine_rests_and_reads_its_file_anew(tmp_path: Path) -> None:
    database = Database(tmp_path / "hub.db")
    database.start()
    hits = []

    def broken() -> Any:
        hits.append(1)
        raise RuntimeError("a bug")

    try:
        call(database, "GetInstance", pb.GetInstanceRequest(instanceId="nobody"))
        database.hub.committed = broken  # type: ignore[method-assign]
        start(database, "work", "first")
        replies = [
            begin(database, "StartInstance", pb.CreateInstanceRequest(instanceId=f"x{number}", name="work"))
            for number in range(100)
        ]
        for reply in replies:
            with pytest.raises(Rejection, match="see its log"):
                reply.future.result(TIMEOUT)
        assert len(hits) == 1
    finally:
        database.stop()


def test_a_stream_that_takes_nothing_any_more_counts_as_a_worker_that_is_gone(database: Database) -> None:
    dead = ProtocolClient(database)

    def broken(_: Any) -> None:
        raise RuntimeError("Event loop is closed")

    dead.stream.send = broken
    start(database, "work", "i")
    alive = ProtocolClient(database)
    item = alive.take()
    alive.turn(item, complete(1, "ok"))
    assert state(database, "i").output.value == '"ok"'
    assert database.writer.given_up == {OperationKind.WORKER: 1}


def test_a_custom_status_nested_deeper_than_json_is_read_is_no_hindrance(database: Database) -> None:
    remote = ProtocolClient(database)
    start(database, "work", "i")
    remote.turn(remote.take(), fail(1, "no"), customStatus=text("[" * 500_000))
    call(database, "RewindInstance", pb.RewindInstanceRequest(instanceId="i"))
    assert kinds(remote.take())[0] == "executionStarted"
    assert database.writer.given_up == {}


def test_a_worker_that_connects_beside_an_operation_that_fails_is_connected_once(database: Database) -> None:
    def broken() -> None:
        raise RuntimeError("a bug")

    with together(database):
        remote = ProtocolClient(database, maxConcurrentOrchestrationWorkItems=1)
        waiting = begin(database, "WaitForInstanceCompletion", pb.GetInstanceRequest(instanceId="i"))
        database.writer.submit(broken)
    start(database, "work", "i")
    remote.turn(remote.take(), complete(1))
    assert waiting.future.result(TIMEOUT).orchestrationState.instanceId == "i"
    assert database.hub.dispatcher.streams == [remote.stream]
    remote.leave()
    start(database, "work", "j")
    assert remote.nothing()
