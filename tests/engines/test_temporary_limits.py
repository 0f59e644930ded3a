"""State of a temporary limit: replaced, ended, and signed in at, by operations in any order."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from bridge.engines.entities.temporary_limits import FORGET_SECONDS, MOST_DAEMONS, TemporaryLimit, apply

LIMIT = {"running": 5, "rate": 2.0, "until": 100.0, "since": 1.0, "by": "ada", "reason": ""}

OPERATIONS = st.tuples(
    st.sampled_from(["set", "clear", "present", "left", "end", "of a later version"]),
    st.sampled_from(["a/1", "a/2", "b/1"]),
    st.floats(0, 2000),
)


@given(st.lists(OPERATIONS, max_size=30))
def test_any_sequence_of_operations_leaves_a_limit_or_none(operations: list[tuple[str, str, float]]) -> None:
    state: dict[str, Any] | None = None
    for operation, daemon, at in operations:
        value = {**LIMIT, "until": at} if operation == "set" else {"daemon": daemon, "at": at}
        before, state = state, apply(state, operation, value)
        if operation == "set":
            assert state is not None
            assert state["until"] == at
        elif before is None or operation == "clear":
            assert state is None
        if state is not None:
            limit = TemporaryLimit(**state)
            assert limit.daemons.keys() <= {"a/1", "a/2", "b/1"}
        if state is not None and operation == "present":
            assert state["daemons"][daemon] == at


def test_a_new_limit_keeps_the_daemons_that_have_signed_in() -> None:
    state = apply(apply(None, "set", LIMIT), "present", {"daemon": "a/1", "at": 5.0})
    assert apply(state, "set", {**LIMIT, "rate": 9.0}) == {**LIMIT, "rate": 9.0, "daemons": {"a/1": 5.0}}


def test_a_limit_is_removed_only_after_its_time() -> None:
    state = apply(None, "set", LIMIT)
    assert apply(state, "end", {"daemon": "a/1", "at": 99.9}) == {**LIMIT, "daemons": {}}
    assert apply(state, "end", {"daemon": "a/1", "at": 100.0}) is None


def test_daemons_are_forgotten_and_bounded() -> None:
    state = apply(None, "set", LIMIT)
    for number in range(MOST_DAEMONS + 10):
        state = apply(state, "present", {"daemon": f"a/{number}", "at": 1.0})
    assert state is not None
    assert len(state["daemons"]) == MOST_DAEMONS
    later = apply(state, "present", {"daemon": "late", "at": 2.0 + FORGET_SECONDS})
    assert later is not None
    assert later["daemons"] == {"late": 2.0 + FORGET_SECONDS}
    assert apply(later, "left", {"daemon": "late"}) == {**LIMIT, "daemons": {}}
