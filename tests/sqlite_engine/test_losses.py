"""Dying workers: their work items are counted, run alone, and are finally given up; no other item is."""

from __future__ import annotations

import contextlib
import sqlite3
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.sqlite_engine.hub.leases import Lease
from bridge.sqlite_engine.model.reply import Rejection
from bridge.sqlite_engine.options import DatabaseOptions, HostRules
from tests.kit.protocol_client import ProtocolClient, activity, call, complete, signal, start, state
from tests.sqlite_engine.conftest import Restartable

OPTIONS = DatabaseOptions(max_lost_workers=2, loss_pause=0.01)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Restartable]:
    found = Restartable(tmp_path / "hub.db", OPTIONS)
    yield found
    found.now.stop()


def activities(hub: Restartable, *names: str) -> None:
    """Start an instance that waits for these activities."""
    remote = ProtocolClient(hub.now)
    start(hub.now, "work", "a")
    remote.turn(remote.take(), *(activity(number, name) for number, name in enumerate(names, 1)))
    for _ in names:
        remote.take()
    remote.stream.drain()
    remote.leave()


def failure(item: pb.WorkItem) -> pb.TaskFailureDetails:
    (event,) = [event for event in item.orchestratorRequest.newEvents if event.HasField("taskFailed")]
    return event.taskFailed.failureDetails


def test_only_the_culprit_is_given_up_and_runs_alone_before(hub: Restartable) -> None:
    activities(hub, "kills", "fine", "fine", "fine")
    # Two workers die with all four in progress
    for _ in range(2):
        remote = ProtocolClient(hub.now)
        assert {remote.take().activityRequest.name for _ in range(4)} == {"kills", "fine"}
        remote.leave()
    # From now on each runs alone
    remote = ProtocolClient(hub.now)
    ran: Counter[str] = Counter()
    failed = None
    while failed is None:
        item = remote.take()
        assert remote.nothing(), "something runs beside a suspect"
        if item.HasField("orchestratorRequest"):
            failed = next((each for each in item.orchestratorRequest.newEvents if each.HasField("taskFailed")), None)
            remote.turn(item)
            continue
        name = item.activityRequest.name
        ran[name] += 1
        if name == "fine":
            remote.result(item, "done")
        else:
            remote.leave()
            remote = ProtocolClient(hub.now)
    assert ran == {"kills": 2, "fine": 3}
    details = failed.taskFailed.failureDetails
    assert (details.errorType, details.isNonRetriable) == ("WorkerLost", True)
    assert "4 times" in details.errorMessage
    assert "2 of them while nothing else ran" in details.errorMessage


class StepRules(HostRules):
    never_alone = frozenset({"step"})


def test_an_activity_that_waits_for_its_worker_runs_beside_other_work_and_is_never_given_up(tmp_path: Path) -> None:
    hub = Restartable(tmp_path / "hub.db", replace(OPTIONS, rules=StepRules()))
    activities(hub, "step")
    for _ in range(6):
        remote = ProtocolClient(hub.now)
        assert remote.take().activityRequest.name == "step"
        signal(hub.now, "@counter@c", "add", 1)
        remote.batch(remote.take(), "1")
        remote.leave()
    remote = ProtocolClient(hub.now)
    remote.result(remote.take(), "done")
    [event] = [each for each in remote.take().orchestratorRequest.newEvents if each.HasField("taskCompleted")]
    assert event.taskCompleted.result.value == '"done"'
    assert counted(hub) == []
    hub.now.stop()


def test_an_orchestration_is_suspended_with_the_reason_and_resumes_afresh(hub: Restartable) -> None:
    start(hub.now, "work", "a")
    for _ in range(4):
        remote = ProtocolClient(hub.now)
        remote.take()
        remote.leave()
    assert remote.nothing()
    found = state(hub.now, "a")
    assert found.orchestrationStatus == pb.ORCHESTRATION_STATUS_SUSPENDED
    assert found.failureDetails.errorType == "WorkerLost"
    remote = ProtocolClient(hub.now)
    assert remote.nothing()
    call(hub.now, "ResumeInstance", pb.ResumeRequest(instanceId="a"))
    remote.turn(remote.take(), complete(1, "fine"))
    found = state(hub.now, "a")
    assert (found.orchestrationStatus, found.HasField("failureDetails")) == (pb.ORCHESTRATION_STATUS_COMPLETED, False)


