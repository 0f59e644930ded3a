"""Random sagas with random failures, timeouts and cancels: what holds for all of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from durabletask import task
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.workflow import Command, Saga, Scope, Step
from tests.workflow.simulation import Scheduled, Simulation


class No(Exception):
    """A refusal."""


@dataclass(frozen=True)
class Plan:
    """A step and what happens to it. takes and timeout are seconds."""

    name: str
    attempts: int
    failures: int
    takes: float
    timeout: float | None
    refused: bool
    compensated: bool
    undo_failures: int
    command: bool
    answered: float | None

    def step(self) -> Step:
        return Step(
            self.name,
            Command("services", self.name, reply_to="replies") if self.command else f"do-{self.name}",
            {"of": self.name},
            compensation=f"undo-{self.name}" if self.compensated else None,
            retry=policy(self.attempts),
            timeout=None if self.timeout is None else timedelta(seconds=self.timeout),
            refusals=(No,),
            compensation_retry=policy(2),
        )


@dataclass(frozen=True)
class Tree:
    """parallel: members run at the same time. The members of a parallel tree are branches."""

    parallel: bool
    members: list[Any] = field(default_factory=list)


def policy(attempts: int) -> task.RetryPolicy:
    return task.RetryPolicy(
        first_retry_interval=timedelta(seconds=1), max_number_of_attempts=attempts, backoff_coefficient=2.0
    )


seconds = st.sampled_from([0.0, 0.5, 1.0, 3.0, 10.0])
plans = st.builds(
    Plan,
    name=st.just(""),
    attempts=st.integers(1, 3),
    failures=st.sampled_from([0, 0, 0, 0, 1, 2, 9]),
    takes=seconds,
    timeout=st.sampled_from([None, None, None, 0.7, 4.0]),
    refused=st.sampled_from([False, False, False, False, True]),
    compensated=st.sampled_from([True, True, True, False]),
    undo_failures=st.sampled_from([0, 0, 0, 1, 9]),
    command=st.booleans(),
    answered=st.sampled_from([0.0, 0.6, 2.0, 8.0]),
)
trees = st.recursive(
    plans,
    lambda inner: st.builds(Tree, st.booleans(), st.lists(inner, max_size=3)),
    max_leaves=7,
)


def named(tree: Any, counter: Iterator[int]) -> Any:
    if isinstance(tree, Plan):
        return Plan(**{**vars(tree), "name": f"s{next(counter)}"})
    return Tree(tree.parallel, [named(member, counter) for member in tree.members])


def leaves(tree: Any) -> list[Plan]:
    return [tree] if isinstance(tree, Plan) else [leaf for member in tree.members for leaf in leaves(member)]


def in_sequence(tree: Any) -> Iterator[tuple[str, str]]:
    """Pairs of names of which the first must be over before the second starts."""
    if isinstance(tree, Plan):
        return
    for position, member in enumerate(tree.members):
        yield from in_sequence(member)
        if not tree.parallel:
            for later in tree.members[position + 1 :]:
                yield from ((a.name, b.name) for a in leaves(member) for b in leaves(later))


def walk(scope: Scope, tree: Any) -> Any:
    if isinstance(tree, Plan):
        yield from scope.step(tree.step())
    elif tree.parallel:
        yield from scope.parallel([lambda own, member=member: walk(own, member) for member in tree.members])
    else:
        for member in tree.members:
            yield from walk(scope, member)


def simulate(tree: Any, tail: list[Plan], pivot: bool, cancel_at: float | None, together: float) -> Simulation:
    by_name = {plan.name: plan for plan in [*leaves(tree), *tail]}

    def orchestrator(ctx: task.OrchestrationContext, _: Any) -> Any:
        saga = Saga(ctx, "random", publish_outcome="results")

        def body() -> Any:
            yield from walk(saga, tree)
            if pivot:
                saga.point_of_no_return()
            for plan in tail:
                yield from saga.step(plan.step())
            return "done"

        return (yield from saga.run(body()))

    calls: dict[str, int] = defaultdict(int)

    def answers(name: str, given: Any) -> tuple[float, Any]:
        calls[name] += 1
        if name == "bridge.publish":
            if given["target"] == "results":
                return 0.1, given["id"]
            plan = by_name[given["type"]]
            calls[plan.name] += 1
            if calls[plan.name] <= plan.failures:
                return 0.2, ConnectionError("away")
            if plan.answered is not None:
                simulation.event(simulation.now + plan.answered, f"reply:{given['headers']['correlation-id']}", "yes")
            return 0.2, given["id"]
        kind, _, of = name.partition("-")
        plan = by_name[of]
        if kind == "undo":
            return 0.3, (OSError("no") if calls[name] <= plan.undo_failures else "undone")
        if plan.refused:
            return plan.takes, No("no")
        return plan.takes, (OSError("away") if calls[name] <= plan.failures else f"result of {of}")

    simulation = Simulation(orchestrator, answers, together=together)
    if cancel_at is not None:
        simulation.event(cancel_at, "cancel", {"reason": "asked"})
    return simulation.run()


def forward(simulation: Simulation) -> list[tuple[str, Scheduled]]:
    found = []
    for one in simulation.scheduled:
        if one.name.startswith("do-"):
            found.append((one.name.removeprefix("do-"), one))
        elif one.name == "bridge.publish" and one.input["target"] == "services":
            found.append((one.input["type"], one))
    return found


def undone(simulation: Simulation) -> list[tuple[str, Scheduled]]:
    return [(one.name.removeprefix("undo-"), one) for one in simulation.scheduled if one.name.startswith("undo-")]


@settings(max_examples=150, deadline=None)
@given(
    tree=trees,
    tail=st.lists(plans, max_size=2),
    pivot=st.booleans(),
    cancel_at=st.sampled_from([None, None, None, 0.0, 0.5, 1.1, 3.0, 7.7]),
    together=st.sampled_from([0.0, 0.0, 0.5]),
)
def test_every_step_is_kept_or_undone_once_and_in_reverse(
    tree: Any, tail: list[Plan], pivot: bool, cancel_at: float | None, together: float
) -> None:
    counter = iter(range(1000))
    tree, tail = named(tree, counter), [named(plan, counter) for plan in tail]
    if pivot:
        # Behind the point of no return a step is tried until it succeeds; here it can.
        tail = [Plan(**{**vars(plan), "refused": False, "timeout": None}) for plan in tail]
    plan_of = {plan.name: plan for plan in [*leaves(tree), *tail]}
    simulation = simulate(tree, tail, pivot, cancel_at, together)

    assert simulation.status == "COMPLETED", simulation.failure
    outcome = simulation.output
    last = simulation.statuses[-1]
    assert last["status"] == outcome["status"]
    states = last["steps"]

    # Kept, or its compensation decided exactly once and carried through
    final = {"completed", "refused", "unknown", "compensated", "compensation_failed"}
    assert set(states.values()) <= final
    assert set(states) == {name for name, _ in forward(simulation)}
    attempts = defaultdict(list)
    for name, one in undone(simulation):
        attempts[name].append(one)
    for name, state in states.items():
        plan = plan_of[name]
        if outcome["status"] == "completed":
            assert state == "completed"
            assert not attempts[name]
        elif state in ("completed", "unknown"):
            assert not plan.compensated
            assert not attempts[name]
        elif state == "refused":
            assert plan.refused
            assert not attempts[name]
        elif state == "compensated":
            assert len(attempts[name]) == plan.undo_failures + 1
        else:
            assert len(attempts[name]) == 2 <= plan.undo_failures
    expected = "compensation_failed" if "compensation_failed" in states.values() else "compensated"
    assert outcome["status"] in ("completed", expected)
    assert sorted(outcome["compensated"]) == sorted(name for name, state in states.items() if state == "compensated")
    assert {one["step"] for one in outcome["failed_compensations"]} == {
        name for name, state in states.items() if state == "compensation_failed"
    }

    # Nothing starts once the undoing has begun, and what ran in sequence is undone in reverse
    steps = [one for _, one in [*forward(simulation), *undone(simulation)]]
    compensating = [one in steps and one.name.startswith("undo-") for one in simulation.scheduled if one in steps]
    assert compensating == sorted(compensating)
    order = [name for name, _ in undone(simulation)]
    pairs = [*in_sequence(tree), *in_sequence(Tree(False, [tree, *tail]))]
    for first, second in pairs:
        if first in order and second in order:
            assert order.index(first) > len(order) - 1 - order[::-1].index(second)

    # Behind the point of no return nothing is undone
    if pivot and any(plan.name in states for plan in tail):
        assert outcome["status"] == "completed"
        assert not order

    # One key per step, the same in every attempt and in the compensation
    keys = defaultdict(set)
    for name, one in forward(simulation):
        keys[name].add(one.input["headers"]["step-key"] if one.name == "bridge.publish" else one.input["key"])
    for name, one in undone(simulation):
        keys[name].add(one.input["key"])
    assert all(len(found) == 1 for found in keys.values())
    assert len(set().union(*keys.values())) == len(keys)

    # The outcome was published, once
    published = [one.input for one in simulation.scheduled if one.name == "bridge.publish"]
    told = [one for one in published if one["target"] == "results"]
    assert [one["type"] for one in told] == [f"random.{outcome['status']}"]
    assert told[0]["data"] == outcome

    simulation.replay()
