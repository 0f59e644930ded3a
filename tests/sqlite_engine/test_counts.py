"""Counts of instances: equal to a count by query after any operation, crash and upgrade; ends are reported once."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import tempfile
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from queue import Empty
from typing import Any

import pytest
from durabletask.internal import orchestrator_service_pb2 as pb
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from bridge.engines.embedded.host_rules import BridgeRules
from bridge.sqlite_engine.database import Database
from bridge.sqlite_engine.maintenance.upkeep import check
from bridge.sqlite_engine.model.instance import FAILED, Finish
from bridge.sqlite_engine.model.reply import Rejection, ThreadReply
from bridge.sqlite_engine.options import DatabaseOptions
from bridge.sqlite_engine.storage import counts
from tests.kit.protocol_client import ProtocolClient, activity, again, begin, call, child, complete, fail, start, text
from tests.sqlite_engine import crash_child
from tests.sqlite_engine.conftest import Restartable
from tests.sqlite_engine.test_crash import Acknowledged, wait_for_mark

pytestmark = pytest.mark.long

IDS = ["a", "b", "c", "a:child"]
SAGA = {"format": 1, "definition": {"name": "checkout", "steps": []}, "input": {"definition": {"name": "payload"}}}


def by_query(database: Database) -> dict[tuple[Any, ...], int]:
    """Count the instances of the file, as another connection sees them."""
    query = (
        "SELECT name, coalesce(saga, ''), CASE WHEN suspended AND finished_at IS NULL THEN 7 ELSE status END,"
        " coalesce(outcome, ''), count(*) FROM instances GROUP BY 1, 2, 3, 4"
    )
    with closing(sqlite3.connect(database.path)) as connection:
        return {tuple(row[:4]): row[4] for row in connection.execute(query)}


def kept(database: Database) -> dict[tuple[Any, ...], int]:
    with closing(sqlite3.connect(database.path)) as connection:
        rows = connection.execute("SELECT name, saga, status, outcome, number FROM counts WHERE day=0 AND number<>0")
        return {tuple(row[:4]): row[4] for row in rows}


def settle(database: Database) -> None:
    """Wait until everything that was submitted is committed, with its consequences."""
    for _ in range(2):
        call(database, "GetInstance", pb.GetInstanceRequest(instanceId="nobody"))


def existing(database: Database) -> dict[tuple[str, ...], int]:
    settle(database)
    return counted(database.path, days=False)


def ended(database: Database) -> dict[tuple[str, ...], int]:
    settle(database)
    return counted(database.path, days=True)


def counted(path: Path, *, days: bool) -> dict[tuple[str, ...], int]:
    rows = counts.read(path)
    assert rows is not None
    return {row[1:5]: row[5] for row in rows if (row[0] > 0) == days}


def saga_status(saga: str, status: str, **more: Any) -> Any:
    return text(json.dumps({"saga": saga, "status": status, "steps": {}, **more}))


def started(name: str, instance_id: str) -> pb.CreateInstanceRequest:
    data = SAGA if name == "bridge.saga" else {"amount": 1}
    return pb.CreateInstanceRequest(instanceId=instance_id, name=name, input=text(json.dumps(data)))


def called(kind: str, instance_id: str) -> tuple[str, Any]:
    """Name and request of a call of a client."""
    requests: dict[str, Callable[[], tuple[str, Any]]] = {
        "start": lambda: ("StartInstance", started("work", instance_id)),
        "start saga": lambda: ("StartInstance", started("bridge.saga", instance_id)),
        "terminate": lambda: ("TerminateInstance", pb.TerminateRequest(instanceId=instance_id, recursive=True)),
        "suspend": lambda: ("SuspendInstance", pb.SuspendRequest(instanceId=instance_id)),
        "resume": lambda: ("ResumeInstance", pb.ResumeRequest(instanceId=instance_id)),
        "rewind": lambda: ("RewindInstance", pb.RewindInstanceRequest(instanceId=instance_id)),
        "restart": lambda: ("RestartInstance", pb.RestartInstanceRequest(instanceId=instance_id)),
        "restart anew": lambda: (
            "RestartInstance",
            pb.RestartInstanceRequest(instanceId=instance_id, restartWithNewInstanceId=True),
        ),
        "raise": lambda: ("RaiseEvent", pb.RaiseEventRequest(instanceId=instance_id, name="e", input=text("1"))),
        "purge": lambda: ("PurgeInstances", pb.PurgeInstancesRequest(instanceId=instance_id, recursive=True)),
        "purge twice": lambda: (
            "PurgeInstances",
            pb.PurgeInstancesRequest(instanceBatch=pb.InstanceBatch(instanceIds=[instance_id, instance_id, "b"])),
        ),
        "purge all": lambda: (
            "PurgeInstances",
            pb.PurgeInstancesRequest(purgeInstanceFilter=pb.PurgeInstanceFilter(runtimeStatus=[FAILED])),
        ),
        "delete hub": lambda: ("DeleteTaskHub", pb.DeleteTaskHubRequest()),
    }
    return requests[kind]()


CALLS = [
    "start", "start saga", "terminate", "suspend", "resume", "rewind", "restart", "restart anew", "raise", "purge",
    "purge twice", "purge all",
]  # fmt: skip
ENDS = ["completed", "compensated", "compensation_failed", "failed", "running"]


class CountModel(RuleBasedStateMachine):
    """Random calls, alone and in groups, turns, damage and crashes."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.files = 0
        self.number = 0
        self._open()

    def _open(self) -> None:
        options = DatabaseOptions(disposable=True, max_lost_workers=2, rules=BridgeRules())
        self.database = Database(self.directory / f"{self.files}.db", options)
        self.database.start()
        self.worker = ProtocolClient(self.database)

    def teardown(self) -> None:
        self.database.stop()
        shutil.rmtree(self.directory)

    @rule(wanted=st.lists(st.tuples(st.sampled_from(CALLS), st.sampled_from(IDS)), min_size=1, max_size=8))
    def calls(self, wanted: list[tuple[str, str]]) -> None:
        """Make calls at once: the writer runs them in one transaction, or in a few."""
        requests = [called(*each) for each in wanted]
        replies = [begin(self.database, *each) for each in requests]
        for (method, _), reply in zip(requests, replies, strict=True):
            if method != "RaiseEvent":  # which may wait for the end of the turn in flight
                with suppress(Rejection):
                    reply.future.result(20)

    @rule()
    def delete_hub(self) -> None:
        call(self.database, *called("delete hub", ""))

    @rule(how=st.sampled_from(["complete", "fail", "child", "activity", "again", "wait"]), end=st.sampled_from(ENDS))
    def turn(self, how: str, end: str) -> None:
        try:
            item = self.worker._items.get(timeout=0.02)
        except Empty:
            return
        if not item.HasField("orchestratorRequest"):
            with suppress(Rejection):
                self.worker.result(item, None, pb.TaskFailureDetails(errorType="Broken") if end == "failed" else None)
            return
        self.number += 1
        number = self.number
        actions = {
            "complete": [complete(number, 1)],
            "fail": [fail(number, "x")],
            "child": [child(number, "work", "a:child")],
            "activity": [activity(number, "x")],
            "again": [again(number, SAGA)],
            "wait": [],
        }[how]
        with suppress(Rejection):
            self.worker.turn(item, *actions, customStatus=saga_status("trip", end))

    @rule(instance_id=st.sampled_from(IDS), after=st.sampled_from(["end", "replace", "create", "empty"]))
    def operation_fails(self, instance_id: str, after: str) -> None:
        hub = self.database.hub

        def broken() -> None:
            instance = hub.find(instance_id)
            if after == "create":
                hub.create(f"{instance_id}-new", pb.CreateInstanceRequest(name="work"))
            elif after == "empty":
                hub.empty()
            elif instance is not None and after == "replace":
                hub.replace(instance)
            elif instance is not None and not instance.finished:
                hub.end(instance, FAILED, None, None)
            hub.tx.flush()
            raise RuntimeError("a bug")

        reply = ThreadReply()
        self.database.writer.submit(broken, reply=reply)
        assert isinstance(reply.future.exception(20), Rejection)

    @rule(instance_id=st.sampled_from(IDS))
    def cannot_be_read(self, instance_id: str) -> None:
        """Damage the input of an instance, which then fails without being read."""
        hub = self.database.hub

        def damage() -> None:
            instance = hub.find(instance_id)
            if instance is not None and not instance.finished:
                hub.tx.flush()
                hub.end_unseen(instance.key, pb.TaskFailureDetails(errorType="EngineError"))

        reply = ThreadReply()
        self.database.writer.submit(damage, reply=reply)
        reply.future.result(20)

    @rule()
    def lose_the_worker(self) -> None:
        self.worker.leave()
        self.worker = ProtocolClient(self.database)

    @rule()
    def crash(self) -> None:
        old = self.directory / f"{self.files}.db"
        self.files += 1
        for suffix in ("", "-wal"):
            source = old.with_name(old.name + suffix)
            if source.exists():
                shutil.copy(source, self.directory / f"{self.files}.db{suffix}")
        self.database.stop()
        self._open()

    @invariant()
    def counts_are_equal(self) -> None:
        settle(self.database)
        assert kept(self.database) == by_query(self.database)
        assert self.database.writer.broken is None


