"""Messages of one poisoned key."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from bridge.config.model.sources import QuarantineConfig
from bridge.core.message import Position
from bridge.core.stored_message import OperationResult
from bridge.quarantine.state_machine import KeyQuarantine, delivery_id
from bridge.waiting.claim import LEASE, Claim

CAUSE = {"reason": "engine_rejected", "detail": "no", "error": "EngineRejected", "route": "paid"}


class QuarantineFixture:
    def __init__(self, limits: QuarantineConfig | None = None) -> None:
        self.limits = limits or QuarantineConfig()
        self.state: Any = None

    def quarantine(self) -> KeyQuarantine:
        return KeyQuarantine(self.limits, self.state)

    def do(self, operation: str, *arguments: Any) -> OperationResult:
        quarantine = self.quarantine()
        turn: OperationResult = getattr(quarantine, operation)(*arguments)
        self.state = json.loads(json.dumps(quarantine.to_json()))
        return turn

    def hold(self, number: int, until: float | None = None) -> OperationResult:
        return self.do("hold", _value(number) | {"cause": CAUSE, "until": until})

    def follow(self, number: int) -> OperationResult:
        return self.do("append", _value(number))

    @property
    def owner(self) -> str | None:
        """Process that has claimed the key."""
        return Claim.of(self.state or {}).owner

    @property
    def held(self) -> list[str]:
        return [each["mark"] for each in self.quarantine().held]


def _value(number: int) -> dict[str, Any]:
    return {"source": "orders", "key": "Yms=", "item": {"mark": str(number), "size": 10, "since": 0.0}}


def test_a_key_is_held_with_what_follows_until_a_person_releases_it() -> None:
    setup = QuarantineFixture()
    assert setup.hold(0).events == ["stored"]
    setup.follow(1)
    assert (setup.held, setup.quarantine().until, setup.quarantine().cause) == (["0", "1"], None, CAUSE)
    setup.do("release")
    assert setup.quarantine().until == 0.0
    setup.do("done", "0")
    assert setup.held == ["1"]
    setup.do("done", "1")
    assert setup.state is None


def test_one_that_waits_for_a_time_says_which() -> None:
    setup = QuarantineFixture()
    setup.hold(0, until=77.0)
    assert setup.quarantine().until == 77.0


def test_a_redelivery_is_held_once() -> None:
    setup = QuarantineFixture()
    setup.hold(0)
    assert setup.hold(0).events == ["repeated"]
    setup.follow(1)
    assert setup.follow(1).events == ["repeated"]
    assert setup.quarantine().size == 20


def test_one_that_comes_when_the_last_has_just_left_is_taken_up_at_once() -> None:
    setup = QuarantineFixture()
    setup.hold(0)
    setup.do("done", "0")
    setup.follow(1)
    assert (setup.held, setup.quarantine().until) == (["1"], 0.0)


def test_what_fails_again_is_held_anew_in_its_place() -> None:
    setup = QuarantineFixture()
    setup.hold(0)
    setup.follow(1)
    setup.do("release")
    setup.do("claim", "me", 100.0)
    setup.do("requeue", "0", CAUSE | {"reason": "worse"}, None, 1)
    quarantine = setup.quarantine()
    assert (setup.held, quarantine.until, setup.owner, quarantine.cause["reason"]) == (
        ["0", "1"],
        None,
        None,
        "worse",
    )


def test_one_process_at_a_time_has_it_and_only_while_it_says_so() -> None:
    setup = QuarantineFixture()
    setup.hold(0)
    setup.do("claim", "me", 100.0)
    setup.do("claim", "other", 101.0)
    assert setup.owner == "me"
    setup.do("claim", "me", 110.0)
    setup.do("claim", "other", 110.0 + LEASE - 1)
    assert setup.owner == "me"
    setup.do("claim", "other", 110.0 + LEASE)
    assert setup.owner == "other"
    setup.do("unclaim", "me")
    assert setup.owner == "other"
    setup.do("unclaim", "other")
    assert setup.owner is None


def test_what_is_too_much_is_dead_lettered() -> None:
    for limits in (QuarantineConfig(max_messages=2), QuarantineConfig(max_bytes=25)):
        setup = QuarantineFixture(limits)
        setup.hold(0)
        setup.follow(1)
        turn = setup.follow(2)
        assert (turn.events, [each.reason for each in turn.undelivered]) == (["full"], ["quarantine_full"])
        setup.do("release")
        setup.do("done", "0")
        assert setup.follow(3).events == ["stored"]


def test_dropping() -> None:
    setup = QuarantineFixture()
    setup.hold(0)
    setup.follow(1)
    setup.follow(2)
    turn = setup.do("drop", ["1"], False, 0.0)
    assert [(each.reason, each.error) for each in turn.undelivered] == [("quarantine_dropped", "")]
    assert setup.quarantine().cause == CAUSE
    turn = setup.do("drop", ["0"], False, 0.0)
    assert [each.error for each in turn.undelivered] == ["EngineRejected"]
    assert setup.quarantine().cause == {}  # of a message that has left
    assert setup.do("drop", None, True, 0.0).undelivered == []
    assert setup.state is None


def test_nothing_is_dropped_while_a_process_works_on_it() -> None:
    setup = QuarantineFixture()
    setup.hold(0)
    setup.do("release")
    setup.do("claim", "me", 100.0)
    assert setup.do("drop", None, False, 101.0).events == []
    assert setup.held == ["0"]
    assert setup.do("drop", None, False, 100.0 + LEASE).events == ["dropped"]


@given(
    st.lists(
        st.tuples(st.sampled_from(["hold", "follow", "done", "release", "drop", "claim", "again"]), st.integers(0, 5))
    )
)
def test_nothing_is_lost_and_sizes_add_up(steps: list[tuple[str, int]]) -> None:
    setup = QuarantineFixture(QuarantineConfig(max_messages=3))
    received = 0
    left = 0
    for operation, number in steps:
        if operation in ("hold", "follow"):
            turn = setup.hold(number) if operation == "hold" else setup.follow(number)
            received += turn.events != ["repeated"]
        elif operation == "done":
            left += str(number) in setup.held
            turn = setup.do("done", str(number))
        elif operation == "drop":
            turn = setup.do("drop", [str(number)], False, 1.0 + number * LEASE)
        elif operation == "release":
            turn = setup.do("release")
        elif operation == "claim":
            turn = setup.do("claim", str(number), 1.0)
        else:
            turn = setup.do("requeue", str(number), CAUSE, None, 1)
        left += len(turn.undelivered)
        assert received == left + len(setup.held)
        assert setup.quarantine().size == 10 * len(setup.held)


def test_the_mark_of_a_message_is_its_place() -> None:
    place = Position("c", "orders", 0, 7)
    assert delivery_id(place) == delivery_id(Position("c", "orders", 0, 7))
    assert delivery_id(place) != delivery_id(Position("c", "orders", 1, 7))
