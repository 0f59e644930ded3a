"""A rewound instance continues from its failed turn; earlier steps are neither undone nor repeated."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Generator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from durabletask import task
from durabletask.client import OrchestrationState, OrchestrationStatus, TaskHubGrpcClient
from durabletask.entities import EntityContext, EntityInstanceId
from durabletask.internal import orchestrator_service_pb2 as pb
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st

from bridge.engines.embedded.inprocess import Channel
from bridge.engines.embedded.worker import DirectWorker
from bridge.sqlite_engine.database import Database
from bridge.sqlite_engine.hub import rewind as rewinding
from bridge.sqlite_engine.model.reply import Rejection, ThreadReply
from bridge.sqlite_engine.protocol.service import SidecarService
from tests.kit.examples import examples
from tests.kit.protocol_client import (
    ProtocolClient,
    activity,
    begin,
    call,
    child,
    complete,
    fail,
    kinds,
    raise_event,
    start,
    state,
)
from tests.kit.waiting import TIMEOUT, eventually_blocking
from tests.sqlite_engine.conftest import Restartable
from tests.sqlite_engine.test_control import terminate
from tests.sqlite_engine.test_entity import calling, locking, operations, unlocking
from tests.sqlite_engine.test_worker import quiet

Steps = Generator[task.Task[Any], Any, Any]


def retries(attempts: int) -> task.RetryPolicy:
    return task.RetryPolicy(first_retry_interval=timedelta(milliseconds=1), max_number_of_attempts=attempts)


class RewindFixture:
    """Worker whose activity `act` fails as the test says, and a client.

    failures: remaining failures by input of the activity. runs: inputs of all runs. done: inputs of successful runs.
    held: inputs that wait for their event.
    """

    def __init__(self, database: Database, *orchestrators: Any, entities: tuple[Any, ...] = (), **options: Any) -> None:
        self.database = database
        self.failures: Counter[str] = Counter()
        self.runs: list[str] = []
        self.done: list[str] = []
        self.held: dict[str, threading.Event] = {}
        self.bug = False
        self.client = TaskHubGrpcClient(channel=Channel(SidecarService(database)), logger=quiet())
        self.worker = DirectWorker(database, logger=quiet(), **options)
        self.worker.add_activity(self.activity())
        for orchestrator in orchestrators:
            self.worker.add_orchestrator(orchestrator)
        for each in entities:
            self.worker.add_entity(each)
        self.worker.start()

    def activity(self) -> Any:
        def act(ctx: task.ActivityContext, name: str) -> str:
            self.runs.append(name)
            if name in self.held:
                assert self.held[name].wait(TIMEOUT)
            if self.failures[name] > 0:
                self.failures[name] -= 1
                raise ValueError(f"{name} is broken")
            self.done.append(name)
            return name

        return act

    def broken(self, *names: str) -> None:
        for name in names:
            self.failures[name] = 10**9

    def start(self, name: str, data: Any = None, instance_id: str = "i") -> None:
        self.client.schedule_new_orchestration(name, input=data, instance_id=instance_id)

    def ended(self, instance_id: str = "i") -> OrchestrationState:
        found = self.client.wait_for_orchestration_completion(instance_id, timeout=TIMEOUT)
        assert found is not None
        return found

    def failed(self, instance_id: str = "i") -> None:
        """Wait until the instance has failed; then repair everything and forget the runs."""
        assert self.ended(instance_id).runtime_status == OrchestrationStatus.FAILED
        self.failures.clear()
        self.runs.clear()

    def rewind(self, instance_id: str = "i") -> None:
        self.client.rewind_orchestration(instance_id, reason="repaired")

    def output(self, instance_id: str = "i") -> Any:
        found = self.ended(instance_id)
        assert found.runtime_status == OrchestrationStatus.COMPLETED, found.failure_details
        return found.get_output()

    def refused(self, match: str, instance_id: str = "i") -> None:
        """Assert that the rewind is refused and changes nothing."""
        before = snapshot(self.database)
        with pytest.raises(grpc.RpcError) as error:
            self.rewind(instance_id)
        assert error.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert match in error.value.details()
        assert [row for table in snapshot(self.database) for row in table] == [row for table in before for row in table]


def snapshot(database: Database) -> list[Any]:
    """Return every row of the file."""
    tables = ("instances", "history", "inbox", "tasks", "timers", "entities", "operations")

    def read() -> list[Any]:
        database.hub.tx.flush()
        return [database.hub.store.connection.execute(f"SELECT * FROM {table}").fetchall() for table in tables]

    return in_writer(database, read)


def in_writer(database: Database, function: Any) -> Any:
    reply = ThreadReply()
    database.writer.submit(function, reply=reply)
    return reply.future.result(TIMEOUT)


def act(ctx: task.OrchestrationContext, name: str, attempts: int = 0) -> task.Task[Any]:
    return ctx.call_activity("act", input=name, retry_policy=retries(attempts) if attempts else None)


def recovering(ctx: task.OrchestrationContext, _: Any) -> Steps:
    """Handle a failure with retries, then continue."""
    yield act(ctx, "first", 2)
    try:
        yield act(ctx, "charge", 2)
    except task.TaskFailedError:
        yield act(ctx, "instead", 3)
    yield ctx.create_timer(timedelta(milliseconds=1))
    return (yield act(ctx, "last", 3))


@pytest.mark.parametrize("sessions", [10, 0])
def test_handled_failures_stay_handled_and_only_the_last_step_runs_again(database: Database, sessions: int) -> None:
    ground = RewindFixture(database, recovering, sessions=sessions)
    ground.failures["first"] = 1
    ground.failures["instead"] = 2
    ground.broken("charge", "last")
    ground.start("recovering")
    ground.failed()
    ground.rewind()
    assert ground.output() == "last"
    assert ground.runs == ["last"]
    ground.worker.stop()


def test_a_retry_policy_begins_afresh(database: Database) -> None:
    ground = RewindFixture(database, recovering)
    ground.broken("last")
    ground.start("recovering")
    ground.failed()
    ground.failures["last"] = 2
    ground.rewind()
    assert ground.output() == "last"
    assert ground.runs == ["last"] * 3
    ground.worker.stop()


def test_a_retry_policy_ends_as_it_did_and_the_instance_can_be_rewound_again(restartable: Restartable) -> None:
    ground = RewindFixture(restartable.now, recovering)
    for _ in range(2):
        ground.broken("last")
        if ground.runs:
            ground.rewind()
        else:
            ground.start("recovering")
        assert ground.ended().runtime_status == OrchestrationStatus.FAILED
        assert ground.runs[-3:] == ["last"] * 3
    assert ground.runs == ["first", "charge", *["last"] * 6]
    ground.worker.stop()
    again = RewindFixture(restartable.again(), recovering)
    again.rewind()
    assert again.output() == "last"
    assert again.runs == ["last"]
    again.worker.stop()


def test_the_pauses_of_a_policy_are_kept_over_a_restart(restartable: Restartable) -> None:
    database = restartable.now
    hands = ProtocolClient(database)
    start(database, "work", "i")
    broken = pb.TaskFailureDetails(errorType="E", errorMessage="broken")
    hands.turn(hands.take(), activity(1, "x"))
    for attempt in range(2):
        hands.result(hands.take(), failure=broken)
        hands.turn(hands.take(), *([activity(1, "x")] if attempt == 0 else [fail(9, "no more")]))
    call(database, "RewindInstance", pb.RewindInstanceRequest(instanceId="i"))
    database = restartable.again()
    hands = ProtocolClient(database)
    items = {item.WhichOneof("request"): item for item in (hands.take(), hands.take())}
    hands.turn(items["orchestratorRequest"])
    hands.result(items["activityRequest"], failure=broken)
    second = hands.take()
    assert second.activityRequest.taskId == 1
    hands.result(second, failure=broken)
    assert kinds(hands.take()) == ["taskFailed"]


def wide(ctx: task.OrchestrationContext, plan: dict[str, int]) -> Steps:
    return (yield task.when_all([act(ctx, name, attempts) for name, attempts in plan.items()]))


@pytest.mark.parametrize("broken", [["a"], ["c"], ["a", "c"], ["a", "b", "c"]])
@pytest.mark.parametrize("attempts", [0, 3])
def test_of_a_fan_out_those_run_again_that_failed(database: Database, broken: list[str], attempts: int) -> None:
    ground = RewindFixture(database, wide)
    ground.failures.update({name: 1 for name in "abcd" if attempts and name not in broken})
    ground.broken(*broken)
    ground.start("wide", dict.fromkeys("abcd", attempts))
    ground.failed()
    ground.failures.update({name: 2 for name in broken if attempts})
    ground.rewind()
    assert ground.output() == list("abcd")
    assert Counter(ground.runs) == dict.fromkeys(broken, 3 if attempts else 1)
    ground.worker.stop()


def early(ctx: task.OrchestrationContext, _: Any) -> Steps:
    """Start a step and wait for it later."""
    slow = act(ctx, "slow")
    yield act(ctx, "fast")
    return [(yield slow), (yield act(ctx, "last"))]


def test_a_parallel_step_that_ended_after_the_failure_is_not_done_again(restartable: Restartable) -> None:
    ground = RewindFixture(restartable.now, early)
    ground.broken("fast")
    ground.held["slow"] = threading.Event()
    ground.start("early")
    ground.failed()
    ground.held["slow"].set()
    ground.worker.stop()  # the result has arrived
    assert ground.done == ["slow"]
    again = RewindFixture(restartable.again(), early)
    again.rewind()
    assert again.output() == ["slow", "last"]
    assert again.runs == ["fast", "last"]
    again.worker.stop()


def test_a_parallel_step_that_still_runs_is_not_started_again(database: Database) -> None:
    ground = RewindFixture(database, early)
    ground.broken("fast")
    ground.held["slow"] = threading.Event()
    ground.start("early")
    ground.failed()
    ground.rewind()
    while "fast" not in ground.done:
        assert ground.client.get_orchestration_state("i").runtime_status == OrchestrationStatus.RUNNING
    ground.held["slow"].set()
    assert ground.output() == ["slow", "last"]
    assert ground.runs == ["fast", "last"]
    ground.worker.stop()


def test_a_queued_step_is_handed_out_once(database: Database) -> None:
    hands = ProtocolClient(database, maxConcurrentActivityWorkItems=1)
    start(database, "work", "i")
    hands.turn(hands.take(), activity(1, "bad"), activity(2, "queued"))
    bad = hands.take()
    hands.result(bad, failure=pb.TaskFailureDetails(errorType="E", errorMessage="broken"))
    items = {item.WhichOneof("request"): item for item in (hands.take(), hands.take())}
    hands.turn(items["orchestratorRequest"], fail(9, "broken"))
    hands.database.disconnect(hands.stream)  # its activity is queued again
    call(database, "RewindInstance", pb.RewindInstanceRequest(instanceId="i"))
    other = ProtocolClient(database)
    names = []
    for _ in range(3):
        item = other.take()
        if item.HasField("activityRequest"):
            names.append(item.activityRequest.name)
            other.result(item, 1)
        else:
            assert kinds(item)[0] == "executionRewound"
            other.turn(item)
    assert sorted(names) == ["bad", "queued"]
    assert sorted(kinds(other.take()))[0] == "taskCompleted"


def test_an_event_of_the_failed_turn_is_taken_again_and_a_bug_can_be_repaired(database: Database) -> None:
    def listening(ctx: task.OrchestrationContext, _: Any) -> Steps:
        yield act(ctx, "first", 2)
        paid = yield ctx.wait_for_external_event("paid")
        if ground.bug:
            raise KeyError("a bug")
        return [paid, (yield act(ctx, "last"))]

    ground = RewindFixture(database, listening)
    ground.failures["first"] = 1
    ground.bug = True
    ground.start("listening")
    ground.client.raise_orchestration_event("i", "paid", data=7)
    ground.failed()
    ground.rewind()
    assert ground.ended().runtime_status == OrchestrationStatus.FAILED, "the same turn comes to the same end"
    ground.bug = False
    ground.rewind()
    assert ground.output() == [7, "last"]
    assert ground.runs == ["last"]
    ground.worker.stop()


def test_a_first_turn_runs_again(database: Database) -> None:
    def hasty(ctx: task.OrchestrationContext, data: Any) -> Any:
        if ground.bug:
            raise KeyError("a bug")
        return data

    ground = RewindFixture(database, hasty)
    ground.bug = True
    ground.start("hasty", "given")
    ground.failed()
    ground.bug = False
    ground.rewind()
    assert ground.output() == "given"
    ground.worker.stop()


def test_code_that_is_brought_back_goes_on_behind_retries_and_handled_failures(restartable: Restartable) -> None:
    def order(ctx: task.OrchestrationContext, _: Any) -> Steps:
        yield from recovering(ctx, _)
        ctx.set_custom_status("awaits the payment")
        return (yield ctx.wait_for_external_event("paid"))

    def changed(ctx: task.OrchestrationContext, _: Any) -> Steps:
        yield ctx.create_timer(timedelta(milliseconds=1))
        return (yield from order(ctx, _))

    changed.__name__ = "order"
    ground = RewindFixture(restartable.now, order)
    ground.failures.update({"first": 1, "charge": 2, "instead": 1, "last": 2})
    ground.start("order")
    # A turn that is left for the changed code would end the instance before the event
    eventually_blocking(lambda: ground.client.get_orchestration_state("i").serialized_custom_status is not None)
    ground.worker.stop()
    other = RewindFixture(restartable.again(), changed)
    other.client.raise_orchestration_event("i", "paid", data=1)
    assert "NonDeterminism" in str(other.ended().failure_details.error_type)
    other.worker.stop()
    other = RewindFixture(restartable.again(), order)
    other.rewind()
    assert other.output() == 1
    assert other.runs == []
    other.worker.stop()


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
    ground = RewindFixture(database, family, family_well)
    ground.broken("leaf", *(f"handled-{depth}" for depth in range(4)))
    ground.start("family", 3)
    ground.failed()
    ground.rewind()
    assert ground.output() == [[["leaf", "well"], "well"], "well"]
    assert ground.runs == ["leaf"]
    ground.worker.stop()


def tried_child(ctx: task.OrchestrationContext, _: Any) -> Steps:
    return (yield ctx.call_sub_orchestrator("family", input=0, retry_policy=retries(2)))


def test_a_child_with_a_retry_policy_is_tried_as_often_again(database: Database) -> None:
    ground = RewindFixture(database, tried_child, family)
    ground.broken("leaf")
    ground.start("tried_child")
    ground.failed()
    ground.failures["leaf"] = 3
    ground.rewind()
    assert ground.output() == "leaf"
    # Two attempts of the rewound child, and one of a new child.
    assert ground.runs == ["leaf", "leaf", "handled-0", "leaf", "leaf"]
    ground.worker.stop()


def test_a_child_that_was_rewound_by_itself_brings_its_result(database: Database) -> None:
    ground = RewindFixture(database, family, family_well)
    ground.broken("leaf")
    ground.start("family", 1)
    ground.failed()
    (failed_child,) = [
        each for each in in_writer(database, lambda: database.hub.store.children("i"))
        if ground.ended(each).runtime_status == OrchestrationStatus.FAILED
    ]  # fmt: skip
    ground.rewind(failed_child)
    assert ground.output(failed_child) == "leaf"
    ground.rewind()
    assert ground.output() == ["leaf", "well"]
    assert ground.runs == ["leaf"]
    ground.worker.stop()


def test_a_child_that_was_terminated_or_is_gone_is_a_reason_to_refuse(database: Database) -> None:
    ground = RewindFixture(database, family, family_well)
    ground.broken("leaf")
    ground.start("family", 2)
    ground.failed()
    call(database, "PurgeInstances", pb.PurgeInstancesRequest(instanceId=leaf_of(database, "i")))
    ground.refused("is gone")
    ground.worker.stop()
    hands = ProtocolClient(database)
    start(database, "parent", "p")
    hands.turn(hands.take(), child(1, "child", "p:1"))
    hands.take()
    terminate(database, "p:1")
    hands.turn(hands.take(), fail(2, "the child is gone"))
    ground.refused("'p:1' was terminated", "p")


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
    depth = 1500
    hands = ProtocolClient(database)
    start(database, "level", "level-0")
    for level in range(1, depth):
        hands.turn(hands.take(), child(1, "level", f"level-{level}"))
    hands.turn(hands.take(), activity(1, "leaf"))
    hands.result(hands.take(), failure=pb.TaskFailureDetails(errorType="E", errorMessage="broken"))
    for _ in range(depth):
        hands.turn(hands.take(), fail(2, "broken"))
    call(database, "RewindInstance", pb.RewindInstanceRequest(instanceId="level-0"))
    turns = 0
    while turns < depth + 1:
        item = hands.take()
        if item.HasField("activityRequest"):
            assert item.activityRequest.orchestrationInstance.instanceId == f"level-{depth - 1}"
            leaf = item
        else:
            turns += 1
            hands.turn(item)
        if turns == depth:
            hands.result(leaf, 1)
    assert state(database, f"level-{depth - 1}").orchestrationStatus == pb.ORCHESTRATION_STATUS_RUNNING


def test_all_or_nothing(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    ground = RewindFixture(database, family, family_well)
    ground.broken("leaf")
    ground.start("family", 3)
    ground.failed()
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
        ground.rewind()
    assert snapshot(database) == before
    monkeypatch.undo()
    ground.rewind()
    assert ground.output() == [[["leaf", "well"], "well"], "well"]
    assert ground.runs == ["leaf"]
    ground.worker.stop()


def rewind_and_die(path: Path, instance_id: str) -> None:
    """Rewind in a separate process, which dies at the rewind of the third instance of the tree."""
    database = Database(path)
    database.start()
    ordinary = rewinding._entities
    seen: list[str] = []

    def dying(hub: Any, instance: Any, parts: Any) -> None:
        ordinary(hub, instance, parts)
        seen.append(instance.id)
        if len(seen) == 3:
            hub.tx.flush()
            os.kill(os.getpid(), signal.SIGKILL)

    rewinding._entities = dying
    call(database, "RewindInstance", pb.RewindInstanceRequest(instanceId=instance_id))


def test_a_crash_in_the_middle_changes_nothing(restartable: Restartable) -> None:
    ground = RewindFixture(restartable.now, family, family_well)
    ground.broken("leaf")
    ground.start("family", 3)
    ground.failed()
    ground.worker.stop()
    before = snapshot(restartable.now)
    restartable.now.stop()
    child_process = multiprocessing.get_context("spawn").Process(target=rewind_and_die, args=(restartable.path, "i"))
    child_process.start()
    child_process.join(TIMEOUT)
    assert child_process.exitcode == -signal.SIGKILL
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

    ground = RewindFixture(database, saga)
    ground.broken("charge")
    ground.start("saga")
    ground.failed()
    ground.refused("ended with that failure later: it handled the failure")
    assert ground.runs == []
    ground.worker.stop()


def test_the_engines_own_failure_loses_no_result(database: Database) -> None:
    hands = ProtocolClient(database)
    start(database, "work", "i")
    hands.turn(hands.take(), activity(1, "x"))
    hands.result(hands.take(), "precious")
    hands.turn(hands.take(), complete(2), complete(3))  # an answer that no worker may give
    assert state(database, "i").failureDetails.errorType == "InvalidOrchestratorResponse"
    call(database, "RewindInstance", pb.RewindInstanceRequest(instanceId="i"))
    item = hands.take()
    past = [each.WhichOneof("eventType") for each in item.orchestratorRequest.pastEvents]
    assert past == ["orchestratorStarted", "executionStarted", "taskScheduled"]
    assert kinds(item) == ["taskCompleted", "executionRewound"] or kinds(item) == ["executionRewound", "taskCompleted"]
    assert hands.nothing()


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
    hands = ProtocolClient(database)
    start(database, "work", "i")
    hands.turn(hands.take(), activity(1, "x"))
    item = hands.take()
    call(database, "SuspendInstance", pb.SuspendRequest(instanceId="i"))
    in_writer(database, lambda: database.hub.fail(database.hub.find("i"), pb.TaskFailureDetails(errorType="E")))
    call(database, "RewindInstance", pb.RewindInstanceRequest(instanceId="i"))
    assert state(database, "i").orchestrationStatus == pb.ORCHESTRATION_STATUS_SUSPENDED
    hands.result(item, 1)
    call(database, "ResumeInstance", pb.ResumeRequest(instanceId="i"))
    taken = [hands.take()]
    if taken[0].HasField("activityRequest"):
        hands.result(taken[0], 1)
        taken.append(hands.take())
    assert "executionResumed" in kinds(taken[-1])


def test_a_refused_raise_leaves_no_trace(database: Database) -> None:
    hands = ProtocolClient(database)
    start(database, "work", "i")
    item = hands.take()
    late = begin(database, "RaiseEvent", pb.RaiseEventRequest(instanceId="i", name="late"))
    hands.turn(item, fail(1, "broken"))
    with pytest.raises(Rejection, match="has finished"):
        late.future.result(TIMEOUT)
    call(database, "RewindInstance", pb.RewindInstanceRequest(instanceId="i"))
    assert kinds(hands.take()) == ["executionStarted", "executionRewound"]


def test_a_child_started_by_the_failed_turn_is_waited_for(database: Database) -> None:
    hands = ProtocolClient(database)
    start(database, "parent", "p")
    hands.turn(hands.take(), child(1, "child", "p:1"), fail(2, "a bug"))
    item = hands.take()
    with pytest.raises(Rejection, match="'p:1', which it started as it failed, still runs"):
        call(database, "RewindInstance", pb.RewindInstanceRequest(instanceId="p"))
    hands.turn(item, complete(1))
    call(database, "RewindInstance", pb.RewindInstanceRequest(instanceId="p"))
    hands.turn(hands.take(), child(1, "child", "p:1"))
    assert hands.take().orchestratorRequest.instanceId == "p:1"


# Entities and their locks


def owners(database: Database, *entity_ids: str) -> list[str | None]:
    """Return the holders of the entities' locks."""
    return [in_writer(database, lambda of=each: database.hub.entities.find(of).owner) for each in entity_ids]


