"""Unread events: limited per instance; an event beyond the limit is refused."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from durabletask import task
from durabletask.client import TaskHubGrpcClient
from durabletask.internal import helpers
from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.engines.embedded.inprocess import InProcessChannel
from bridge.engines.embedded.worker import DirectWorker
from bridge.sqlite_engine.database import Database
from bridge.sqlite_engine.model.reply import Rejection
from bridge.sqlite_engine.options import DatabaseOptions
from bridge.sqlite_engine.protocol.service import SidecarService
from tests.kit.protocol_client import ProtocolClient, call, raise_event, start, state
from tests.kit.waiting import TIMEOUT
from tests.sqlite_engine.conftest import Restartable
from tests.sqlite_engine.test_worker import outcome, quiet

RUNNING = pb.ORCHESTRATION_STATUS_RUNNING


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Restartable]:
    options = DatabaseOptions(unread_events=5, unread_bytes=20_000, max_work_item=100_000)
    found = Restartable(tmp_path / "small.db", options)
    yield found
    found.now.stop()


def refused(database: Database, instance_id: str, name: str, data: Any = None) -> bool:
    try:
        raise_event(database, instance_id, name, data)
    except Rejection as error:
        found = error
    else:
        return False
    assert found.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert re.fullmatch(r"The instance has \d+ unread events of \d+ bytes; no further event is taken", found.details)
    return True


def asks(number: int) -> pb.OrchestratorAction:
    """Create an action without work."""
    return helpers.new_create_timer_action(number, datetime(2200, 1, 1))  # noqa: DTZ001 -- as the SDK has it


def collects(ctx: task.OrchestrationContext, wanted: int) -> Any:
    for _ in range(wanted):
        yield ctx.wait_for_external_event("item")
    return "done"


def worker_of(database: Database, sessions: int = 1000) -> DirectWorker:
    worker = DirectWorker(database, logger=quiet(), sessions=sessions)
    worker.add_orchestrator(collects)
    worker.start()
    return worker


def test_events_that_no_turn_takes_are_bounded(small: Restartable) -> None:
    start(small.now, "nothing", "i")
    assert [refused(small.now, "i", f"e{number}") for number in range(7)] == [False] * 5 + [True] * 2
    start(small.now, "nothing", "j")
    assert not refused(small.now, "j", "e", "x" * 15_000)
    assert refused(small.now, "j", "e", "x" * 15_000)
    assert not refused(small.now, "j", "e", "small")
    assert small.now.hub.events_refused == 3
    again = small.again()
    assert [refused(again, "i", "e"), refused(again, "j", "e", "x" * 15_000), refused(again, "j", "e")] == [
        True, True, False,
    ]  # fmt: skip


def until_read(database: Database, instance_id: str, left: int) -> None:
    """Return when the turns of an instance have left this number of unread events."""
    end = time.monotonic() + TIMEOUT
    while (instance := database.hub.instances.by_id(instance_id)) is None or instance.unread_events != left:
        assert time.monotonic() < end
        state(database, instance_id)


def test_what_an_orchestrator_reads_does_not_count(small: Restartable) -> None:
    worker = worker_of(small.now)
    start(small.now, "collects", "i", 50)
    for number in range(49):
        unwanted = number // 13
        if number % 13 == 0:
            assert not refused(small.now, "i", "unwanted", number)
        assert not refused(small.now, "i", "item", number)
        until_read(small.now, "i", unwanted + 1)
    assert not refused(small.now, "i", "unwanted")
    assert refused(small.now, "i", "unwanted")
    assert state(small.now, "i").orchestrationStatus == RUNNING
    worker.stop()


def test_the_last_event_reaches_an_instance_whose_unread_ones_are_full(small: Restartable) -> None:
    """The limit has no reserve for events with awaited names; their refusal does not fail the instance."""
    worker = worker_of(small.now)
    start(small.now, "collects", "i", 2)
    for number in range(5):
        assert not refused(small.now, "i", "unwanted", number)
    assert refused(small.now, "i", "item")
    assert state(small.now, "i").orchestrationStatus == RUNNING
    worker.stop()


def test_a_worker_that_reports_nothing_is_judged_by_what_its_orchestrators_ask_for(small: Restartable) -> None:
    remote = ProtocolClient(small.now)
    start(small.now, "waits", "i")
    remote.turn(remote.take())
    for number in range(5):
        waiting = raise_in_background(small.now, "i", f"e{number}")
        remote.turn(remote.take())
        waiting.join()
    assert refused(small.now, "i", "e")
    start(small.now, "acts", "j")
    remote.turn(remote.take())
    for number in range(12):
        waiting = raise_in_background(small.now, "j", f"e{number}")
        remote.turn(remote.take(), asks(number + 1))
        waiting.join()
    assert not refused(small.now, "j", "e")
    remote.leave()


def test_events_alone_never_make_a_history_too_large_for_a_message(small: Restartable) -> None:
    """A worker behind a connection receives the whole history in one message, read events included."""
    remote = ProtocolClient(small.now)
    start(small.now, "acts", "i")
    remote.turn(remote.take())
    taken = 0
    while not refused(small.now, "i", "e", "x" * 9_000):
        taken += 1
        remote.turn(remote.take(), asks(taken))
    assert taken >= 8
    assert state(small.now, "i").orchestrationStatus == RUNNING
    # Space remains for the instance's own events
    call(small.now, "SuspendInstance", pb.SuspendRequest(instanceId="i"))
    call(small.now, "ResumeInstance", pb.ResumeRequest(instanceId="i"))
    remote.turn(remote.take())
    assert state(small.now, "i").orchestrationStatus == RUNNING
    remote.leave()


def test_continue_as_new_begins_to_count_anew(small: Restartable) -> None:
    remote = ProtocolClient(small.now)
    start(small.now, "eternal", "i")
    remote.turn(remote.take())
    for round_ in range(4):
        for number in range(3):
            waiting = raise_in_background(small.now, "i", f"e{number}")
            item = remote.take()
            if number < 2:
                remote.turn(item)
            else:
                kept = helpers.new_event_raised_event("kept", None) if round_ == 0 else None
                anew = helpers.new_complete_orchestration_action(
                    1, pb.ORCHESTRATION_STATUS_CONTINUED_AS_NEW, "null", None, [kept] if kept else None
                )
                remote.turn(item, anew)
                remote.turn(remote.take())
            waiting.join()
    assert not refused(small.now, "i", "e")
    remote.leave()


def test_without_sessions_a_worker_in_the_process_is_judged_by_what_is_asked_for(small: Restartable) -> None:
    worker = worker_of(small.now, sessions=0)
    client = TaskHubGrpcClient(channel=InProcessChannel(SidecarService(small.now)), logger=quiet())
    start(small.now, "collects", "i", 4)
    for number in range(4):
        assert not refused(small.now, "i", "item", number)
    assert outcome(client, "i") == '"done"'
    worker.stop()


def raise_in_background(database: Database, instance_id: str, name: str) -> threading.Thread:
    """Raise an event whose answer waits for the turn that takes it."""
    thread = threading.Thread(target=raise_event, args=(database, instance_id, name))
    thread.start()
    return thread
