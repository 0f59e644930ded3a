"""States of a block of dead letters, compared with a plain dictionary."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.system_names import DEAD_LETTER_BLOCK
from bridge.dead_letters.state_machine import LONGEST_REASON, MOST_MARKS, BlockStates, DeadLetterState

FIRST = 3 * DEAD_LETTER_BLOCK
OFFSETS = st.sampled_from([FIRST, FIRST + 1, FIRST + 7, FIRST + 8, FIRST + 63, FIRST + DEAD_LETTER_BLOCK - 1])
JOBS = st.sampled_from(["a", "b", "c"])


@dataclass
class Model:
    """The same operations on a dictionary, one dead letter at a time. states: state and job by offset."""

    states: dict[int, tuple[str, str]]

    def apply(self, operation: str, job: str, offsets: list[int], states: list[str]) -> None:
        for offset in offsets:
            state, owner = self.states.get(offset, ("open", ""))
            if operation == "take" and state == "open":
                self.states[offset] = ("replaying", job)
            elif operation == "drop" and state == "open":
                self.states[offset] = ("dropped", job)
            elif operation in ("replayed", "returned") and (state == "open" or (state, owner) == ("replaying", job)):
                self.states[offset] = (operation, job)
            elif (
                (operation == "open" and (state, owner) == ("replaying", job))
                or (operation == "restore" and state in states)
                or operation == "forget"
            ):
                self.states.pop(offset, None)


OPERATION = st.tuples(
    st.sampled_from(["take", "take", "drop", "replayed", "returned", "open", "restore", "forget", "later"]),
    JOBS,
    st.lists(OFFSETS, max_size=6),
    st.lists(st.sampled_from(["dropped", "replayed", "returned", "replaying"]), max_size=2),
)


@given(st.lists(OPERATION, max_size=20))
def test_a_bitmap_is_a_dictionary(operations: list[tuple[str, str, list[int], list[str]]]) -> None:
    states, model = BlockStates(), Model({})
    for operation, job, offsets, restored in operations:
        items = [(offset, float(offset)) for offset in offsets]
        value = {"job": job, "at": 1.0, "items": items, "offsets": offsets, "states": restored}
        states.apply(operation, value)
        model.apply(operation, job, offsets, restored)
        states = BlockStates(json.loads(json.dumps(states.to_json())))
        found = {FIRST + each: (mark.state, mark.job) for mark, members in states.marks() for each in members}
        assert found == model.states
        for offset in offsets:
            mark = states.mark(offset, float(offset))
            assert (None if mark is None else (mark.state, mark.job)) == model.states.get(offset)
    assert (states.to_json() is None) == (not model.states)


@given(st.lists(st.tuples(st.sampled_from(["take", "drop", "replayed", "returned"]), OFFSETS, st.text(max_size=3))))
def test_a_repeated_operation_changes_nothing(operations: list[tuple[str, int, str]]) -> None:
    states = BlockStates()
    for operation, offset, reason in operations:
        value = {"job": "j", "at": 1.0, "by": "ann", "reason": reason, "items": [(offset, 1.0)], "offsets": [offset]}
        states.apply(operation, value)
        once = states.to_json()
        states.apply(operation, value)
        assert states.to_json() == once


def test_only_one_job_gets_a_dead_letter() -> None:
    states = BlockStates()
    states.apply("take", {"job": "a", "items": [(5, 10.0), (6, 11.0)]})
    states.apply("take", {"job": "b", "items": [(6, 11.0), (7, 12.0)]})
    assert [(mark.job, members) for mark, members in states.marks()] == [("a", [5, 6]), ("b", [7])]


def test_a_topic_that_was_created_again_has_open_dead_letters() -> None:
    states = BlockStates()
    states.apply("drop", {"job": "old", "at": 100.0, "reason": "r", "items": [(5, 90.0), (6, 91.0)]})
    assert states.mark(5, 90.0) is not None
    assert states.mark(5, 200.0) is None
    states.apply("take", {"job": "new", "at": 210.0, "items": [(5, 200.0)]})
    mark = states.mark(5, 200.0)
    assert mark is not None
    assert (mark.state, mark.job) == ("replaying", "new")
    states.apply("forget", {"before": 200.0})
    assert [(mark.job, members) for mark, members in states.marks()] == [("new", [5])]


def test_a_result_after_an_abort_counts() -> None:
    states = BlockStates()
    states.apply("take", {"job": "a", "items": [(5, 10.0)]})
    states.apply("open", {"job": "a", "offsets": [5]})
    states.apply("replayed", {"job": "a", "offsets": [5]})
    assert [mark.state for mark, _ in states.marks()] == [DeadLetterState.REPLAYED]


def test_a_result_of_another_job_leaves_the_dead_letter_to_its_job() -> None:
    states = BlockStates()
    states.apply("take", {"job": "a", "items": [(5, 10.0)]})
    for operation in ("replayed", "returned", "open"):
        states.apply(operation, {"job": "b", "offsets": [5]})
        assert [(mark.state, mark.job) for mark, _ in states.marks()] == [(DeadLetterState.REPLAYING, "a")]


@pytest.mark.parametrize("below", [1, 2, DEAD_LETTER_BLOCK])
def test_the_begin_of_a_block_is_forgotten(below: int) -> None:
    states = BlockStates()
    states.apply("drop", {"job": "a", "items": [(0, 1.0), (1, 1.0), (DEAD_LETTER_BLOCK - 1, 1.0)]})
    states.apply("forget", {"below": below})
    assert [members for _, members in states.marks()] == [
        left for left in [[each for each in (0, 1, DEAD_LETTER_BLOCK - 1) if each >= below]] if left
    ]


@given(st.lists(st.tuples(st.sampled_from(["drop", "take"]), st.integers(0, 300)), max_size=250))
def test_the_state_of_a_block_is_bounded(operations: list[tuple[str, int]]) -> None:
    states, expected = BlockStates(), dict[int, str]()
    for number, (operation, offset) in enumerate(operations):
        value: dict[str, Any] = {"job": f"job-{number}", "at": float(number), "by": "ann", "reason": "x" * 1000}
        states.apply(operation, value | {"items": [(offset, 1.0)]})
        if operation == "take":
            states.apply("replayed", value | {"offsets": [offset]})
        expected.setdefault(offset, "dropped" if operation == "drop" else "replayed")
    found = {each: mark.state.value for mark, members in states.marks() for each in members}
    assert found == expected
    assert len(list(states.marks())) <= MOST_MARKS
    assert all(len(mark.reason) <= LONGEST_REASON for mark, _ in states.marks())


def test_the_largest_state_of_a_block() -> None:
    states = BlockStates()
    for number in range(DEAD_LETTER_BLOCK):
        value = {"job": f"job-{number}", "at": 1e9, "by": "ann", "reason": "x" * LONGEST_REASON}
        states.apply("drop", value | {"items": [(DEAD_LETTER_BLOCK - 1 - number, 1e9)]})
    assert len(json.dumps(states.to_json())) < 150_000