def locked_and_failed(database: Database) -> ProtocolClient:
    """Run `i` until it fails in a critical section of two entities, after one successful operation."""
    hands = ProtocolClient(database)
    start(database, "work", "i")
    hands.turn(hands.take(), locking(1, "s", "@c@x", "@c@y"))
    item = hands.take()
    assert kinds(item) == ["entityLockGranted"]
    hands.turn(item, calling(2, "@c@x", "read", "r1"))
    hands.batch(hands.take(), 1, new_state=1)
    hands.turn(hands.take(), activity(3, "step"))
    hands.result(hands.take(), failure=pb.TaskFailureDetails(errorType="E", errorMessage="broken"))
    hands.turn(hands.take(), unlocking(4, "s", "@c@x"), unlocking(5, "s", "@c@y"), fail(6, "broken"))
    assert owners(database, "@c@x", "@c@y") == [None, None]
    return hands


def test_locks_are_taken_again(restartable: Restartable) -> None:
    locked_and_failed(restartable.now)
    call(restartable.now, "RewindInstance", pb.RewindInstanceRequest(instanceId="i"))
    database = restartable.again()
    hands = ProtocolClient(database)
    assert owners(database, "@c@x", "@c@y") == ["i", "i"]
    start(database, "work", "other")
    items = {}
    for _ in range(3):
        item = hands.take()
        items[item.orchestratorRequest.instanceId or item.activityRequest.name] = item
    hands.turn(items["other"], calling(1, "@c@x", "write", "r9"))
    hands.turn(items["i"])
    assert hands.nothing(), "operations of others wait for the lock"
    hands.result(items["step"], 1)
    hands.turn(hands.take(), unlocking(4, "s", "@c@x"), unlocking(5, "s", "@c@y"), complete(6))
    assert operations(hands.take()) == ["write"]
    assert state(database, "i").orchestrationStatus == pb.ORCHESTRATION_STATUS_COMPLETED