CountModel.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
)
TestCounts = CountModel.TestCase


def test_a_declared_saga_is_counted_under_its_own_name(restartable: Restartable) -> None:
    database = restartable.now
    worker = ProtocolClient(database)
    start(database, "bridge.saga", "s", SAGA)
    start(database, "bridge.saga", "wrapped", {"bridge:message": {"id": '"definition": {"name": "x"}'}, "data": SAGA})
    assert existing(database) == {("bridge.saga", "checkout", "PENDING", ""): 2}
    item = worker.take()
    worker.turn(item, complete(1), customStatus=saga_status("checkout", "compensated"))
    call(database, "TerminateInstance", pb.TerminateRequest(instanceId="wrapped"))
    assert existing(database) == {
        ("bridge.saga", "checkout", "COMPLETED", "compensated"): 1,
        ("bridge.saga", "checkout", "TERMINATED", "terminated"): 1,
    }
    call(database, "PurgeInstances", pb.PurgeInstancesRequest(instanceId="s"))
    assert existing(database) == {("bridge.saga", "checkout", "TERMINATED", "terminated"): 1}
    assert ended(database)["bridge.saga", "checkout", "COMPLETED", "compensated"] == 1


@pytest.mark.parametrize("status", ["null", "[]", '{"saga": 1}', '{"saga": "x"', '{"saga": {"a": []}}', '"saga"'])
def test_a_custom_status_of_another_form_names_no_saga(restartable: Restartable, status: str) -> None:
    worker = ProtocolClient(restartable.now)
    start(restartable.now, "work", "a")
    worker.turn(worker.take(), complete(1), customStatus=text(status))
    assert existing(restartable.now) == {("work", "", "COMPLETED", ""): 1}


