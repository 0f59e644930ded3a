"""Steps of the wall clock forward and back: everything due by the clock happens, and nothing is lost."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.sqlite_engine.database import Database
from bridge.sqlite_engine.hub.working_set import OperationKind
from bridge.sqlite_engine.model.values import due, micros, timestamp
from bridge.sqlite_engine.options import DatabaseOptions, RetentionPolicy
from bridge.system.clock import TRUSTED
from tests.kit.protocol_client import (
    ProtocolClient,
    activity,
    call,
    complete,
    fail,
    kinds,
    raise_event,
    signal,
    start,
    state,
    timer,
)
from tests.sqlite_engine.conftest import Restartable, SteppedClock
from tests.sqlite_engine.test_entity import operations

HOUR, YEAR = 3600.0, 365 * 86400.0
STEPS = [sign * size for size in (1.0, HOUR, YEAR) for sign in (1, -1)]
SHORT = 300_000
"""Duration of the tests' timers, in microseconds."""


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock()


@pytest.fixture
def engine(tmp_path: Path, clock: SteppedClock) -> Iterator[Restartable]:
    found = Restartable(tmp_path / "hub.db", DatabaseOptions(clock=clock))
    yield found
    found.now.stop()


def noticed(database: Database) -> None:
    """Wait until the engine has read the clock."""
    call(database, "GetInstance", pb.GetInstanceRequest(instanceId="nobody"))


def turn_time(item: pb.WorkItem) -> int:
    return micros(item.orchestratorRequest.newEvents[0].timestamp)


def make(engine: Restartable, remote: ProtocolClient, name: str, item: pb.WorkItem, at: int) -> None:
    """Create a timer, a scheduled start and a scheduled signal that are due after a short while by the present
    clock."""
    remote.turn(item, timer(1, turn_time(item) + SHORT))
    start(engine.now, "work", f"{name}-later", scheduledStartTimestamp=timestamp(at + SHORT))
    signal(engine.now, f"@c@{name}", "go", scheduledTime=timestamp(at + SHORT))


def arrived(remote: ProtocolClient) -> set[str]:
    """Take the three items of `make`, in order of arrival. Returns their names."""
    found = set()
    for _ in range(3):
        item = remote.take()
        if item.HasField("entityRequestV2"):
            assert operations(item) == ["go"]
            found.add("signal")
            remote.batch(item, None, new_state=1)
        else:
            found.add(kinds(item)[0])
            remote.turn(item, complete(9))
    return found


ALL = {"timerFired", "executionStarted", "signal"}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("made", ["before", "during", "after"])
@pytest.mark.parametrize("restarts", [False, True])
def test_everything_that_is_due_comes_when_the_clock_is_right_again(
    engine: Restartable, clock: SteppedClock, step: float, made: str, restarts: bool
) -> None:
    remote = ProtocolClient(engine.now)
    start(engine.now, "work", "i")
    item = remote.take()
    if made == "before":
        make(engine, remote, made, item, clock.wall())
        noticed(engine.now)
    clock.step(step)
    noticed(engine.now)
    if made == "during":
        remote.turn(item, activity(7, "x"))
        remote.result(remote.take())
        item = remote.take()
        make(engine, remote, made, item, clock.wall())
        noticed(engine.now)
    clock.step(-step)
    noticed(engine.now)
    if made == "after":
        make(engine, remote, made, item, clock.wall())
    if restarts:
        remote = ProtocolClient(engine.again())
    assert arrived(remote) == ALL
    assert engine.now.writer.given_up == {}


@pytest.mark.parametrize("step", STEPS)
def test_what_was_made_before_a_lasting_step_comes(engine: Restartable, clock: SteppedClock, step: float) -> None:
    remote = ProtocolClient(engine.now)
    start(engine.now, "work", "i")
    make(engine, remote, "x", remote.take(), clock.wall())
    noticed(engine.now)
    clock.step(step)  # no call follows: the engine must notice by itself
    assert arrived(remote) == ALL