def test_a_lock_that_another_holds_is_a_reason_to_refuse(database: Database) -> None:
    hands = locked_and_failed(database)
    start(database, "work", "other")
    hands.turn(hands.take(), locking(1, "t", "@c@y"))
    item = hands.take()
    before = snapshot(database)
    with pytest.raises(Rejection, match="lock of entity '@c@y', which 'other' holds now"):
        call(database, "RewindInstance", pb.RewindInstanceRequest(instanceId="i"))
    assert snapshot(database) == before
    hands.turn(item, unlocking(2, "t", "@c@y"), complete(3))
    call(database, "RewindInstance", pb.RewindInstanceRequest(instanceId="i"))
    assert owners(database, "@c@x", "@c@y") == ["i", "i"]


def test_a_lock_that_was_waited_for_is_waited_for_anew(database: Database) -> None:
    hands = ProtocolClient(database)
    start(database, "work", "owner")
    hands.turn(hands.take(), locking(1, "t", "@c@y"))
    owner = hands.take()
    start(database, "work", "i")
    hands.turn(hands.take(), locking(1, "s", "@c@x", "@c@y"), activity(2, "step"))
    hands.result(hands.take(), failure=pb.TaskFailureDetails(errorType="E", errorMessage="broken"))
    hands.turn(hands.take(), fail(6, "broken"))
    call(database, "RewindInstance", pb.RewindInstanceRequest(instanceId="i"))
    items = {item.WhichOneof("request"): item for item in (hands.take(), hands.take())}
    hands.turn(items["orchestratorRequest"])
    hands.turn(owner, unlocking(2, "t", "@c@y"), complete(3))
    assert kinds(hands.take()) == ["entityLockGranted"]
    assert owners(database, "@c@x", "@c@y") == ["i", "i"]


