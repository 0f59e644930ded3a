"""Early messages of one instance: one test per rule; test_protocol.py has the interleavings."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bridge.config.model.engines import EarlyMessagesConfig
from bridge.core.commands import Command, OnFinished, RaiseEvent, WaitFor
from bridge.core.errors import EngineRejected, EngineUnavailable, InstanceFinished, InstanceNotFound
from bridge.core.origin import MessageOrigin
from bridge.core.settlement import RetryPolicy
from bridge.core.stored_message import OperationResult
from bridge.early_messages.state_machine import (
    DEDUPLICATION_WINDOW,
    REMEMBERED,
    EarlyMessageQueue,
    RetryLater,
)
from tests.waiting.sample import waiting

POLICY = RetryPolicy(initial=1.0, max_delay=8.0, in_memory=20.0, bug_attempts=2)


class Instance:
    """Executor that records commands, or raises its `error`."""

    def __init__(self) -> None:
        self.error: Exception | None = InstanceNotFound("no such instance")
        self.received: list[Any] = []

    def __call__(self, command: Command, origin: MessageOrigin) -> None:
        if self.error is not None:
            raise self.error
        assert isinstance(command, RaiseEvent)
        self.received.append(command.data)


class EarlyMessageFixture:
    """Queue of early messages that is serialized and restored between any two operations."""

    def __init__(self, limits: EarlyMessagesConfig | None = None, poll: float = 30.0) -> None:
        self.limits = limits or EarlyMessagesConfig()
        self.poll = poll
        self.instance = Instance()
        self.state: Any = None

    def early_messages(self) -> EarlyMessageQueue:
        return EarlyMessageQueue(self.limits, self.poll, POLICY, self.state)

    def do(self, operation: str, *arguments: Any) -> OperationResult:
        early_messages = self.early_messages()
        turn: OperationResult = getattr(early_messages, operation)(*arguments)
        self.state = json.loads(json.dumps(early_messages.to_json()))
        return turn

    def park(self, number: int, now: float = 0.0, ttl: float = 60.0, size: int = 10, **more: Any) -> OperationResult:
        return self.do("store", waiting(number, now, ttl, **more).to_json(), size, self.instance, now)

    def look(self, now: float = 1.0) -> OperationResult:
        return self.do("deliver_now", self.instance, now)

    def tick(self, at: float, now: float | None = None) -> OperationResult:
        return self.do("on_timer", at, self.instance, at if now is None else now)

    @property
    def waiting(self) -> list[int]:
        return [int(item["id"].removeprefix("m-")) for item in self.early_messages().items]


def test_what_waits_is_delivered_in_order_when_the_instance_is_told_of() -> None:
    bench = EarlyMessageFixture()
    for number in range(4):
        assert bench.park(number).events == ["stored"]
    assert bench.look().events == []
    bench.tick(30.0)
    assert bench.waiting == [0, 1, 2, 3]
    bench.instance.error = None
    assert bench.look().events == ["delivered"] * 4
    assert bench.instance.received == [0, 1, 2, 3]
    assert bench.waiting == []


def test_the_first_one_looks_for_its_instance_and_later_ones_rely_on_being_told() -> None:
    bench = EarlyMessageFixture()
    bench.instance.error = None
    assert bench.park(0).events == ["stored", "delivered"]
    bench.instance.error = InstanceNotFound("gone")
    bench.park(1)
    bench.instance.error = None
    assert bench.park(2).events == ["stored"]
    assert bench.instance.received == [0]
    bench.look()
    assert bench.instance.received == [0, 1, 2]


def test_a_repeat_is_dropped_while_it_waits_and_after_it_was_delivered() -> None:
    bench = EarlyMessageFixture()
    bench.park(0)
    assert bench.park(0).events == ["repeated"]
    bench.instance.error = None
    bench.look()
    assert bench.park(0).events == ["repeated"]
    assert bench.instance.received == [0]


def test_the_same_message_of_another_route_or_part_is_another() -> None:
    bench = EarlyMessageFixture()
    bench.park(0)
    for change in ({"route": "other"}, {"part": 1}):
        item = waiting(0).to_json() | change
        assert bench.do("store", item, 10, bench.instance, 0.0).events == ["stored"]


def test_a_dead_letter_may_come_back_under_its_id() -> None:
    bench = EarlyMessageFixture()
    bench.park(0, ttl=10.0)
    assert bench.tick(10.0).events == ["expired"]
    assert bench.park(0, now=20.0).events == ["stored"]


def test_at_the_end_of_its_time_a_message_is_dead_lettered() -> None:
    bench = EarlyMessageFixture()
    bench.park(0, ttl=20.0)
    bench.park(1, ttl=5.0)
    turn = bench.tick(5.0)
    assert turn.events == ["expired"]
    assert [each.item["id"] for each in turn.undelivered] == ["m-1"]
    assert (turn.undelivered[0].reason, turn.undelivered[0].error) == ("early_expired", "InstanceNotFound")
    assert "within 5 s" in turn.undelivered[0].detail
    assert turn.wake == 20.0


def test_a_message_whose_time_is_up_is_not_revived_by_a_late_look() -> None:
    bench = EarlyMessageFixture()
    bench.park(0, ttl=5.0)
    bench.park(1, ttl=50.0)
    bench.instance.error = None
    assert bench.look(now=6.0).events == ["expired", "delivered"]
    assert bench.instance.received == [1]


def test_it_looks_every_poll_and_for_the_nearest_end_and_one_call_is_outstanding() -> None:
    bench = EarlyMessageFixture()
    assert bench.park(0, ttl=100.0).wake == 30.0
    assert bench.park(1, ttl=20.0).wake == 20.0
    assert bench.park(2, ttl=200.0).wake is None
    assert bench.tick(30.0).wake is None, "the call that an earlier one replaced"
    assert bench.waiting == [0, 1, 2]
    assert bench.tick(20.0).wake == 50.0
    assert bench.waiting == [0, 2]
    bench.instance.error = None
    bench.tick(50.0)
    assert bench.instance.received == [0, 2]


def test_a_clock_that_is_behind_does_not_make_it_wait_again() -> None:
    bench = EarlyMessageFixture()
    bench.park(0, ttl=20.0)
    assert bench.tick(20.0, now=19.5).events == ["expired"]


def test_an_empty_lot_remembers_for_a_while_and_then_is_no_more() -> None:
    bench = EarlyMessageFixture()
    bench.park(0, ttl=20.0)
    bench.instance.error = None
    bench.look()
    turn = bench.tick(20.0)
    assert turn.wake == 1.0 + DEDUPLICATION_WINDOW
    assert bench.state is not None
    assert bench.tick(1.0 + DEDUPLICATION_WINDOW).wake is None
    assert bench.state is None


def test_what_it_remembers_is_bounded() -> None:
    bench = EarlyMessageFixture()
    bench.instance.error = None
    for number in range(REMEMBERED + 5):
        bench.park(number)
    assert len(bench.early_messages().delivered) == REMEMBERED
    assert bench.park(0).events == ["stored", "delivered"]


@pytest.mark.parametrize(
    ("limits", "size"), [(EarlyMessagesConfig(max_messages=2), 10), (EarlyMessagesConfig(max_bytes=25), 10)]
)
def test_a_full_lot_refuses_and_takes_again_when_there_is_room(limits: EarlyMessagesConfig, size: int) -> None:
    bench = EarlyMessageFixture(limits)
    bench.park(0, size=size)
    bench.park(1, size=size)
    turn = bench.park(2, size=size)
    assert (turn.events, [each.reason for each in turn.undelivered]) == (["full"], ["early_full"])
    assert bench.waiting == [0, 1]
    bench.instance.error = None
    bench.look()
    assert bench.early_messages().size == 0
    bench.instance.error = InstanceNotFound("gone")
    assert bench.park(3, size=size).events == ["stored"]


def test_an_outage_keeps_it_and_it_is_tried_again_soon() -> None:
    bench = EarlyMessageFixture()
    bench.instance.error = EngineUnavailable("away")
    turn = bench.park(0, ttl=600.0)
    assert (turn.events, turn.wake) == (["stored"], POLICY.max_delay)
    assert bench.early_messages().attempts == 0
    bench.instance.error = None
    assert bench.tick(POLICY.max_delay).events == ["delivered"]


def test_when_nobody_has_the_time_it_is_tried_again_soon_and_no_attempt_is_counted() -> None:
    bench = EarlyMessageFixture()
    bench.instance.error = RetryLater(0.25)
    assert bench.park(0, ttl=600.0).wake == 0.25
    assert bench.early_messages().attempts == 0
    bench.instance.error = None
    assert bench.tick(0.25).events == ["delivered"]


def test_one_that_fails_again_and_again_is_dead_lettered_and_the_next_one_goes() -> None:
    bench = EarlyMessageFixture()
    bench.park(0, ttl=600.0)
    bench.park(1, ttl=600.0)
    bench.instance.error = RuntimeError("secret")
    turn = bench.look(now=1.0)
    assert turn.wake == 2.0
    assert bench.early_messages().attempts == 1
    turn = bench.tick(2.0)
    assert [each.reason for each in turn.undelivered] == ["bug"]
    assert turn.undelivered[0].attempts == 2
    assert "secret" not in turn.undelivered[0].detail
    assert bench.early_messages().attempts == 1, "the next one has failed once"


def test_what_the_engine_refuses_is_dead_lettered() -> None:
    bench = EarlyMessageFixture()
    bench.instance.error = EngineRejected("too large")
    turn = bench.park(0)
    assert turn.events == ["stored", "refused"]
    assert [(each.reason, each.error) for each in turn.undelivered] == [("engine_rejected", "EngineRejected")]


@pytest.mark.parametrize(
    ("policy", "events", "reasons"),
    [(OnFinished.IGNORE, ["ignored"], []), (OnFinished.DEAD_LETTER, ["refused"], ["instance_finished"])],
)
def test_a_finished_instance_is_dealt_with_as_the_rule_says(
    policy: OnFinished, events: list[str], reasons: list[str]
) -> None:
    bench = EarlyMessageFixture()
    bench.park(0, command=RaiseEvent("order-1", "paid", 0, WaitFor(60.0), policy))
    bench.instance.error = InstanceFinished("done")
    turn = bench.look()
    assert (turn.events, [each.reason for each in turn.undelivered]) == (events, reasons)


def test_what_cannot_be_read_is_dead_lettered_and_never_raises() -> None:
    bench = EarlyMessageFixture()
    bench.park(0)
    bench.state["items"][0]["verb"] = "of a later version"
    assert bench.look().wake is not None
    turn = bench.tick(bench.early_messages().tick_at or 0.0)
    assert [each.reason for each in turn.undelivered] == ["bug"]


def test_dropping_makes_dead_letters_unless_they_are_to_be_forgotten() -> None:
    bench = EarlyMessageFixture()
    for number in range(3):
        bench.park(number)
    first = bench.early_messages().items[0]["mark"]
    turn = bench.do("drop", [first], False, 1.0)
    assert [each.reason for each in turn.undelivered] == ["early_dropped"]
    assert bench.waiting == [1, 2]
    turn = bench.do("drop", None, True, 1.0)
    assert (turn.events, turn.undelivered) == (["dropped", "dropped"], [])
    assert bench.waiting == []
    assert len(bench.state["refused"]) == 3, "the process that has stored a message learns that it was processed"
    assert bench.tick(bench.state["tick"]).wake == 1.0 + DEDUPLICATION_WINDOW
    bench.tick(1.0 + DEDUPLICATION_WINDOW)
    assert bench.state is None


def test_a_tick_of_a_clock_that_has_run_ahead_lets_nothing_expire() -> None:
    bench = EarlyMessageFixture(poll=1000.0)
    wake = bench.park(1, now=0.0, ttl=60.0).wake
    assert wake == 60.0
    early_messages = bench.early_messages()
    turn = early_messages.on_timer(60.0, bench.instance, 1.0, early=True)
    assert (turn.events, turn.wake) == ([], 60.0)
    assert early_messages.on_timer(60.0, bench.instance, 1.0).events == ["expired"]