@pytest.mark.parametrize("nanos", [1, 999])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("restarts", [False, True])
def test_a_timer_keeps_its_nanoseconds_through_steps_of_the_clock(
    engine: Restartable, clock: SteppedClock, step: float, nanos: int, restarts: bool
) -> None:
    remote = ProtocolClient(engine.now)
    clock.step(step)
    start(engine.now, "work", "i")
    item = remote.take()
    moment = timestamp(turn_time(item) + SHORT)
    moment.nanos += nanos
    remote.turn(item, pb.OrchestratorAction(id=1, createTimer=pb.CreateTimerAction(fireAt=moment)))
    noticed(engine.now)
    clock.step(-step)
    if restarts:
        remote = ProtocolClient(engine.again())
    fired = remote.take().orchestratorRequest.newEvents[1]
    assert fired.timerFired.fireAt == moment
    assert fired.timestamp == timestamp(due(moment))


@pytest.mark.parametrize("step", [HOUR, YEAR])
def test_turn_times_creep_after_the_clock_was_ahead_and_new_timers_take_their_time(
    engine: Restartable, clock: SteppedClock, step: float
) -> None:
    remote = ProtocolClient(engine.now)
    clock.step(step)
    start(engine.now, "work", "i")
    times = []
    item = remote.take()
    clock.step(-step)
    for number in range(1, 5):
        times.append(turn_time(item))
        remote.turn(item, timer(number, times[-1] + SHORT))
        if number == 3:
            remote = ProtocolClient(engine.again())
        item = remote.take()
        assert kinds(item) == ["timerFired"]
    assert times == sorted(set(times))


def test_a_long_timer_is_not_shortened_by_a_step_that_ends(engine: Restartable, clock: SteppedClock) -> None:
    remote = ProtocolClient(engine.now)
    start(engine.now, "work", "i")
    item = remote.take()
    due = turn_time(item) + int(HOUR * 1_000_000)
    remote.turn(item, timer(1, due))
    for step in (-YEAR, YEAR, 60.0, -60.0, -HOUR, HOUR):
        clock.step(step)
        assert remote.nothing()
    engine.again()
    noticed(engine.now)
    reading = sqlite3.connect(engine.path)
    assert reading.execute("SELECT fire_at FROM timers").fetchall() == [(due,)]
    reading.close()


def test_timers_of_an_older_file_keep_their_time(engine: Restartable, clock: SteppedClock) -> None:
    remote = ProtocolClient(engine.now)
    start(engine.now, "work", "i")
    item = remote.take()
    due = turn_time(item) + int(HOUR * 1_000_000)
    remote.turn(item, timer(1, due))
    engine.now.stop()
    old = pb.HistoryEvent(eventId=-1, timestamp=timestamp(due), timerFired={"fireAt": timestamp(due), "timerId": 1})
    with sqlite3.connect(engine.path) as file:
        file.execute("UPDATE timers SET event=?", (old.SerializeToString(),))
    file.close()
    remote = ProtocolClient(engine.again())
    assert remote.nothing()
    clock.step(HOUR + 1)
    assert kinds(remote.take()) == ["timerFired"]


def test_a_rewound_instance_with_turns_in_the_future_waits_no_longer_than_it_was_to(
    engine: Restartable, clock: SteppedClock
) -> None:
    remote = ProtocolClient(engine.now)
    clock.step(YEAR)
    start(engine.now, "work", "i")
    item = remote.take()
    remote.turn(item, timer(1, turn_time(item) + SHORT), activity(2, "x"))
    remote.result(remote.take(), failure=pb.TaskFailureDetails(errorType="E", errorMessage="no"))
    item = remote.take()
    remote.turn(item, fail(3, "no"))
    clock.step(-YEAR)
    call(engine.now, "RewindInstance", pb.RewindInstanceRequest(instanceId="i"))
    found = {item.WhichOneof("request"): item for item in (remote.take(), remote.take())}
    news = kinds(found["orchestratorRequest"])
    remote.turn(found["orchestratorRequest"])
    assert "timerFired" in (news if "timerFired" in news else kinds(remote.take()))


@pytest.mark.parametrize("step", STEPS)
def test_a_jump_is_logged_and_counted(
    engine: Restartable, clock: SteppedClock, caplog: pytest.LogCaptureFixture, step: float
) -> None:
    clock.step(step)
    noticed(engine.now)
    assert clock.jumps == {"forward" if step > 0 else "backward": 1}
    (record,) = [each for each in caplog.records if each.name == "bridge.system.clock"]
    assert record.levelno == logging.WARNING
    assert f"{abs(step):.0f}." in record.getMessage()


