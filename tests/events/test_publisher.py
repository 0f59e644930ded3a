"""Publisher and observers of lifecycle events."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from bridge.app.dead_letters.reading import DeadLetterPlace
from bridge.app.lifecycle.data import schema
from bridge.app.lifecycle.publisher import LifecycleEvents
from bridge.app.serve.lifecycle import LASTING, RECENT, CauseObserver, SourceObserver
from bridge.core.errors import BrokerUnavailable
from bridge.core.lifecycle import EventKind, LifecycleEvent, event_id
from bridge.core.states import DaemonState, SourceState
from bridge.dead_letters.rows import Facts, Summary
from bridge.ops.health import Check, Readiness
from tests.kit.virtual_time import in_virtual_time
from tests.kit.waiting import TIMEOUT, eventually


def event(number: int = 0, kind: EventKind = EventKind.SOURCE_HELD) -> LifecycleEvent:
    return LifecycleEvent(kind, str(number), 0.0, "orders", {})


class Target:
    """Target that is away for the first `failures` publications."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.ids: list[str] = []

    async def publish(self, request: Mapping[str, Any]) -> None:
        if self.failures:
            self.failures -= 1
            raise BrokerUnavailable("away")
        self.ids.append(request["id"])


async def test_memory_is_bounded_and_drops_are_counted() -> None:
    target = Target(failures=1_000_000)
    events = LifecycleEvents(target.publish, "ops", [*EventKind], 3)
    events.start()
    for number in range(10):
        events.add(event(number))
    await eventually(lambda: events.away is not None, "away")
    assert events.waiting == {"memory": 3, "engine": 0}
    assert events.dropped["buffer"] == 7
    target.failures = 0
    await eventually(lambda: target.ids == ["0", "1", "2"], "the events")
    await events.stop(1)
    await events.stop(1)


async def test_a_stop_does_not_wait_for_a_target_that_is_away() -> None:
    events = LifecycleEvents(Target(failures=1_000_000).publish, "ops", [*EventKind], 3)
    events.start()
    events.add(event())
    async with asyncio.timeout(TIMEOUT):
        await events.stop(0.05)
    assert events.waiting["memory"] == 1


@in_virtual_time
async def test_attempts_slow_down() -> None:
    target = Target(failures=20)
    events = LifecycleEvents(target.publish, "ops", [*EventKind], 3)
    events.start()
    began = asyncio.get_running_loop().time()
    events.add(event())
    while not target.ids:
        await asyncio.sleep(1)
    assert asyncio.get_running_loop().time() - began >= 14 * 30
    await events.stop(1)


async def test_other_kinds_are_left_out() -> None:
    target = Target()
    events = LifecycleEvents(target.publish, "ops", [EventKind.SOURCE_STUCK], 3)
    assert events.wants(EventKind.SOURCE_STUCK, EventKind.SOURCE_HELD)
    assert not events.wants(EventKind.SOURCE_HELD)
    events.start()
    events.add(event(1))
    events.add(event(2, EventKind.SOURCE_STUCK))
    await eventually(lambda: target.ids == ["2"], "the event")
    await events.stop(1)


def test_an_id_belongs_to_a_fact() -> None:
    assert event_id(EventKind.SOURCE_HELD, "a", "b") == event_id(EventKind.SOURCE_HELD, "a", "b")
    kinds = {event_id(kind, "a", "b") for kind in EventKind}
    assert len(kinds | {event_id(EventKind.SOURCE_HELD, "a b"), event_id(EventKind.SOURCE_HELD, "ab")}) == 14
    # Receivers compare ids across versions
    assert event_id(EventKind.INSTANCE_FAILED, "default", "o-1", "e") == "958b5aff-d38f-53c3-913b-77067d13ed61"


def test_an_event_survives_its_stored_form() -> None:
    whole = LifecycleEvent(EventKind.JOB_FINISHED, "i", 1.5, "ü", {"a": [1]})
    assert LifecycleEvent.of_text(whole.to_text()) == whole
    assert LifecycleEvent.of_text('["of.a.later.version", "i", 1, "s", {}]') is None


