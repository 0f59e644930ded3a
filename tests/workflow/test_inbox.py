"""Inbox in virtual time: repeats, filters, races, generations. Every turn also runs from a cold history."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from durabletask import task
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.core.deduplication import DeduplicationWindow, digest
from bridge.core.origin import KEY, MessageOrigin, wrap_payload
from bridge.workflow import Inbox, MessageTimedOut, Received, continue_as_new, origin, wait_for_message
from bridge.workflow.messages import REPEATS
from bridge.workflow.tasks import Steps, gather
from tests.kit.examples import examples
from tests.workflow.simulation import Simulation

START = MessageOrigin("shop/start", "begin")


def message(data: Any, number: int | str, route: str = "r", part: int = 0) -> Any:
    return wrap_payload(data, MessageOrigin(f"m-{number}", route, part))


def no_activities(name: str, given: Any) -> Any:
    raise AssertionError(f"{name} was not expected")


def simulate(
    orchestrator: Callable[..., Any], *events: tuple[float, str, Any], given: Any = None, **more: Any
) -> Simulation:
    simulation = Simulation(orchestrator, no_activities, given, **more)
    for at, name, data in events:
        simulation.event(at, name, data)
    simulation.run()
    if simulation.status != "RUNNING":
        simulation.replay()
    return simulation


def take(count: int, name: str = "item", **more: Any) -> Callable[..., Any]:
    def orchestrator(ctx: task.OrchestrationContext, _: Any) -> Steps:
        taken = []
        for _ in range(count):
            received = yield from wait_for_message(ctx, name, **more)
            taken.append(received.data)
        return taken

    return orchestrator


@pytest.mark.parametrize("together", [0.0, 100.0])
def test_a_repeat_is_dropped_and_counted(together: float) -> None:
    before = REPEATS.counts()["inbox"]
    events = [(1, "item", message("a", 1)), (2, "ITEM", message("a", 1)), (3, "item", message("b", 2))]
    assert simulate(take(2), *events, together=together).output == ["a", "b"]
    # The simulation runs every turn twice, in a session, and replays it once more.
    assert REPEATS.counts()["inbox"] - before == 4


def test_what_makes_a_repeat() -> None:
    events = [
        (1, "item", message("a", 1)),
        (2, "item", message("other route", 1, "other")),
        (3, "item", message("other part", 1, part=1)),
        (4, "item", message("a again", 1)),
        (5, "other", message("other name, same command", 1)),
        (6, "item", message("b", 2)),
    ]
    assert simulate(take(4), *events).output == ["a", "other route", "other part", "b"]


def test_messages_without_an_id_are_never_dropped() -> None:
    assert simulate(take(3), (1, "item", 1), (2, "item", 1), (3, "item", None)).output == [1, 1, None]


@pytest.mark.parametrize("wrong", [{"id": 5, "route": 1}, {"id": "m-1"}, {"id": "m-1", "route": "r", "part": 1.5}])
def test_a_damaged_envelope_of_another_client_is_a_message_without_an_id(wrong: dict[str, Any]) -> None:
    damaged = {KEY: {"v": 1, **wrong, "data": 3}}
    assert simulate(take(2), (1, "item", damaged), (2, "item", damaged), given=damaged).output == [3, 3]


@pytest.mark.parametrize("given", [wrap_payload(None, START), wrap_payload({"x": 1}, START)])
def test_the_starting_message_was_seen(given: Any) -> None:
    events = [(1, "item", wrap_payload("start again", START)), (2, "item", message("a", 1))]
    assert simulate(take(1), *events, given=given).output == ["a"]
    assert simulate(take(1), *events).output == ["start again"]


def test_the_starting_message_is_never_forgotten() -> None:
    def orchestrator(ctx: task.OrchestrationContext, _: Any) -> Steps:
        Inbox(ctx, remember=2)
        return (yield from take(5)(ctx, None))

    events = [(number, "item", message(number, number)) for number in range(1, 5)]
    events += [
        (5, "item", wrap_payload("start", START)),
        (6, "item", message("4 again", 4)),
        (7, "item", message("1 again", 1)),
    ]
    assert simulate(orchestrator, *events, given=wrap_payload(None, START)).output == [1, 2, 3, 4, "1 again"]


def test_the_window_has_a_floor() -> None:
    def orchestrator(ctx: task.OrchestrationContext, _: Any) -> None:
        Inbox(ctx, remember=0)

    assert "must be at least 1" in simulate(orchestrator).failure


@dataclass
class Item:
    number: int


def test_typed_data_and_filters() -> None:
    def orchestrator(ctx: task.OrchestrationContext, _: Any) -> Steps:
        first = yield from wait_for_message(ctx, "item", data_type=Item, where=lambda it: it.data.number > 1)
        second = yield from wait_for_message(ctx, "item")
        return [type(first.data).__name__, first.data.number, first.origin.message_id, first.name, second.data]

    events = [(1, "item", message({"number": 1}, 1)), (2, "item", message({"number": 2}, 2))]
    assert simulate(orchestrator, *events).output == ["Item", 2, "m-2", "item", {"number": 1}]


def even(received: Received) -> bool:
    return received.data % 2 == 0


@pytest.mark.parametrize("together", [0.0, 100.0])
def test_messages_that_a_filter_passed_over_are_kept_in_order(together: float) -> None:
    def orchestrator(ctx: task.OrchestrationContext, _: Any) -> Steps:
        evens = yield from take(2, where=even)(ctx, None)
        rest = yield from take(3)(ctx, None)
        return evens + rest

    events = [(number, "item", message(number, number)) for number in (1, 3, 2, 5, 3, 4)]
    assert simulate(orchestrator, *events, together=together).output == [2, 4, 1, 3, 5]


def test_a_filter_is_asked_once_per_message_and_wait() -> None:
    asked: list[int] = []

    def orchestrator(ctx: task.OrchestrationContext, _: Any) -> Steps:
        def wanted(received: Received) -> bool:
            if not ctx.is_replaying:
                asked.append(received.data)
            return received.data == 50

        yield from wait_for_message(ctx, "item", where=wanted)

    simulate(orchestrator, *((number, "item", message(number, number)) for number in range(51)), together=100.0)
    assert asked == list(range(51)) * 4


def test_timeout() -> None:
    def orchestrator(ctx: task.OrchestrationContext, _: Any) -> Steps:
        try:
            yield from wait_for_message(ctx, "item", timeout=timedelta(seconds=5), where=even)
        except MessageTimedOut as error:
            late = str(error)
        in_time = yield from wait_for_message(ctx, "item", timeout=timedelta(seconds=5))
        plain = yield ctx.wait_for_external_event("item")
        return [late, in_time.data, plain]

    events = [(4, "item", message(1, 1)), (6, "item", message(1, 1)), (7, "item", message(3, 3))]
    found = simulate(orchestrator, *events)
    # The kept message is first; the wait that lost the race has consumed no message.
    assert found.output == ["no message 'item' within 0:00:05", 1, 1]


def test_a_message_beats_a_timer_of_the_same_turn() -> None:
    events = [(5, "item", message(1, 1))]
    assert simulate(take(1, timeout=timedelta(seconds=5)), *events, together=1.0).output == [1]


def test_a_race_of_tasks_swallows_nothing() -> None:
    def orchestrator(ctx: task.OrchestrationContext, _: Any) -> Steps:
        inbox, taken, rounds = Inbox(ctx), [], 0  # type: ignore[var-annotated]  # wider than its annotation, on purpose
        while len(taken) < 3:
            rounds += 1
            item, timer = inbox.task("item"), ctx.create_timer(timedelta(seconds=2))
            assert inbox.task("item") is item
            winner = yield task.when_any([item, timer])
            if winner is item:
                timer.cancel()
                received = inbox.accept(item)
                if received is not None:
                    taken.append(received.data)
        return [taken, rounds]

    events = [
        (5, "item", message(1, 1)),
        (5.5, "item", message(1, 1)),
        (9, "item", message(2, 2)),
        (30, "item", message(3, 3)),
    ]
    found = simulate(orchestrator, *events)
    assert found.output[0] == [1, 2, 3]
    assert found.output[1] > 10


def test_a_cancelled_task_of_the_inbox_leaves_events_to_others() -> None:
    def orchestrator(ctx: task.OrchestrationContext, _: Any) -> Steps:
        inbox = Inbox(ctx)
        item = inbox.task("item")
        yield ctx.create_timer(timedelta(seconds=1))
        item.cancel()
        plain = yield ctx.wait_for_external_event("item")
        again = inbox.task("item")
        yield again
        return [plain, inbox.accept(again).data, inbox.accept(again)]

    assert simulate(orchestrator, (2, "item", message(1, 1)), (3, "item", message(2, 2))).output == [1, 2, None]


def test_accept_refuses_what_it_cannot_know() -> None:
    def orchestrator(ctx: task.OrchestrationContext, _: Any) -> Steps:
        inbox, received = Inbox(ctx), []
        for foreign in (ctx.wait_for_external_event("x"), inbox.task("y")):
            try:
                inbox.accept(foreign)
            except ValueError as error:
                received.append(str(error))
        return received
        yield

    assert simulate(orchestrator).output == ["not a task of this inbox", "the task is not complete"]


def test_kept_messages_come_first_as_tasks_too() -> None:
    def orchestrator(ctx: task.OrchestrationContext, _: Any) -> Steps:
        inbox = Inbox(ctx)
        yield from wait_for_message(ctx, "item", where=even)
        kept = inbox.task("item")
        assert kept.is_complete
        # Not accepted: it stays the first.
        first = yield from wait_for_message(ctx, "item")
        assert inbox.accept(kept) is None
        second = inbox.task("item")
        yield second
        return [first.data, inbox.accept(second).data]

    events = [(1, "item", message(1, 1)), (2, "item", message(3, 3)), (3, "item", message(4, 4))]
    assert simulate(orchestrator, *events).output == [1, 3]


def test_branches_that_wait_for_the_same_name_share_what_comes() -> None:
    def orchestrator(ctx: task.OrchestrationContext, _: Any) -> Steps:
        def branch(wanted: int, timeout: timedelta | None = None) -> Steps:
            try:
                received = yield from wait_for_message(ctx, "item", where=lambda it: it.data == wanted, timeout=timeout)
            except MessageTimedOut:
                return "late"
            return received.data

        def hand() -> Steps:
            handed = Inbox(ctx).task("item")
            yield ctx.create_timer(timedelta(seconds=1))
            handed.cancel()
            return "let go"

        branches = [branch(3), branch(1), branch(2), branch(9, timedelta(seconds=2)), hand()]
        return (yield from gather(branches))

    events = [
        (5, "item", message(1, 1)),
        (6, "item", message(2, 2)),
        (6.5, "item", message(2, 2)),
        (7, "item", message(3, 3)),
    ]
    for at_once in (0.0, 3.0):
        assert simulate(orchestrator, *events, together=at_once).output == [3, 1, 2, "late", "let go"]


def generations(ctx: task.OrchestrationContext, state: dict[str, Any]) -> Steps:
    """Take one even number per generation, then the odd numbers that were skipped."""
    started = origin(ctx)
    if len(state["taken"]) < state["evens"]:
        received = yield from wait_for_message(ctx, "item", where=even)
        continue_as_new(ctx, {**state, "taken": [*state["taken"], received.data]})
        return None
    odds = yield from take(state["odds"])(ctx, None)
    return [state["taken"], odds, None if started is None else started.message_id]


@pytest.mark.parametrize("together", [0.0, 100.0])
def test_generations_take_along_what_was_seen_kept_and_not_read(together: float) -> None:
    numbers = [1, 2, 2, 3, 4, 1, 4, 2, 6, 3, 5]
    events = [(number, "item", message(value, value)) for number, value in enumerate(numbers, 1)]
    events.append((12, "item", wrap_payload(8, START)))
    given = wrap_payload({"taken": [], "evens": 3, "odds": 3}, START)
    found = simulate(generations, *events, given=given, together=together)
    assert found.output == [[2, 4, 6], [1, 3, 5], "shop/start"]
    assert len(found.generations) == 3
    carried = json.loads(found.generations[-1].result.value)[KEY]
    assert (carried["id"], carried["route"]) == ("shop/start", "begin")


def test_a_generation_without_an_inbox_hands_on_what_the_last_one_had() -> None:
    def orchestrator(ctx: task.OrchestrationContext, number: int) -> Steps:
        if number % 2:
            yield ctx.create_timer(timedelta(seconds=1))
        else:
            yield from wait_for_message(ctx, "item", where=even)
        if number == 3:
            return (yield from take(2)(ctx, None))
        return continue_as_new(ctx, number + 1)

    numbers = {1: 1, 2: 2, 2.5: 1, 9: 4, 20: 2, 21: 7}
    events = [(at, "item", message(number, number)) for at, number in numbers.items()]
    assert simulate(orchestrator, *events, given=0).output == [1, 7]


def test_a_new_version_goes_along() -> None:
    def orchestrator(ctx: task.OrchestrationContext, number: int) -> Steps:
        if number == 0:
            return continue_as_new(ctx, 1, new_version="2.0")
        yield ctx.create_timer(timedelta(seconds=1))
        return number

    found = simulate(orchestrator, given=0)
    assert (found.output, found.generations[0].newVersion.value) == (1, "2.0")


@settings(max_examples=examples(60), deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 8), st.booleans()), max_size=30),
    st.sampled_from([0.0, 3.0, 1000.0]),
    st.integers(0, 3),
)
def test_each_message_is_seen_once_in_its_order(
    deliveries: list[tuple[int, bool]], together: float, per_generation: int
) -> None:
    """Repeated deliveries in any turns, with and without generations and filters."""

    def orchestrator(ctx: task.OrchestrationContext, state: list[Any]) -> Steps:
        for _ in range(per_generation or 1000):
            received = yield from wait_for_message(ctx, "item", where=lambda it: it.data[1] or it.data[0] == "end")
            if received.data[0] == "end":
                while True:
                    received = yield from wait_for_message(ctx, "item")
                    if received.data[0] == "last":
                        return state
                    state.append(received.data)
            state.append(received.data)
        return continue_as_new(ctx, state)

    sent = dict(reversed(deliveries))
    events = [(at, "item", message([number, sent[number]], number)) for at, (number, _) in enumerate(deliveries)]
    events += [(50, "item", message(["end", False], "end")), (60, "item", message(["last", False], "last"))]
    order = dict.fromkeys(number for number, _ in deliveries)
    first = [[number, True] for number in order if sent[number]]
    later = [[number, False] for number in order if not sent[number]]
    assert simulate(orchestrator, *events, given=[], together=together).output == first + later


def test_an_unprepared_worker_is_told_so() -> None:
    from tests.workflow.test_start import execute

    with pytest.raises(AssertionError, match="message_aware"):
        execute(take(1), None, aware=False)


def test_seen_is_bounded_and_comes_back() -> None:
    seen = DeduplicationWindow(limit=3)
    keys = [MessageOrigin(f"m-{number}", "r", number) for number in range(5)]
    assert [seen.add(key.key) for key in keys] == [True] * 5
    text = seen.text()
    assert text == "".join(digest(key.key) for key in keys[2:])
    again = DeduplicationWindow(text, limit=3)
    assert [again.add(key.key) for key in keys[2:]] == [False] * 3
    assert again.add(keys[0].key)
    assert again.add(keys[2].key)  # the oldest key was dropped
    assert not again.add(keys[4].key)
    assert len(again.text()) == len(text)


def test_digests_tell_fields_apart() -> None:
    keys = [
        ("a", "b", 0),
        ("a", "b", 1),
        ("a", "b1", 0),
        ("ab", "", 0),
        ("", "ab", 0),
        ("a0:b", "", 0),
        ("\ud800", "b", 0),
    ]
    assert len({digest(key) for key in keys}) == len(keys)
