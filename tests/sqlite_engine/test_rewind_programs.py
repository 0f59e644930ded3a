"""Rewinds of random programs."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import grpc
import pytest
from durabletask import task
from durabletask.client import OrchestrationStatus
from durabletask.entities import EntityInstanceId
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st

from bridge.sqlite_engine.database import Database
from tests.kit.examples import examples
from tests.sqlite_engine.rewind import RewindFixture, Steps, act, counter, in_writer

pytestmark = pytest.mark.long

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


def refusal(setup: RewindFixture, instance_id: str) -> str | None:
    """Rewind the instance. Returns the reason of a refusal, or None."""
    try:
        setup.rewind(instance_id)
    except grpc.RpcError as error:
        return str(error.details())
    return None


@pytest.fixture(params=[10, 0])
def programs(request: pytest.FixtureRequest, database: Database) -> Iterator[RewindFixture]:
    setup = RewindFixture(database, interpreter, entities=(counter,), sessions=request.param)
    yield setup
    setup.worker.stop()


@settings(
    max_examples=examples(60),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(program=PROGRAM, data=st.data())
def test_random_histories(programs: RewindFixture, program: list[Any], data: st.DataObject) -> None:
    """Decisions up to the cut are the same, no successful step is repeated, and one rewind is sufficient."""
    setup, root = programs, f"p{next(NUMBERS)}"
    names = list(names_of(program, root))
    assume(names)
    broken = data.draw(st.sets(st.sampled_from(names), min_size=1, max_size=4))
    flaky = data.draw(st.sets(st.sampled_from(names), max_size=4)) - broken
    setup.failures.clear()
    setup.broken(*broken)
    setup.failures.update(dict.fromkeys(flaky, 1))
    setup.start("interpreter", [root, program], root)
    failed = setup.ended(root).runtime_status == OrchestrationStatus.FAILED
    event(f"failed: {failed}")
    assume(failed)
    setup.failures.clear()
    handled = Counter(setup.runs)
    before = decisions(setup.database, root)
    cut = max(index for index, (kind, _) in enumerate(before) if kind == "orchestratorStarted")
    # One is sufficient, unless an early step failed while the orchestrator did not wait for it.
    for _ in range(1 + len(broken) if "begin" in str(program) else 1):
        reason = refusal(setup, root)
        if reason:
            event("refused")
            assert "took it up too late to tell" in reason
            assert "begin" in str(program)
            break
        if setup.ended(root).runtime_status == OrchestrationStatus.COMPLETED:
            break
    assert reason or setup.output(root) is not None
    assert decisions(setup.database, root)[:cut] == before[:cut]
    assert max(Counter(setup.done).values()) == 1
    repeated = {name for name, times in Counter(setup.runs).items() if handled[name] and times > handled[name]}
    assert repeated <= broken | flaky
