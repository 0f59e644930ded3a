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
    setup = EarlyMessageFixture()
    for number in range(4):
        assert setup.park(number).events == ["stored"]
    assert setup.look().events == []
    setup.tick(30.0)
    assert setup.waiting == [0, 1, 2, 3]
    setup.instance.error = None
    assert setup.look().events == ["delivered"] * 4
    assert setup.instance.received == [0, 1, 2, 3]
    assert setup.waiting == []


def test_the_first_one_looks_for_its_instance_and_later_ones_rely_on_being_told() -> None:
    setup = EarlyMessageFixture()
    setup.instance.error = None
    assert setup.park(0).events == ["stored", "delivered"]
    setup.instance.error = InstanceNotFound("gone")
    setup.park(1)
    setup.instance.error = None
    assert setup.park(2).events == ["stored"]
    assert setup.instance.received == [0]
    setup.look()
    assert setup.instance.received == [0, 1, 2]


def test_a_repeat_is_dropped_while_it_waits_and_after_it_was_delivered() -> None:
    setup = EarlyMessageFixture()
    setup.park(0)
    assert setup.park(0).events == ["repeated"]
    setup.instance.error = None
    setup.look()
    assert setup.park(0).events == ["repeated"]
    assert setup.instance.received == [0]


def test_the_same_message_of_another_route_or_part_is_another() -> None:
    setup = EarlyMessageFixture()
    setup.park(0)
    for change in ({"route": "other"}, {"part": 1}):
        item = waiting(0).to_json() | change
        assert setup.do("store", item, 10, setup.instance, 0.0).events == ["stored"]


def test_a_dead_letter_may_come_back_under_its_id() -> None:
    setup = EarlyMessageFixture()
    setup.park(0, ttl=10.0)
    assert setup.tick(10.0).events == ["expired"]
    assert setup.park(0, now=20.0).events == ["stored"]


def test_at_the_end_of_its_time_a_message_is_dead_lettered() -> None:
    setup = EarlyMessageFixture()
    setup.park(0, ttl=20.0)
    setup.park(1, ttl=5.0)
    turn = setup.tick(5.0)
    assert turn.events == ["expired"]
    assert [each.item["id"] for each in turn.undelivered] == ["m-1"]
    assert (turn.undelivered[0].reason, turn.undelivered[0].error) == ("early_expired", "InstanceNotFound")
    assert "within 5 s" in turn.undelivered[0].detail
    assert turn.wake == 20.0


def test_a_message_whose_time_is_up_is_not_revived_by_a_late_look() -> None:
    setup = EarlyMessageFixture()
    setup.park(0, ttl=5.0)
    setup.park(1, ttl=50.0)
    setup.instance.error = None
    assert setup.look(now=6.0).events == ["expired", "delivered"]
    assert setup.instance.received == [1]


def test_it_looks_every_poll_and_for_the_nearest_end_and_one_call_is_outstanding() -> None:
    setup = EarlyMessageFixture()
    assert setup.park(0, ttl=100.0).wake == 30.0
    assert setup.park(1, ttl=20.0).wake == 20.0
    assert setup.park(2, ttl=200.0).wake is None
    assert setup.tick(30.0).wake is None, "the call that an earlier one replaced"
    assert setup.waiting == [0, 1, 2]
    assert setup.tick(20.0).wake == 50.0
    assert setup.waiting == [0, 2]
    setup.instance.error = None
    setup.tick(50.0)
    assert setup.instance.received == [0, 2]


def test_a_clock_that_is_behind_does_not_make_it_wait_again() -> None:
    setup = EarlyMessageFixture()
    setup.park(0, ttl=20.0)
    assert setup.tick(20.0, now=19.5).events == ["expired"]


def test_an_empty_lot_remembers_for_a_while_and_then_is_no_more() -> None:
    setup = EarlyMessageFixture()
    setup.park(0, ttl=20.0)
    setup.instance.error = None
    setup.look()
    turn = setup.tick(20.0)
    assert turn.wake == 1.0 + DEDUPLICATION_WINDOW
    assert setup.state is not None
    assert setup.tick(1.0 + DEDUPLICATION_WINDOW).wake is None
    assert setup.state is None


def test_what_it_remembers_is_bounded() -> None:
    setup = EarlyMessageFixture()
    setup.instance.error = None
    for number in range(REMEMBERED + 5):
        setup.park(number)
    assert len(setup.early_messages().delivered) == REMEMBERED
    assert setup.park(0).events == ["stored", "delivered"]