def counter(ctx: EntityContext, amount: int) -> int:
    if amount < 0:
        raise ValueError("negative")
    ctx.set_state(ctx.get_state(int, 0) + amount)
    return ctx.get_state(int, 0)


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

    ground = RewindFixture(database, booking, entities=(account,))
    ground.start("booking")
    ground.failed()
    broken[0] = False
    ground.rewind()
    assert ground.output() == 8
    assert owners(database, "@account@a") == [None]
    ground.worker.stop()


@pytest.mark.parametrize("answered", [False, True])
def test_an_operation_under_way_is_not_sent_again(database: Database, answered: bool) -> None:
    hands = ProtocolClient(database)
    start(database, "work", "i")
    hands.turn(hands.take(), calling(1, "@c@x", "add", "r1"), activity(2, "step"))
    items = {item.WhichOneof("request"): item for item in (hands.take(), hands.take())}
    hands.result(items["activityRequest"], failure=pb.TaskFailureDetails(errorType="E", errorMessage="broken"))
    hands.turn(hands.take(), fail(6, "broken"))
    if answered:
        hands.batch(items["entityRequestV2"], "sum", new_state=1)
    call(database, "RewindInstance", pb.RewindInstanceRequest(instanceId="i"))
    taken = [hands.take(), hands.take()]
    turn = next(item for item in taken if item.HasField("orchestratorRequest"))
    events = kinds(turn)
    hands.turn(turn)
    if not answered:
        hands.batch(items["entityRequestV2"], "sum", new_state=1)
        events += kinds(hands.take())
    assert sorted(events) == ["entityOperationCompleted", "executionRewound"]
    assert hands.nothing()