def test_an_abandoned_turn_and_a_lease_go_by_time_that_passes(tmp_path: Path, clock: SteppedClock) -> None:
    database = Database(tmp_path / "hub.db", DatabaseOptions(clock=clock, lease_seconds=0.2))
    database.start()
    try:
        remote = ProtocolClient(database)
        clock.step(YEAR)
        start(database, "work", "i")
        item = remote.take()
        request = pb.AbandonOrchestrationTaskRequest(completionToken=item.completionToken)
        call(database, "AbandonTaskOrchestratorWorkItem", request)
        clock.step(-YEAR)
        remote.take()
        clock.step(-YEAR)
        remote.turn(remote.take(), complete(1, "ok"))
        assert state(database, "i").output.value == '"ok"'
    finally:
        database.stop()


def test_nothing_is_purged_by_a_clock_that_has_run_ahead(tmp_path: Path, clock: SteppedClock) -> None:
    policy = RetentionPolicy(age=HOUR, period=3600.0)
    database = Database(tmp_path / "hub.db", DatabaseOptions(clock=clock, retention=policy))
    database.start()

    def look() -> bool:
        done = threading.Event()
        database.writer.submit(database._retention.step, kind=OperationKind.RETENTION)
        database.writer.submit(done.set)
        assert done.wait(20)
        noticed(database)
        noticed(database)
        return bool(call(database, "GetInstance", pb.GetInstanceRequest(instanceId="i")).exists)

    try:
        remote = ProtocolClient(database)
        start(database, "work", "i")
        remote.turn(remote.take(), complete(1))
        noticed(database)
        for step in (YEAR, -YEAR, 2 * HOUR, -2 * HOUR):
            clock.step(step)
            assert look()
        # Clocks are set for small corrections.
        for _ in range(2):
            clock.step(TRUSTED / 2_000_000 - 1)
            noticed(database)
        assert clock.ahead() == 0
        # A past time stays past, also after a step: the clock of another process shows it.
        database.stop()
        later = SteppedClock(2 * HOUR)
        database = Database(tmp_path / "hub.db", DatabaseOptions(clock=later, retention=policy))
        database.start()
        assert not look()
    finally:
        database.stop()


def test_a_clock_that_is_slewed_has_not_run_ahead() -> None:
    class Slewed(SteppedClock):
        passed = 0

        def steady(self) -> int:
            return super().steady() + self.passed

        def wall(self) -> int:
            return super().wall() + self.passed

    clock = Slewed()
    for _ in range(10_000):
        clock.passed += 1_000_000
        clock.offset += 500  # as fast as systems slew
        clock.now()
    assert clock.jumps == {}
    assert clock.ahead() < 10_000
    clock.step(YEAR)
    assert clock.ahead() == pytest.approx(YEAR * 1_000_000, abs=1_000_000)
    clock.step(-YEAR)
    assert clock.ahead() == 0


def test_events_of_a_turn_come_before_its_timers(engine: Restartable, clock: SteppedClock) -> None:
    """An orchestrator that ends at its timeout still receives a message that was accepted before that turn."""
    database = engine.now
    start(database, "Waits", "a")
    remote = ProtocolClient(database, maxConcurrentOrchestrationWorkItems=1)
    first = remote.take()
    start(database, "Occupies", "b")
    begun = turn_time(first)
    remote.turn(first, timer(1, begun + int(HOUR * 1_000_000)), timer(2, begun + int(HOUR * 1_000_000) + 1))
    busy = remote.take()
    assert busy.orchestratorRequest.instanceId == "b"
    clock.step(2 * HOUR)
    noticed(database)
    noticed(database)
    raise_event(database, "a", "noted")
    remote.turn(busy, complete(1))
    item = remote.take()
    assert item.orchestratorRequest.instanceId == "a"
    assert kinds(item) == ["eventRaised", "timerFired", "timerFired"]
    assert [event.timerFired.timerId for event in item.orchestratorRequest.newEvents[2:]] == [1, 2]
    remote.turn(item, complete(3))