@pytest.mark.parametrize(
    ("limits", "size"), [(EarlyMessagesConfig(max_messages=2), 10), (EarlyMessagesConfig(max_bytes=25), 10)]
)
def test_a_full_lot_refuses_and_takes_again_when_there_is_room(limits: EarlyMessagesConfig, size: int) -> None:
    setup = EarlyMessageFixture(limits)
    setup.park(0, size=size)
    setup.park(1, size=size)
    turn = setup.park(2, size=size)
    assert (turn.events, [each.reason for each in turn.undelivered]) == (["full"], ["early_full"])
    assert setup.waiting == [0, 1]
    setup.instance.error = None
    setup.look()
    assert setup.early_messages().size == 0
    setup.instance.error = InstanceNotFound("gone")
    assert setup.park(3, size=size).events == ["stored"]


def test_an_outage_keeps_it_and_it_is_tried_again_soon() -> None:
    setup = EarlyMessageFixture()
    setup.instance.error = EngineUnavailable("away")
    turn = setup.park(0, ttl=600.0)
    assert (turn.events, turn.wake) == (["stored"], POLICY.max_delay)
    assert setup.early_messages().attempts == 0
    setup.instance.error = None
    assert setup.tick(POLICY.max_delay).events == ["delivered"]


def test_when_nobody_has_the_time_it_is_tried_again_soon_and_no_attempt_is_counted() -> None:
    setup = EarlyMessageFixture()
    setup.instance.error = RetryLater(0.25)
    assert setup.park(0, ttl=600.0).wake == 0.25
    assert setup.early_messages().attempts == 0
    setup.instance.error = None
    assert setup.tick(0.25).events == ["delivered"]


def test_one_that_fails_again_and_again_is_dead_lettered_and_the_next_one_goes() -> None:
    setup = EarlyMessageFixture()
    setup.park(0, ttl=600.0)
    setup.park(1, ttl=600.0)
    setup.instance.error = RuntimeError("secret")
    turn = setup.look(now=1.0)
    assert turn.wake == 2.0
    assert setup.early_messages().attempts == 1
    turn = setup.tick(2.0)
    assert [each.reason for each in turn.undelivered] == ["bug"]
    assert turn.undelivered[0].attempts == 2
    assert "secret" not in turn.undelivered[0].detail
    assert setup.early_messages().attempts == 1, "the next one has failed once"


def test_what_the_engine_refuses_is_dead_lettered() -> None:
    setup = EarlyMessageFixture()
    setup.instance.error = EngineRejected("too large")
    turn = setup.park(0)
    assert turn.events == ["stored", "refused"]
    assert [(each.reason, each.error) for each in turn.undelivered] == [("engine_rejected", "EngineRejected")]


@pytest.mark.parametrize(
    ("policy", "events", "reasons"),
    [(OnFinished.IGNORE, ["ignored"], []), (OnFinished.DEAD_LETTER, ["refused"], ["instance_finished"])],
)
def test_a_finished_instance_is_dealt_with_as_the_rule_says(
    policy: OnFinished, events: list[str], reasons: list[str]
) -> None:
    setup = EarlyMessageFixture()
    setup.park(0, command=RaiseEvent("order-1", "paid", 0, WaitFor(60.0), policy))
    setup.instance.error = InstanceFinished("done")
    turn = setup.look()
    assert (turn.events, [each.reason for each in turn.undelivered]) == (events, reasons)


def test_what_cannot_be_read_is_dead_lettered_and_never_raises() -> None:
    setup = EarlyMessageFixture()
    setup.park(0)
    setup.state["items"][0]["verb"] = "of a later version"
    assert setup.look().wake is not None
    turn = setup.tick(setup.early_messages().tick_at or 0.0)
    assert [each.reason for each in turn.undelivered] == ["bug"]


def test_dropping_makes_dead_letters_unless_they_are_to_be_forgotten() -> None:
    setup = EarlyMessageFixture()
    for number in range(3):
        setup.park(number)
    first = setup.early_messages().items[0]["mark"]
    turn = setup.do("drop", [first], False, 1.0)
    assert [each.reason for each in turn.undelivered] == ["early_dropped"]
    assert setup.waiting == [1, 2]
    turn = setup.do("drop", None, True, 1.0)
    assert (turn.events, turn.undelivered) == (["dropped", "dropped"], [])
    assert setup.waiting == []
    assert len(setup.state["refused"]) == 3, "the process that has stored a message learns that it was processed"
    assert setup.tick(setup.state["tick"]).wake == 1.0 + DEDUPLICATION_WINDOW
    setup.tick(1.0 + DEDUPLICATION_WINDOW)
    assert setup.state is None


def test_a_tick_of_a_clock_that_has_run_ahead_lets_nothing_expire() -> None:
    setup = EarlyMessageFixture(poll=1000.0)
    wake = setup.park(1, now=0.0, ttl=60.0).wake
    assert wake == 60.0
    early_messages = setup.early_messages()
    turn = early_messages.on_timer(60.0, setup.instance, 1.0, early=True)
    assert (turn.events, turn.wake) == ([], 60.0)
    assert early_messages.on_timer(60.0, setup.instance, 1.0).events == ["expired"]
