"""Fixture of the tests of rewinds: a worker whose activity fails as a test says."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Generator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from durabletask import task
from durabletask.client import OrchestrationState, OrchestrationStatus, TaskHubGrpcClient
from durabletask.entities import EntityContext
from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.engines.embedded.inprocess import InProcessChannel
from bridge.engines.embedded.worker import DirectWorker
from bridge.sqlite_engine.database import Database
from bridge.sqlite_engine.hub import rewind as rewinding
from bridge.sqlite_engine.model.reply import ThreadReply
from bridge.sqlite_engine.protocol.service import SidecarService
from tests.kit.protocol_client import call
from tests.kit.waiting import TIMEOUT
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
        self.client = TaskHubGrpcClient(channel=InProcessChannel(SidecarService(database)), logger=quiet())
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


def counter(ctx: EntityContext, amount: int) -> int:
    if amount < 0:
        raise ValueError("negative")
    ctx.set_state(ctx.get_state(int, 0) + amount)
    return ctx.get_state(int, 0)


def rewind_and_die(path: Path, instance_id: str) -> None:
    """Rewind in this process, which dies at the rewind of the third instance of the tree."""
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


if __name__ == "__main__":
    rewind_and_die(Path(sys.argv[1]), sys.argv[2])
