"""Engine killed at random moments: acknowledged work is finished, with correct results."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import sqlite3
import time
from pathlib import Path

import pytest
from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.sqlite_engine.database import Database
from bridge.sqlite_engine.model.reply import Rejection
from bridge.sqlite_engine.model.values import StringValue
from tests.kit.waiting import eventually_blocking
from tests.sqlite_engine import crash_child
from tests.sqlite_engine.crash_child import EVENTS, call, expected, worker_for

pytestmark = pytest.mark.long

KILLS = 25


class Acknowledged:
    """Acknowledgements that the children wrote to a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.starts: list[str] = []
        self.events: dict[str, set[int]] = {}
        self._offset = 0
        self.marks: list[str] = []

    def read(self) -> None:
        with self.path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.decode().splitlines():
            word, *rest = line.split()
            if word == "start":
                self.starts.append(rest[0])
            elif word == "event":
                self.events.setdefault(rest[0], set()).add(int(rest[1]))
            else:
                self.marks.append(word)

    def missing(self) -> list[tuple[str, list[int]]]:
        """Return the events without acknowledgement: their acceptance is unknown, and they are raised again."""
        found = []
        for instance_id in self.starts:
            if instance_id.startswith("events-"):
                left = [n for n in range(EVENTS) if n not in self.events.get(instance_id, set())]
                if left:
                    found.append((instance_id, left))
        return found


def wait_for_mark(acknowledged: Acknowledged, mark: str, process: multiprocessing.process.BaseProcess) -> None:
    def is_marked() -> bool:
        assert process.is_alive()
        acknowledged.read()
        return mark in acknowledged.marks

    eventually_blocking(is_marked, mark)


def wait_for_starts(acknowledged: Acknowledged, number: int, process: multiprocessing.process.BaseProcess) -> None:
    def are_there() -> bool:
        assert process.is_alive()
        acknowledged.read()
        return len(acknowledged.starts) >= number

    eventually_blocking(are_there, f"{number} starts")


@pytest.mark.timeout(180)
def test_killed_at_random_moments_it_finishes_everything_it_acknowledged(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.sqlite_engine.crash_child"])
    path, log = tmp_path / "hub.db", tmp_path / "acknowledged"
    log.touch()
    acknowledged = Acknowledged(log)
    chance = random.Random(20260)
    for kill in range(KILLS):
        acknowledged.marks.clear()
        arguments = (str(path), str(log), f"{kill}", acknowledged.missing(), True)
        child = context.Process(target=crash_child.run, args=arguments, daemon=True)
        child.start()
        # Every third child dies during recovery, the others under load.
        wait_for_mark(acknowledged, "ready", child)
        if kill % 3 != 2:
            wait_for_starts(acknowledged, len(acknowledged.starts) + chance.randint(5, 50), child)
        time.sleep(chance.uniform(0, 0.02))
        os.kill(child.pid or 0, signal.SIGKILL)
        child.join()
        acknowledged.read()
    database = Database(path)
    database.start()
    worker = worker_for(database)
    worker.start()
    try:
        for instance_id, numbers in acknowledged.missing():
            for number in numbers:
                raise_missing(database, instance_id, number)
        wrong = []
        for instance_id in acknowledged.starts:
            kind, _, value = instance_id.split("-")
            request = pb.GetInstanceRequest(instanceId=instance_id, getInputsAndOutputs=True)
            state = call(database, "WaitForInstanceCompletion", request).orchestrationState
            right = state.orchestrationStatus == pb.ORCHESTRATION_STATUS_COMPLETED
            if not right or state.output.value != str(expected(kind, int(value))):
                wrong.append((instance_id, state.orchestrationStatus, state.output.value))
        assert not wrong
        check_shared_counters(database)
    finally:
        worker.stop()
        database.stop()
    assert integrity(path) == "ok"


def raise_missing(database: Database, instance_id: str, number: int) -> None:
    request = pb.RaiseEventRequest(instanceId=instance_id, name="number", input=StringValue(value=str(number)))
    # Without an acknowledgement the first attempt may have taken effect, and the instance may have finished since.
    with contextlib.suppress(Rejection):
        call(database, "RaiseEvent", request)


def check_shared_counters(database: Database) -> None:
    """Assert that each counting orchestration counted once, acknowledged or not: signals and calls take effect once."""
    query = pb.QueryInstancesRequest(query=pb.InstanceQuery(maxInstanceCount=1000))
    finished = started = 0
    deadline = time.monotonic() + 30
    while True:
        page = call(database, "QueryInstances", query)
        for state in page.orchestrationState:
            if state.name == "counting":
                started += 1
                finished += state.orchestrationStatus == pb.ORCHESTRATION_STATUS_COMPLETED
        if page.HasField("continuationToken"):
            query.query.continuationToken.CopyFrom(page.continuationToken)
            continue
        if finished == started:
            break
        assert time.monotonic() < deadline
        finished = started = 0
        query.query.ClearField("continuationToken")
    for key in ("shared", "locked"):
        while True:
            request = pb.GetEntityRequest(instanceId=f"@counter@{key}", includeState=True)
            entity = call(database, "GetEntity", request).entity
            if entity.backlogQueueSize == 0:
                break
            assert time.monotonic() < deadline
        assert entity.serializedState.value == str(started)


def integrity(path: Path) -> str:
    with sqlite3.connect(path) as connection:
        return str(connection.execute("PRAGMA integrity_check").fetchone()[0])