def test_answers_to_what_the_failed_turn_asked_for_are_dropped(database: Database) -> None:
    """The turn runs again with other task ids; no old answer may count as the result of an earlier step."""
    hands = ProtocolClient(database)
    start(database, "work", "i")
    hands.turn(hands.take(), activity(1, "kept"))
    kept = hands.take()
    raise_event(database, "i", "go")
    stray = [activity(1, "stray"), activity(2, "stray"), calling(3, "@c@x", "add", "r3"), child(4, "child", "i:4")]
    hands.turn(hands.take(), *stray, fail(5, "another code"))
    for _ in range(4):
        item = hands.take()
        if item.HasField("activityRequest"):
            hands.result(item, "stray")
        elif item.HasField("entityRequestV2"):
            hands.batch(item, "stray", new_state=1)
        else:
            hands.turn(item, complete(1, "stray"))
    call(database, "RewindInstance", pb.RewindInstanceRequest(instanceId="i"))
    item = hands.take()
    assert kinds(item) == ["executionRewound", "eventRaised"]
    hands.turn(item)
    hands.result(kept, "kept")
    (result,) = hands.take().orchestratorRequest.newEvents[1:]
    assert result.taskCompleted.result.value == '"kept"'


# Random programs

NUMBERS = itertools.count()
STEP = st.one_of(
    st.tuples(st.just("act"), st.sampled_from([0, 2, 3]), st.booleans()),  # attempts, failure is caught
    st.tuples(st.just("all"), st.lists(st.sampled_from([0, 2]), min_size=1, max_size=4), st.booleans()),
    st.tuples(st.just("timer")),
    st.tuples(st.just("event")),
    st.tuples(st.just("lock")),
    st.tuples(st.just("begin"), st.sampled_from([0, 2])),  # awaited later
    st.tuples(st.just("join"), st.just(0), st.booleans()),
)
PROGRAM = st.recursive(
    st.lists(STEP, min_size=1, max_size=5),
    lambda inner: st.lists(
        st.one_of(STEP, st.tuples(st.just("child"), inner, st.booleans())), min_size=1, max_size=5
    ),
    max_leaves=6,
)  # fmt: skip


