"""A rewound instance continues from its failed turn; earlier steps are neither undone nor repeated."""

from __future__ import annotations

import threading
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from durabletask import task
from durabletask.client import OrchestrationStatus
from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.sqlite_engine.database import Database
from tests.kit.protocol_client import (
    ProtocolClient,
    activity,
    call,
    fail,
    kinds,
    start,
)
from tests.kit.waiting import eventually_blocking
from tests.sqlite_engine.conftest import Restartable
from tests.sqlite_engine.rewind import RewindFixture, Steps, act


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
    setup = RewindFixture(database, recovering, sessions=sessions)
    setup.failures["first"] = 1
    setup.failures["instead"] = 2
    setup.broken("charge", "last")
    setup.start("recovering")
    setup.failed()
    setup.rewind()
    assert setup.output() == "last"
    assert setup.runs == ["last"]
    setup.worker.stop()


def test_a_retry_policy_begins_afresh(database: Database) -> None:
    setup = RewindFixture(database, recovering)
    setup.broken("last")
    setup.start("recovering")
    setup.failed()
    setup.failures["last"] = 2
    setup.rewind()
    assert setup.output() == "last"
    assert setup.runs == ["last"] * 3
    setup.worker.stop()


def test_a_retry_policy_ends_as_it_did_and_the_instance_can_be_rewound_again(restartable: Restartable) -> None:
    setup = RewindFixture(restartable.now, recovering)
    for _ in range(2):
        setup.broken("last")
        if setup.runs:
            setup.rewind()
        else:
            setup.start("recovering")
        assert setup.ended().runtime_status == OrchestrationStatus.FAILED
        assert setup.runs[-3:] == ["last"] * 3
    assert setup.runs == ["first", "charge", *["last"] * 6]
    setup.worker.stop()
    again = RewindFixture(restartable.again(), recovering)
    again.rewind()
    assert again.output() == "last"
    assert again.runs == ["last"]
    again.worker.stop()


def test_the_pauses_of_a_policy_are_kept_over_a_restart(restartable: Restartable) -> None:
    database = restartable.now
    remote = ProtocolClient(database)
    start(database, "work", "i")
    broken = pb.TaskFailureDetails(errorType="E", errorMessage="broken")
    remote.turn(remote.take(), activity(1, "x"))
    for attempt in range(2):
        remote.result(remote.take(), failure=broken)
        remote.turn(remote.take(), *([activity(1, "x")] if attempt == 0 else [fail(9, "no more")]))
    call(database, "RewindInstance", pb.RewindInstanceRequest(instanceId="i"))
    database = restartable.again()
    remote = ProtocolClient(database)
    items = {item.WhichOneof("request"): item for item in (remote.take(), remote.take())}
    remote.turn(items["orchestratorRequest"])
    remote.result(items["activityRequest"], failure=broken)
    second = remote.take()
    assert second.activityRequest.taskId == 1
    remote.result(second, failure=broken)
    assert kinds(remote.take()) == ["taskFailed"]


def wide(ctx: task.OrchestrationContext, plan: dict[str, int]) -> Steps:
    return (yield task.when_all([act(ctx, name, attempts) for name, attempts in plan.items()]))


@pytest.mark.parametrize("broken", [["a"], ["c"], ["a", "c"], ["a", "b", "c"]])
@pytest.mark.parametrize("attempts", [0, 3])
def test_of_a_fan_out_those_run_again_that_failed(database: Database, broken: list[str], attempts: int) -> None:
    setup = RewindFixture(database, wide)
    setup.failures.update({name: 1 for name in "abcd" if attempts and name not in broken})
    setup.broken(*broken)
    setup.start("wide", dict.fromkeys("abcd", attempts))
    setup.failed()
    setup.failures.update({name: 2 for name in broken if attempts})
    setup.rewind()
    assert setup.output() == list("abcd")
    assert Counter(setup.runs) == dict.fromkeys(broken, 3 if attempts else 1)
    setup.worker.stop()


def early(ctx: task.OrchestrationContext, _: Any) -> Steps:
    """Start a step and wait for it later."""
    slow = act(ctx, "slow")
    yield act(ctx, "fast")
    return [(yield slow), (yield act(ctx, "last"))]