def test_an_entity_is_held_with_its_operations_until_the_next_start(hub: Restartable) -> None:
    signal(hub.now, "@counter@c", "add", 1)
    for _ in range(4):
        remote = ProtocolClient(hub.now)
        remote.take()
        remote.leave()
    remote = ProtocolClient(hub.now)
    signal(hub.now, "@counter@c", "add", 2)
    assert remote.nothing()
    signal(hub.now, "@counter@other", "add", 1)
    remote.batch(remote.take(), "1")
    hub.again()
    remote = ProtocolClient(hub.now)
    assert len(remote.take().entityRequestV2.operationRequests) == 2


def test_counts_outlive_the_engine(hub: Restartable) -> None:
    activities(hub, "kills")
    for _ in range(3):
        remote = ProtocolClient(hub.now)
        remote.take()
        remote.leave()
        hub.again()
    remote = ProtocolClient(hub.now)
    remote.take()
    remote.leave()
    assert failure(ProtocolClient(hub.now).take()).errorType == "WorkerLost"


def counted(hub: Restartable) -> list[tuple[int, int]]:
    """Return the losses from the file: in total and alone."""
    with contextlib.closing(sqlite3.connect(hub.path)) as connection:
        return connection.execute("SELECT lost, alone FROM losses").fetchall()


def test_a_transaction_that_is_undone_counts_nothing(hub: Restartable, monkeypatch: pytest.MonkeyPatch) -> None:
    activities(hub, "kills", "fine")
    losses = hub.now.hub.losses
    assert losses is not None
    count = losses.lost

    def broken(lease: Lease) -> bool:
        again = count(lease)
        if lease.name == "fine":
            raise RuntimeError("a bug")
        return again

    monkeypatch.setattr(losses, "lost", broken)
    remote = ProtocolClient(hub.now)
    assert {remote.take().activityRequest.name for _ in range(2)} == {"kills", "fine"}
    remote.leave()
    # The activity whose loss cannot be recorded is given up; the other's loss counts once.
    remote = ProtocolClient(hub.now)
    items = [remote.take(), remote.take()]
    (turn,) = [item for item in items if item.HasField("orchestratorRequest")]
    assert failure(turn).errorType == "EngineError"
    assert counted(hub) == [(1, 0)]
    remote.turn(turn)
    remote.leave()
    assert remote.nothing()
    assert counted(hub) == [(2, 0)]
    # It runs alone from now on, and its losses are forgotten at its end.
    remote = ProtocolClient(hub.now)
    remote.result(remote.take(), "done")
    assert remote.take().HasField("orchestratorRequest")
    assert counted(hub) == []


def test_a_worker_that_answers_late_was_not_lost(hub: Restartable) -> None:
    activities(hub, "slow")
    for _ in range(20):
        remote = ProtocolClient(hub.now)
        item = remote.take()
        remote.leave()
        remote.nothing()
        with pytest.raises(Rejection, match="no longer"):
            remote.result(item, "late")
    remote = ProtocolClient(hub.now)
    remote.result(remote.take(), "done")
    assert remote.take().HasField("orchestratorRequest")


def test_a_drained_worker_and_an_engine_that_starts_over_count_nothing(hub: Restartable) -> None:
    activities(hub, "slow")
    for number in range(20):
        remote = ProtocolClient(hub.now)
        remote.take()
        if number % 2:
            remote.stream.drain()
            remote.leave()
        else:
            hub.again()
    remote = ProtocolClient(hub.now)
    remote.result(remote.take(), "done")
    assert remote.take().HasField("orchestratorRequest")


def test_zero_counts_nothing(tmp_path: Path) -> None:
    with contextlib.closing(contextlib.ExitStack()) as closing:
        hub = Restartable(tmp_path / "hub.db", DatabaseOptions(max_lost_workers=0))
        closing.callback(lambda: hub.now.stop())
        activities(hub, "kills")
        for _ in range(20):
            remote = ProtocolClient(hub.now)
            assert remote.take().activityRequest.name == "kills"
            remote.leave()


def test_a_suspect_that_no_connected_worker_takes_holds_nothing_up(hub: Restartable) -> None:
    activities(hub, "kills")
    for _ in range(2):
        remote = ProtocolClient(hub.now)
        remote.take()
        remote.leave()
    filters = pb.WorkItemFilters(orchestrations=[pb.OrchestrationFilter(name="other")])
    remote = ProtocolClient(hub.now, workItemFilters=filters)
    start(hub.now, "other", "b")
    remote.turn(remote.take(), complete(1, "fine"))
    assert state(hub.now, "b").orchestrationStatus == pb.ORCHESTRATION_STATUS_COMPLETED