def interpreter(ctx: task.OrchestrationContext, given: list[Any]) -> Steps:
    """Run a program. Names of activities derive from the position in the program."""
    path, program = given
    results: list[Any] = []
    begun: list[task.Task[Any]] = []
    for number, (kind, *of) in enumerate(program):
        name = f"{path}.{number}"
        if kind == "act":
            waiting: task.Task[Any] = act(ctx, name, of[0])
        elif kind == "all":
            waiting = task.when_all([act(ctx, f"{name}.{each}", attempts) for each, attempts in enumerate(of[0])])
        elif kind == "child":
            waiting = ctx.call_sub_orchestrator("interpreter", input=[name, of[0]], instance_id=name)
        elif kind == "begin":
            begun.append(act(ctx, name, of[0]))
            continue
        elif kind == "join":
            if not begun:
                continue
            waiting = task.when_all(begun)
            begun = []
        elif kind == "timer":
            waiting = ctx.create_timer(timedelta(milliseconds=1))
        elif kind == "event":
            ctx.send_event(ctx.instance_id, "go", data=number)
            waiting = ctx.wait_for_external_event("go")
        else:
            with (yield ctx.lock_entities([EntityInstanceId("counter", path)])):
                results.append((yield ctx.call_entity(EntityInstanceId("counter", path), "add", 1)))
                yield act(ctx, f"{name}.locked", 2)
            continue
        try:
            results.append((yield waiting))
        except task.TaskFailedError:
            if not of[1]:
                raise
            results.append("caught")
    return results