def test_a_parallel_step_that_ended_after_the_failure_is_not_done_again(restartable: Restartable) -> None:
    setup = RewindFixture(restartable.now, early)
    setup.broken("fast")
    setup.held["slow"] = threading.Event()
    setup.start("early")
    setup.failed()
    setup.held["slow"].set()
    setup.worker.stop()  # the result has arrived
    assert setup.done == ["slow"]
    again = RewindFixture(restartable.again(), early)
    again.rewind()
    assert again.output() == ["slow", "last"]
    assert again.runs == ["fast", "last"]
    again.worker.stop()


def test_a_parallel_step_that_still_runs_is_not_started_again(database: Database) -> None:
    setup = RewindFixture(database, early)
    setup.broken("fast")
    setup.held["slow"] = threading.Event()
    setup.start("early")
    setup.failed()
    setup.rewind()
    while "fast" not in setup.done:
        assert setup.client.get_orchestration_state("i").runtime_status == OrchestrationStatus.RUNNING
    setup.held["slow"].set()
    assert setup.output() == ["slow", "last"]
    assert setup.runs == ["fast", "last"]
    setup.worker.stop()


def test_a_queued_step_is_handed_out_once(database: Database) -> None:
    remote = ProtocolClient(database, maxConcurrentActivityWorkItems=1)
    start(database, "work", "i")
    remote.turn(remote.take(), activity(1, "bad"), activity(2, "queued"))
    bad = remote.take()
    remote.result(bad, failure=pb.TaskFailureDetails(errorType="E", errorMessage="broken"))
    items = {item.WhichOneof("request"): item for item in (remote.take(), remote.take())}
    remote.turn(items["orchestratorRequest"], fail(9, "broken"))
    remote.database.disconnect(remote.stream)  # its activity is queued again
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
        if setup.bug:
            raise KeyError("a bug")
        return [paid, (yield act(ctx, "last"))]

    setup = RewindFixture(database, listening)
    setup.failures["first"] = 1
    setup.bug = True
    setup.start("listening")
    setup.client.raise_orchestration_event("i", "paid", data=7)
    setup.failed()
    setup.rewind()
    assert setup.ended().runtime_status == OrchestrationStatus.FAILED, "the same turn comes to the same end"
    setup.bug = False
    setup.rewind()
    assert setup.output() == [7, "last"]
    assert setup.runs == ["last"]
    setup.worker.stop()


def test_a_first_turn_runs_again(database: Database) -> None:
    def hasty(ctx: task.OrchestrationContext, data: Any) -> Any:
        if setup.bug:
            raise KeyError("a bug")
        return data

    setup = RewindFixture(database, hasty)
    setup.bug = True
    setup.start("hasty", "given")
    setup.failed()
    setup.bug = False
    setup.rewind()
    assert setup.output() == "given"
    setup.worker.stop()


def test_code_that_is_brought_back_goes_on_behind_retries_and_handled_failures(restartable: Restartable) -> None:
    def order(ctx: task.OrchestrationContext, _: Any) -> Steps:
        yield from recovering(ctx, _)
        ctx.set_custom_status("awaits the payment")
        return (yield ctx.wait_for_external_event("paid"))

    def changed(ctx: task.OrchestrationContext, _: Any) -> Steps:
        yield ctx.create_timer(timedelta(milliseconds=1))
        return (yield from order(ctx, _))

    changed.__name__ = "order"
    setup = RewindFixture(restartable.now, order)
    setup.failures.update({"first": 1, "charge": 2, "instead": 1, "last": 2})
    setup.start("order")
    # A turn that is left for the changed code would end the instance before the event
    eventually_blocking(lambda: setup.client.get_orchestration_state("i").serialized_custom_status is not None)
    setup.worker.stop()
    other = RewindFixture(restartable.again(), changed)
    other.client.raise_orchestration_event("i", "paid", data=1)
    assert "NonDeterminism" in str(other.ended().failure_details.error_type)
    other.worker.stop()
    other = RewindFixture(restartable.again(), order)
    other.rewind()
    assert other.output() == 1
    assert other.runs == []
    other.worker.stop()