def test_every_kind_has_a_schema_with_all_members() -> None:
    for kind in EventKind:
        found = schema(kind)
        assert found["required"] == [*found["properties"]]


# -- observers


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def observed(states: list[tuple[float, SourceState | None]]) -> list[tuple[str, str | None]]:
    """Kinds and former states of the events. states: pause before each look, and the state of the source."""
    clock = Clock()
    found: list[LifecycleEvent] = []
    observer = SourceObserver("host/1", found.append, clock)
    for pause, state in states:
        clock.now += pause
        checks = () if state is None else (Check("source", "orders", state, "why"),)
        observer.observe(Readiness(DaemonState.RUNNING, checks))
    return [(each.kind, each.data["before"]) for each in found]


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([(0, SourceState.HELD), (1, SourceState.IDLE)], []),
        ([(0, SourceState.HELD), (LASTING, SourceState.HELD), (5, SourceState.HELD)], [("source.held", None)]),
        ([(0, SourceState.PAUSED)], [("source.paused", None)]),
        (
            [(0, SourceState.PAUSED), (5, SourceState.CONSUMING), (5, SourceState.CONSUMING)],
            [("source.paused", None), ("source.recovered", "paused")],
        ),
        (
            [(0, SourceState.STUCK), (5, SourceState.STUCK), (5, SourceState.HELD), (5, SourceState.HELD)],
            [("source.stuck", None), ("source.held", None)],
        ),
        ([(0, SourceState.PAUSED), (5, None), (5, SourceState.IDLE)], [("source.paused", None)]),
        ([(0, SourceState.PROBING), (5, SourceState.PROBING)], [("source.probing", None)]),
        ([(0, SourceState.THROTTLED), (5, SourceState.IDLE), (5, SourceState.DEAD)], []),
    ],
)
def test_states_of_a_source(states: list[tuple[float, SourceState | None]], expected: list[tuple[str, str]]) -> None:
    assert observed(states) == expected


def test_causes_of_dead_letters() -> None:
    clock = Clock()
    found: list[LifecycleEvent] = []
    place = DeadLetterPlace("local", "orders.dlq", ("orders",), ("orders",))

    def look(observer: CauseObserver, **first: float | None) -> list[str]:
        found.clear()
        causes = {
            Facts("orders", None, name, "E", "bridge", name, "v"): Summary(2, at, at) for name, at in first.items()
        }
        observer.observe({place: causes})
        return [each.data["group"] for each in found]

    def observer() -> CauseObserver:
        return CauseObserver(found.append, clock)

    one = observer()
    old, recent = clock.now - RECENT - 1, clock.now - 10
    assert look(one, old=old, recent=recent, timeless=None) == ["recent"], "only what the last process may have missed"
    [first] = found
    assert look(one, old=old, recent=recent, timeless=None) == []
    assert look(one, old=old, recent=recent, fresh=clock.now) == ["fresh"]
    assert look(one, recent=recent) == []
    assert look(one, recent=recent, old=old) == ["old"], "a cause that has open dead letters again"
    another = observer()
    assert look(another, recent=recent) == ["recent"]
    assert found[0].id == first.id, "another daemon, and a later process, make the same event"
    assert look(observer(), recent=clock.now - 5) == ["recent"]
    assert found[0].id != first.id, "the earlier ones were replayed"


def test_a_cause_of_two_configurations_is_one() -> None:
    found: list[LifecycleEvent] = []
    facts = Facts("orders", None, "r", "E", "bridge", "f", "1")
    observer = CauseObserver(found.append, Clock())
    causes = {facts: Summary(1, 999_990.0, 999_990.0), facts._replace(config="2"): Summary(2, 999_980.0, 999_980.0)}
    observer.observe({DeadLetterPlace("local", "orders.dlq", ("orders",), ("orders",)): causes})
    [event] = found
    assert (event.data["count"], event.time) == (3, 999_980.0)
    assert [each.count for each in causes.values()] == [1, 2], "the counter's own numbers stay"