def names_of(program: list[Any], path: str) -> Iterator[str]:
    for number, (kind, *of) in enumerate(program):
        name = f"{path}.{number}"
        if kind in ("act", "begin"):
            yield name
        elif kind == "all":
            yield from (f"{name}.{each}" for each in range(len(of[0])))
        elif kind == "child":
            yield from names_of(of[0], name)
        elif kind == "lock":
            yield f"{name}.locked"


def decisions(database: Database, instance_id: str) -> list[tuple[str, int]]:
    """Return the decisions of each turn in order; `orchestratorStarted` marks the beginning of a turn."""
    key = in_writer(database, lambda: database.hub.find(instance_id).key)
    history, _ = in_writer(database, lambda: database.hub.store.history(key))
    kinds_ = (
        "orchestratorStarted", "taskScheduled", "timerCreated", "subOrchestrationInstanceCreated", "eventSent",
        "entityLockRequested", "entityOperationCalled", "entityUnlockSent",
    )  # fmt: skip
    return [(each.WhichOneof("eventType"), each.eventId) for each in history if each.WhichOneof("eventType") in kinds_]


def refusal(ground: RewindFixture, instance_id: str) -> str | None:
    """Rewind the instance. Returns the reason of a refusal, or None."""
    try:
        ground.rewind(instance_id)
    except grpc.RpcError as error:
        return str(error.details())
    return None


