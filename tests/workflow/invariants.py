"""Invariants of every saga, read from the decisions of its orchestrator."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.workflow.trees import RESULTS, SERVICES, Wood, at_once, in_sequence

FINAL = {"completed", "refused", "unknown", "compensated", "compensation_failed"}


@dataclass(frozen=True)
class Decision:
    """Attempt of a step, or of its compensation.

    turn: of the orchestrator. begun, over: times of the decision and of its answer, by any clock; over is None without
    an answer. worked: the answer was a result.
    """

    step: str
    undo: bool
    key: str
    turn: int
    begun: float
    over: float | None
    worked: bool


def decision(name: str, given: Any, turn: int, begun: float, over: float | None, worked: bool) -> Decision | None:
    """Create a decision; None for an action that belongs to no step."""
    if name != "bridge.publish":
        key, plan = given["key"], given["input"]
    elif given["target"] == SERVICES:
        name, key, plan = given["type"], given["headers"]["step-key"], given["data"]
        plan = plan if name == "do" else plan["input"]
    else:
        return None
    return Decision(plan["name"], name.startswith("undo"), key, turn, begun, over, worked)


def check(wood: Wood, outcome: dict[str, Any], states: dict[str, str], decisions: Sequence[Decision]) -> None:
    """Assert all invariants. decisions: in order. states: final states of the steps."""
    forward = [one for one in decisions if not one.undo]
    undone = [one for one in decisions if one.undo]
    _kept_or_undone(wood, outcome, states, forward, undone)
    _one_key_for_each(decisions)
    _one_attempt_after_the_other(forward)
    _one_attempt_after_the_other(undone)
    # No step starts after the first compensation
    assert [one.undo for one in decisions] == sorted(one.undo for one in decisions)
    if undone:
        assert max(one.turn for one in forward) < undone[0].turn
    _in_reverse(wood, undone)


def _kept_or_undone(
    wood: Wood, outcome: dict[str, Any], states: dict[str, str], forward: list[Decision], undone: list[Decision]
) -> None:
    plans = wood.plans
    assert set(states.values()) <= FINAL
    assert set(states) == {one.step for one in forward}
    well = outcome["reason"] is None
    if well:
        assert set(states) == set(plans)
    for name, state in states.items():
        plan = plans[name]
        attempts = [one for one in undone if one.step == name]
        done = [one for one in forward if one.step == name]
        worked = done[-1].worked
        if state == "completed":
            assert well or plan.undone_by is None
            assert worked
            assert not attempts
        elif state == "refused":
            assert plan.refused
            assert not worked
            assert not attempts
        elif state == "unknown":
            assert plan.undone_by is None
            assert not attempts
        else:
            assert not well or plan.optional
            assert len(attempts) in ((1, 2) if state == "compensated" else (2,))
            assert not any(one.worked for one in attempts[:-1])
            assert attempts[-1].worked == (state == "compensated")
    assert set(outcome["completed"]) >= {name for name, state in states.items() if state == "completed"}
    assert sorted(outcome["compensated"]) == sorted(name for name, state in states.items() if state == "compensated")
    failed = {name for name, state in states.items() if state == "compensation_failed"}
    assert {one["step"] for one in outcome["failed_compensations"]} == failed
    expected = "compensation_failed" if failed else "completed" if well else "compensated"
    assert outcome["status"] == expected
    # Behind the point of no return, only steps that had failed before are undone
    if wood.pivot and any(plan.name in states for plan in wood.tail):
        assert well
        assert all(plans[one.step].optional for one in undone)


def _one_key_for_each(decisions: Sequence[Decision]) -> None:
    """Assert that a step has one key in all attempts and in its compensation."""
    keys = defaultdict(set)
    for one in decisions:
        keys[one.step].add(one.key)
    assert all(len(found) == 1 for found in keys.values())
    assert len(set().union(*keys.values())) == len(keys)


def _one_attempt_after_the_other(decisions: list[Decision]) -> None:
    """Assert that each attempt begins after the failure of the one before: a compensation is decided once."""
    last: dict[str, Decision] = {}
    for one in decisions:
        before = last.get(one.step)
        if before is not None:
            assert before.over is not None
            assert before.over <= one.begun
            assert not before.worked
        last[one.step] = one


def _in_reverse(wood: Wood, undone: list[Decision]) -> None:
    """Assert that sequential steps are undone in reverse order, and parallel steps at once."""
    attempts: dict[str, list[Decision]] = defaultdict(list)
    for one in undone:
        attempts[one.step].append(one)
    for first, second in in_sequence(wood.whole):
        if first in attempts and second in attempts:
            over = attempts[second][-1].over
            assert over is not None
            assert over <= attempts[first][0].begun
            assert attempts[second][-1].turn < attempts[first][0].turn
    for branches in at_once(wood.whole):
        begun = [
            min(attempts[name][0].turn for name in names if name in attempts)
            for names in branches
            if any(name in attempts for name in names)
        ]
        assert len(set(begun)) <= 1


def received(published: Sequence[dict[str, Any]], outcome: dict[str, Any]) -> None:
    """Assert that the outcome was published, and repeated only under the same id."""
    results = [event for event in published if event["target"] == RESULTS]
    assert len({event["id"] for event in results}) == 1
    assert {event["type"] for event in results} == {f"random.{outcome['status']}"}
    assert results[0]["data"] == outcome