@pytest.mark.parametrize("name", ["a\nb", "a\\x", "\\ud800", "\\u0007", "", "x" * 5000])
def test_a_start_input_that_is_not_the_bridges_is_counted(restartable: Restartable, name: str) -> None:
    request = pb.CreateInstanceRequest(
        instanceId="s", name="bridge.saga", input=text(f'{{"definition": {{"name": "{name}"}}}}')
    )
    call(restartable.now, "StartInstance", request)
    [(_, saga, status, _)] = existing(restartable.now)
    assert status == "PENDING"
    assert saga.isprintable()
    assert len(saga) <= 100
    call(restartable.now, "TerminateInstance", pb.TerminateRequest(instanceId="s"))
    assert kept(restartable.now) == by_query(restartable.now)


def test_names_that_code_makes_up_have_one_count(restartable: Restartable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.engines.embedded.host_rules.MAX_SAGAS", 3)
    monkeypatch.setattr("bridge.sqlite_engine.storage.counts.MAX_DAY_KEYS", 3)
    database = restartable.now
    worker = ProtocolClient(database)
    for number in range(9):
        start(database, "work", f"i-{number}")
        worker.turn(worker.take(), complete(1), customStatus=saga_status(f"order-{'abcdefghi'[number]}", "completed"))
    assert sorted(existing(database).items()) == [
        (("work", "(other)", "COMPLETED", "completed"), 6),
        *((("work", f"order-{'abc'[number]}", "COMPLETED", "completed"), 1) for number in range(3)),
    ]
    assert sum(ended(database).values()) == 9
    assert len(ended(database)) == 4
    assert kept(database) == by_query(database)


@pytest.mark.parametrize("name", ["order-4711", "4711", "anna@example.org", "saga of anna", "order.2030-01-01", "a/b"])
def test_names_that_may_be_payload_share_one_count(restartable: Restartable, name: str) -> None:
    database = restartable.now
    worker = ProtocolClient(database)
    start(database, "work", "i-1")
    worker.turn(worker.take(), complete(1), customStatus=saga_status(name, "completed"))
    assert list(existing(database)) == [("work", "(other)", "COMPLETED", "completed")]
    assert kept(database) == by_query(database)


def test_ends_are_reported_once_with_their_cause(restartable: Restartable) -> None:
    database = restartable.now
    found: list[Finish] = []
    database.hub.watch_finishes(found.extend)
    worker = ProtocolClient(database)
    start(database, "work", "a", 1)
    worker.turn(worker.take(), activity(1, "charge"))
    worker.result(worker.take(), failure=pb.TaskFailureDetails(errorType="KeyError", errorMessage="secret"))
    worker.turn(worker.take(), fail(2, "Activity task #1 failed"))
    start(database, "work", "b")
    call(database, "TerminateInstance", pb.TerminateRequest(instanceId="b"))
    worker.take()
    settle(database)
    assert [(each.instance_id, each.name, each.status, each.is_failure) for each in found] == [
        ("a", "work", FAILED, True), ("b", "work", pb.ORCHESTRATION_STATUS_TERMINATED, False),
    ]  # fmt: skip
    assert found[0].cause is not None
    assert found[0].cause.errorType == "KeyError"
    assert found[0].seconds >= 0
    call(database, "RewindInstance", pb.RewindInstanceRequest(instanceId="a"))
    for _ in range(2):
        item = worker.take()
        if item.HasField("activityRequest"):
            worker.result(item, "charged")
        else:
            worker.turn(item)
    worker.turn(worker.take(), complete(3))
    settle(database)
    assert [each.status for each in found[2:]] == [pb.ORCHESTRATION_STATUS_COMPLETED]
    assert existing(database) == {("work", "", "COMPLETED", ""): 1, ("work", "", "TERMINATED", ""): 1}
    assert sum(ended(database).values()) == 3


def test_check_compares_one_moment_while_the_engine_runs(restartable: Restartable) -> None:
    database = restartable.now
    for number in range(500):
        start(database, "work", f"i-{number}")
    replies = [
        begin(database, "TerminateInstance", pb.TerminateRequest(instanceId=f"i-{number}")) for number in range(500)
    ]
    checks = 0
    while not all(each.future.done() for each in replies) or checks < 3:
        assert check(restartable.path) == []
        checks += 1


def test_check_names_a_count_that_differs(restartable: Restartable) -> None:
    start(restartable.now, "work", "a")
    assert check(restartable.path) == []
    restartable.now.stop()
    with closing(sqlite3.connect(restartable.path)) as connection, connection:
        connection.execute("UPDATE counts SET number=5 WHERE day=0")
    assert check(restartable.path) == ["counts: 5 instances are counted as work PENDING, and 1 are there"]


@pytest.mark.timeout(180)
def test_killed_while_instances_finish_the_counts_are_equal(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.sqlite_engine.crash_child"])
    path, log = tmp_path / "hub.db", tmp_path / "acknowledged"
    log.touch()
    acknowledged = Acknowledged(log)
    chance = random.Random(20261)
    for kill in range(8):
        acknowledged.marks.clear()
        child_ = context.Process(target=crash_child.run, args=(str(path), str(log), f"{kill}", [], True), daemon=True)
        child_.start()
        wait_for_mark(acknowledged, "ready", child_)
        before, more = len(acknowledged.starts), chance.randrange(1, 200)
        while len(acknowledged.starts) < before + more:
            assert child_.is_alive()
            time.sleep(0.005)
            acknowledged.read()
        os.kill(child_.pid or 0, signal.SIGKILL)
        child_.join()
        assert check(path) == []
    assert sum(counted(path, days=False).values()) >= len(acknowledged.starts)