@pytest.fixture(params=[10, 0])
def programs(request: pytest.FixtureRequest, database: Database) -> Iterator[RewindFixture]:
    ground = RewindFixture(database, interpreter, entities=(counter,), sessions=request.param)
    yield ground
    ground.worker.stop()


@settings(
    max_examples=examples(60),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(program=PROGRAM, data=st.data())
def test_random_histories(programs: RewindFixture, program: list[Any], data: st.DataObject) -> None:
    """Decisions up to the cut are the same, no successful step is repeated, and one rewind is sufficient."""
    ground, root = programs, f"p{next(NUMBERS)}"
    names = list(names_of(program, root))
    assume(names)
    broken = data.draw(st.sets(st.sampled_from(names), min_size=1, max_size=4))
    flaky = data.draw(st.sets(st.sampled_from(names), max_size=4)) - broken
    ground.failures.clear()
    ground.broken(*broken)
    ground.failures.update(dict.fromkeys(flaky, 1))
    ground.start("interpreter", [root, program], root)
    failed = ground.ended(root).runtime_status == OrchestrationStatus.FAILED
    event(f"failed: {failed}")
    assume(failed)
    ground.failures.clear()
    handled = Counter(ground.runs)
    before = decisions(ground.database, root)
    cut = max(index for index, (kind, _) in enumerate(before) if kind == "orchestratorStarted")
    # One is sufficient, unless an early step failed while the orchestrator did not wait for it.
    for _ in range(1 + len(broken) if "begin" in str(program) else 1):
        reason = refusal(ground, root)
        if reason:
            event("refused")
            assert "took it up too late to tell" in reason
            assert "begin" in str(program)
            break
        if ground.ended(root).runtime_status == OrchestrationStatus.COMPLETED:
            break
    assert reason or ground.output(root) is not None
    assert decisions(ground.database, root)[:cut] == before[:cut]
    assert max(Counter(ground.done).values()) == 1
    repeated = {name for name, times in Counter(ground.runs).items() if handled[name] and times > handled[name]}
    assert repeated <= broken | flaky
