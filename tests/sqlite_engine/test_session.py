"""Orchestrations that stay in memory between their turns: the results equal those of replays."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Generator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from durabletask import task
from durabletask.client import TaskHubGrpcClient
from durabletask.entities import EntityContext, EntityInstanceId
from durabletask.internal import helpers
from durabletask.internal import orchestrator_service_pb2 as pb
from durabletask.serialization import JsonDataConverter
from durabletask.worker import ConcurrencyOptions, _Registry

from bridge.engines.embedded.inprocess import InProcessChannel
from bridge.engines.embedded.session import Session, Sessions
from bridge.engines.embedded.worker import DirectWorker
from bridge.engines.recording import Recording
from bridge.sqlite_engine.database import Database
from bridge.sqlite_engine.hub.work_items import TurnRequest
from bridge.sqlite_engine.options import DatabaseOptions
from bridge.sqlite_engine.protocol.service import SidecarService
from bridge.testing import replay
from tests.kit.protocol_client import call
from tests.sqlite_engine.conftest import Restartable
from tests.sqlite_engine.test_worker import outcome, quiet

Steps = Generator[task.Task[Any], Any, Any]


def add(ctx: task.ActivityContext, value: int) -> int:
    return value + 1


class Counting:
    """Orchestrator that counts its starts."""

    def __init__(self, steps: int) -> None:
        self.begun = 0
        self._steps = steps

    def orchestrator(self) -> Any:
        def count(ctx: task.OrchestrationContext, value: int) -> Steps:
            self.begun += 1
            for _ in range(self._steps):
                value = yield ctx.call_activity(add, input=value)
            return value

        return count


def client_of(database: Database) -> TaskHubGrpcClient:
    return TaskHubGrpcClient(channel=InProcessChannel(SidecarService(database)), logger=quiet())


@pytest.mark.parametrize(("sessions", "begun"), [(10, 1), (0, 6)])
def test_a_kept_orchestration_is_begun_once(database: Database, sessions: int, begun: int) -> None:
    counting = Counting(5)
    worker = DirectWorker(database, logger=quiet(), sessions=sessions)
    worker.add_orchestrator(counting.orchestrator())
    worker.add_activity(add)
    worker.start()
    client = client_of(database)
    client.schedule_new_orchestration("count", input=1, instance_id="i")
    assert outcome(client, "i") == "6"
    assert counting.begun == begun
    assert (len(worker.sessions), worker.sessions.bytes) == (0, 0)
    worker.stop()


def test_two_workers_take_turns_with_the_same_orchestrations(database: Database) -> None:
    counting = Counting(15)
    limits = ConcurrencyOptions(maximum_concurrent_orchestration_work_items=1)
    workers = [DirectWorker(database, logger=quiet(), concurrency_options=limits) for _ in range(2)]
    for worker in workers:
        worker.add_orchestrator(counting.orchestrator())
        worker.add_activity(add)
        worker.start()
    client = client_of(database)
    for number in range(12):
        client.schedule_new_orchestration("count", input=number, instance_id=f"i-{number}")
    assert [outcome(client, f"i-{number}") for number in range(12)] == [str(number + 15) for number in range(12)]
    assert counting.begun > 12  # both workers took turns of one instance
    for worker in workers:
        worker.stop()


def test_a_history_that_left_memory_is_replayed(tmp_path: Path) -> None:
    restartable = Restartable(tmp_path / "hub.db", DatabaseOptions(max_cached_instances=1))
    counting = Counting(3)
    worker = DirectWorker(restartable.now, logger=quiet())
    worker.add_orchestrator(counting.orchestrator())
    worker.add_activity(add)
    worker.start()
    client = client_of(restartable.now)
    for number in range(8):
        client.schedule_new_orchestration("count", input=number, instance_id=f"i-{number}")
    assert [outcome(client, f"i-{number}") for number in range(8)] == [str(number + 3) for number in range(8)]
    assert counting.begun > 8
    worker.stop()
    restartable.now.stop()


def counter(ctx: EntityContext, amount: int) -> int:
    ctx.set_state(ctx.get_state(int, 0) + amount)
    return ctx.get_state(int, 0)


def flaky(ctx: task.ActivityContext, value: int) -> int:
    if value == 3:
        raise ValueError("never")
    return value


def child(ctx: task.OrchestrationContext, value: int) -> Steps:
    first = yield ctx.wait_for_external_event("noted")
    yield ctx.create_timer(timedelta(milliseconds=5))
    return first + value


def everything(ctx: task.OrchestrationContext, given: dict[str, int]) -> Steps:
    """Use every feature of an orchestrator, in two generations."""
    entity = EntityInstanceId("counter", ctx.instance_id)
    got: list[Any] = []
    below = ctx.call_sub_orchestrator(child, input=2, instance_id=f"{ctx.instance_id}-child-{given['generation']}")
    got.append((yield ctx.call_activity(add, input=1)))
    ctx.send_event(f"{ctx.instance_id}-child-{given['generation']}", "noted", data=5)
    ctx.signal_entity(entity, "add", 1)
    with (yield ctx.lock_entities([entity])):
        got.append((yield ctx.call_entity(entity, "add", 10)))
    policy = task.RetryPolicy(first_retry_interval=timedelta(milliseconds=5), max_number_of_attempts=2)
    try:
        yield ctx.call_activity(flaky, input=3, retry_policy=policy)
    except task.TaskFailedError as error:
        got.append(type(error).__name__)
    late = ctx.create_timer(timedelta(hours=1))
    event = ctx.wait_for_external_event("event")
    winner = yield task.when_any([event, late])
    assert winner is event
    late.cancel()
    got.append(event.get_result())
    got += yield task.when_all([ctx.call_activity(add, input=each) for each in range(3)])
    got.append((yield below))
    ctx.set_custom_status(got)
    if given["generation"] < 1:
        ctx.continue_as_new({"generation": given["generation"] + 1}, save_events=True)
        return None
    return got


def test_a_replay_decides_the_same(database: Database) -> None:
    """Replays decide the same, also over a suspension during which events and results arrive."""
    worker = DirectWorker(database, logger=quiet())
    for orchestrator in (everything, child):
        worker.add_orchestrator(orchestrator)
    worker.add_activity(add)
    worker.add_activity(flaky)
    worker.add_entity(counter)
    worker.start()
    client = client_of(database)
    client.schedule_new_orchestration(everything, input={"generation": 0}, instance_id="e")
    client.suspend_orchestration("e")
    client.raise_orchestration_event("e", "event", data="early")
    client.raise_orchestration_event("e", "event", data="for the next")
    client.resume_orchestration("e")
    assert outcome(client, "e") == '[2, 22, "TaskFailedError", "for the next", 1, 2, 3, 7]'
    chunks = call(database, "StreamInstanceHistory", pb.StreamInstanceHistoryRequest(instanceId="e"))
    events = [event for chunk in chunks for event in chunk.events]
    replay(Recording.of("e", events), everything, data_converter=JsonDataConverter())
    worker.stop()


# -- conditions for the use of a session


def waiting(ctx: task.OrchestrationContext, _: Any) -> Steps:
    try:
        first = yield ctx.wait_for_external_event("a")
        second = yield ctx.wait_for_external_event("a")
        return [first, second]
    finally:
        ENDED.append(ctx.instance_id)


ENDED: list[str] = []


def begun(instance_id: str = "i", size: int = 0, orchestrator: Any = waiting) -> tuple[Session, TurnRequest]:
    registry = _Registry()
    registry.add_named_orchestrator("waiting", orchestrator)
    session = Session(registry, logging.getLogger("tests.sessions"), JsonDataConverter())
    started = [
        helpers.new_orchestrator_started_event(),
        helpers.new_execution_started_event("waiting", instance_id, None),
    ]
    request = turn(instance_id, [], started, size)
    session.run(request)
    return session, request


def turn(instance_id: str, past: list[pb.HistoryEvent], new: list[pb.HistoryEvent], size: int = 0) -> TurnRequest:
    return TurnRequest(instance_id, past, new, pb.OrchestrationTraceContext(), "token", size)


def received(data: str) -> list[pb.HistoryEvent]:
    return [helpers.new_orchestrator_started_event(), helpers.new_event_raised_event("a", f'"{data}"')]


def test_a_session_goes_on_where_the_history_does() -> None:
    session, first = begun()
    sessions = Sessions(10, 1000)
    sessions.keep("i", session)
    second = turn("i", list(first.newEvents), received("x"))
    assert sessions.take(second) is session
    assert session.run(second).actions == []
    assert sessions.take(second) is None  # already taken
    sessions.keep("i", session)
    third = turn("i", [*first.newEvents, *second.newEvents], received("y"))
    assert sessions.take(third) is session
    (done,) = session.run(third).actions
    assert done.completeOrchestration.result.value == '["x", "y"]'
    assert session.is_over


def test_a_turn_that_was_not_recorded_ends_the_session() -> None:
    session, first = begun()
    session.run(turn("i", list(first.newEvents), received("x")))
    again = turn("i", list(first.newEvents), received("x"))
    assert not session.follows(again)


def test_a_turn_that_another_worker_took_ends_the_session() -> None:
    """The turn of the other worker had the same event and the same length."""
    session, first = begun()
    lost = turn("i", list(first.newEvents), received("x"))
    session.run(lost)
    theirs = [helpers.new_orchestrator_started_event(), lost.newEvents[1]]
    assert not session.follows(turn("i", [*first.newEvents, *theirs], received("y")))
    assert session.follows(turn("i", [*first.newEvents, *lost.newEvents], received("y")))


def test_what_is_let_go_is_freed_at_once() -> None:
    """Memory is freed without the cyclic collector, which rarely runs in a busy daemon."""
    sessions = Sessions(1, 1000)

    def kept(instance_id: str) -> list[weakref.ref[Any]]:
        session = begun(instance_id)[0]
        sessions.keep(instance_id, session)
        (waits,) = session.context._pending_events.values()
        return [weakref.ref(each) for each in (session, session.context, session.context._generator, *waits)]

    ENDED.clear()
    gc.disable()
    try:
        first = kept("i")
        second = kept("other")
        assert [each() for each in first] == [None] * 4
        sessions.clear()
        assert [each() for each in second] == [None] * 4
        assert {"i", "other"} <= set(ENDED)
    finally:
        gc.enable()


def stubborn(ctx: task.OrchestrationContext, _: Any) -> Steps:
    try:
        yield ctx.wait_for_external_event("a")
    finally:
        yield ctx.create_timer(timedelta(seconds=1))


def test_an_orchestrator_that_does_not_want_to_go_harms_nobody() -> None:
    sessions = Sessions(1, 1000)
    sessions.keep("i", begun("i", orchestrator=stubborn)[0])
    sessions.keep("j", begun("j")[0])
    assert len(sessions) == 1


def test_the_oldest_are_let_go_when_there_are_too_many_or_too_large() -> None:
    sessions = Sessions(3, 1000)
    ENDED.clear()
    for number in range(4):
        sessions.keep(f"i-{number}", begun(f"i-{number}")[0])
    assert len(sessions) == 3
    request = turn("i-0", [], received("x"))
    assert sessions.take(request) is None
    large, first = begun("large", 950)
    sessions.keep("large", large)
    assert len(sessions) < 3
    assert sessions.bytes <= 1000
    assert sessions.take(turn("large", list(first.newEvents), received("x"))) is large
    sessions.keep("huge", begun("huge", 2000)[0])
    assert (len(sessions), sessions.bytes) == (0, 0)
