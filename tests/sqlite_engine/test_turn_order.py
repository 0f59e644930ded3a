"""Order of turns: what a worker has in memory goes on before anything new begins, and nothing waits for ever."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from durabletask import task
from durabletask.client import OrchestrationStatus, TaskHubGrpcClient
from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.engines.embedded.inprocess import InProcessChannel
from bridge.engines.embedded.worker import DirectWorker
from bridge.sqlite_engine.database import Database
from bridge.sqlite_engine.hub import turn_order
from bridge.sqlite_engine.protocol.service import SidecarService
from tests.kit.protocol_client import ProtocolClient, activity, call, complete, raise_event, start
from tests.kit.waiting import TIMEOUT


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never begin an orchestration because the others are slow."""
    monkeypatch.setattr(turn_order, "STALL_SECONDS", 3600.0)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "hub.db")
    database.start()
    yield database
    database.stop()


def names(client: ProtocolClient, number: int) -> list[str]:
    """Take this many items. Returns the instance of each turn, and the name of each activity."""
    taken = [client.take() for _ in range(number)]
    client.items = {  # type: ignore[attr-defined] # of this test
        item.orchestratorRequest.instanceId or item.activityRequest.name: item for item in taken
    }
    return sorted(client.items)  # type: ignore[attr-defined]


def items(client: ProtocolClient) -> dict[str, pb.WorkItem]:
    return client.items  # type: ignore[attr-defined] # of this test


def test_new_orchestrations_wait_while_memory_is_full_of_begun_ones(database: Database, patient: None) -> None:
    client = ProtocolClient(database, sessions=(2, 1 << 20))
    for each in "abc":
        start(database, "work", each)
    assert names(client, 2) == ["a", "b"]
    assert client.nothing()
    turns = items(client)
    client.turn(turns["a"], activity(1, "step a"))
    client.turn(turns["b"], activity(1, "step b"))
    assert names(client, 2) == ["step a", "step b"]
    assert client.nothing(), "c would push one of the others out of memory"
    client.result(items(client)["step a"], 1)
    assert names(client, 1) == ["a"]
    client.turn(items(client)["a"], complete(2, "done"))
    assert names(client, 1) == ["c"]


def test_bytes_limit_what_is_in_motion(database: Database, patient: None) -> None:
    client = ProtocolClient(database, sessions=(100, 1000))
    start(database, "work", "a", "x" * 2000)
    assert names(client, 1) == ["a"]
    client.turn(items(client)["a"], activity(1, "step"))
    assert names(client, 1) == ["step"]
    start(database, "work", "b")
    client.result(items(client)["step"], 1)
    assert names(client, 1) == ["a"], "the first one has more bytes than all may have"
    assert client.nothing()
    client.turn(items(client)["a"], complete(2, "done"))
    assert names(client, 1) == ["b"]


def test_what_waits_for_messages_is_not_in_motion(database: Database, patient: None) -> None:
    client = ProtocolClient(database, sessions=(1, 1 << 20))
    for each in "ab":
        start(database, "work", each)
        assert names(client, 1) == [each]
        client.turn(items(client)[each])
    raise_event(database, "a", "go")
    assert names(client, 1) == ["a"]


def test_one_orchestration_does_not_stop_another_kind(database: Database, patient: None) -> None:
    client = ProtocolClient(database, sessions=(1, 1 << 20))
    start(database, "slow", "a")
    names(client, 1)
    client.turn(items(client)["a"], activity(1, "step"))
    assert names(client, 1) == ["step"]
    start(database, "slow", "b")
    assert client.nothing()
    start(database, "quick", "c")
    assert names(client, 1) == ["c"]


def test_new_orchestrations_begin_when_the_others_are_slow(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turn_order, "STALL_SECONDS", 0.01)
    client = ProtocolClient(database, sessions=(1, 1 << 20))
    for each in "abc":
        start(database, "work", each)
    assert names(client, 1) == ["a"]
    client.turn(items(client)["a"], activity(1, "step"))
    assert names(client, 3) == ["b", "c", "step"]


@pytest.mark.parametrize("ends", ["terminated", "worker lost"])
def test_an_end_by_other_means_makes_room(database: Database, patient: None, ends: str) -> None:
    client = ProtocolClient(database, sessions=(1, 1 << 20))
    start(database, "work", "a")
    names(client, 1)
    client.turn(items(client)["a"], activity(1, "step"))
    names(client, 1)
    start(database, "work", "b")
    assert client.nothing()
    if ends == "terminated":
        call(database, "TerminateInstance", pb.TerminateRequest(instanceId="a"))
    else:
        client.leave()
        client = ProtocolClient(database)  # a worker that keeps nothing sets no limit
        assert names(client, 2) == ["b", "step"]
        return
    assert names(client, 1) == ["b"]


def test_a_burst_beyond_the_sessions_replays_nothing(database: Database, patient: None) -> None:
    def echo(ctx: task.ActivityContext, value: int) -> int:
        return value

    def chain(ctx: task.OrchestrationContext, value: int) -> Generator[task.Task[Any], Any, int]:
        for _ in range(4):
            value = yield ctx.call_activity(echo, input=value + 1)
        return value

    logger = logging.getLogger("tests.turn_order")
    logger.setLevel(logging.CRITICAL)
    for number in range(200):
        start(database, "chain", f"i-{number}", number)
    worker = DirectWorker(database, logger=logger, sessions=10)
    worker.add_orchestrator(chain)
    worker.add_activity(echo)
    worker.start()
    client = TaskHubGrpcClient(channel=InProcessChannel(SidecarService(database)), logger=logger)
    for number in range(200):
        state = client.wait_for_orchestration_completion(f"i-{number}", timeout=TIMEOUT)
        assert state is not None
        assert state.runtime_status is OrchestrationStatus.COMPLETED
    assert worker.stats.replays == 0
    worker.stop()
