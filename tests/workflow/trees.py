"""Random sagas: sequential and parallel steps, and the fate of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from typing import Any

from durabletask import task
from hypothesis import strategies as st

from bridge.workflow import Child, Command, Saga, Scope, Step, StepFailed

ACTIVITY, CHILD, COMMAND = "activity", "child", "command"
SERVICES, RESULTS = "services", "results"
"""Targets of commands and of the outcome."""


class No(Exception):
    """Raised by a step that refuses."""


@dataclass(frozen=True)
class Plan:
    """Step and its fate. Times are in units, whose length the test defines.

    kind, undone_by: kinds of the step and of its compensation. failures, undo_failures: number of first calls that
    fail. obeys: a child ends on the event `cancel`. optional: the body continues when the step has failed.
    """

    name: str
    kind: str
    undone_by: str | None
    attempts: int
    failures: int
    takes: float
    timeout: float | None
    refused: bool
    undo_failures: int
    answered: float
    obeys: bool
    optional: bool

    def step(self, unit: float) -> Step:
        return Step(
            self.name,
            _action(self.kind, "do"),
            asdict(self),
            compensation=None if self.undone_by is None else _action(self.undone_by, "undo"),
            retry=_policy(self.attempts, unit),
            timeout=None if self.timeout is None else timedelta(seconds=self.timeout * unit),
            refusals=(No,),
            compensation_retry=_policy(2, unit),
        )


def _action(kind: str, name: str) -> Any:
    if kind == COMMAND:
        return Command(SERVICES, name, reply_to="replies" if name == "do" else None)
    return Child(f"{name}-child") if kind == CHILD else name


def _policy(attempts: int, unit: float) -> task.RetryPolicy:
    pause = timedelta(seconds=unit)
    return task.RetryPolicy(first_retry_interval=pause, max_number_of_attempts=attempts, backoff_coefficient=2.0)


@dataclass(frozen=True)
class Tree:
    """Tree of steps. parallel: members run at the same time; they are the branches."""

    parallel: bool
    members: list[Any] = field(default_factory=list)


plans = st.builds(
    Plan,
    name=st.just(""),
    kind=st.sampled_from([ACTIVITY, ACTIVITY, COMMAND, CHILD]),
    undone_by=st.sampled_from([ACTIVITY, ACTIVITY, COMMAND, CHILD, None]),
    attempts=st.integers(1, 3),
    failures=st.sampled_from([0, 0, 0, 0, 1, 2, 9]),
    takes=st.sampled_from([0.0, 0.5, 1.0, 3.0, 10.0]),
    timeout=st.sampled_from([None, None, None, 0.7, 4.0]),
    refused=st.sampled_from([False, False, False, False, True]),
    undo_failures=st.sampled_from([0, 0, 0, 1, 9]),
    answered=st.sampled_from([0.0, 0.6, 2.0, 8.0]),
    obeys=st.booleans(),
    optional=st.sampled_from([False, False, False, True]),
)


@dataclass(frozen=True)
class Wood:
    """Saga: a tree, then a tail, and optionally a point of no return between them.

    cancels: times of cancel requests.
    """

    tree: Any
    tail: list[Plan]
    pivot: bool
    cancels: list[float]

    def __post_init__(self) -> None:
        counter = iter(range(1000))
        object.__setattr__(self, "tree", _named(self.tree, counter))
        tail = [_named(plan, counter) for plan in self.tail]
        if self.pivot:
            # Behind the point of no return a step is retried until it succeeds; these steps can succeed.
            tail = [replace(plan, refused=False, timeout=None, optional=False) for plan in tail]
        object.__setattr__(self, "tail", tail)

    @property
    def whole(self) -> Tree:
        return Tree(False, [self.tree, *self.tail])

    @property
    def plans(self) -> dict[str, Plan]:
        return {plan.name: plan for plan in leaves(self.whole)}

    def orchestrator(self, unit: float) -> Callable[..., Any]:
        def random_saga(ctx: task.OrchestrationContext, _: Any) -> Any:
            pause = timedelta(seconds=unit)
            saga = Saga(ctx, "random", publish_outcome=RESULTS, roll_forward_pause=pause)

            def body() -> Any:
                yield from _walk(saga, self.tree, unit)
                if self.pivot:
                    saga.point_of_no_return()
                yield from _walk(saga, Tree(False, self.tail), unit)
                return "done"

            return (yield from saga.run(body()))

        return random_saga


inner = st.builds(Tree, st.just(True), st.lists(plans, min_size=2, max_size=2))
branches = plans | st.builds(Tree, st.just(False), st.lists(plans | inner, max_size=3))
groups = st.builds(Tree, st.just(True), st.lists(branches, max_size=3))
woods = st.builds(
    Wood,
    tree=st.builds(Tree, st.just(False), st.lists(plans | groups, min_size=1, max_size=4)),
    tail=st.lists(plans, max_size=2),
    pivot=st.booleans(),
    cancels=st.just([]) | st.lists(st.sampled_from([0.0, 0.5, 1.1, 3.0, 7.7]), min_size=1, max_size=2),
)


def leaves(tree: Any) -> list[Plan]:
    return [tree] if isinstance(tree, Plan) else [leaf for member in tree.members for leaf in leaves(member)]


def in_sequence(tree: Any) -> Iterator[tuple[str, str]]:
    """Return pairs of names; the first step of a pair must end before the second starts."""
    if isinstance(tree, Plan):
        return
    for position, member in enumerate(tree.members):
        yield from in_sequence(member)
        if not tree.parallel:
            for later in tree.members[position + 1 :]:
                yield from ((a.name, b.name) for a in leaves(member) for b in leaves(later))


def at_once(tree: Any) -> Iterator[list[list[str]]]:
    """Return the names in each branch of every parallel tree."""
    if isinstance(tree, Plan):
        return
    for member in tree.members:
        yield from at_once(member)
    if tree.parallel:
        yield [[leaf.name for leaf in leaves(member)] for member in tree.members]


def siblings(tree: Any, others: Sequence[str] = ()) -> Iterator[tuple[str, Sequence[str]]]:
    """Return every name with the names in the other branches of its innermost parallel tree."""
    if isinstance(tree, Plan):
        yield tree.name, others
        return
    for member in tree.members:
        if tree.parallel:
            others = [leaf.name for other in tree.members if other is not member for leaf in leaves(other)]
        yield from siblings(member, others)


def _named(tree: Any, counter: Iterator[int]) -> Any:
    if isinstance(tree, Plan):
        return replace(tree, name=f"s{next(counter)}")
    return Tree(tree.parallel, [_named(member, counter) for member in tree.members])


def _walk(scope: Scope, tree: Any, unit: float) -> Any:
    if isinstance(tree, Plan):
        try:
            yield from scope.step(tree.step(unit))
        except StepFailed as failure:
            if failure.reason == "cancelled" or not tree.optional:
                raise
    elif tree.parallel:
        yield from scope.parallel([lambda own, member=member: _walk(own, member, unit) for member in tree.members])  # type: ignore[misc]  # mypy cannot infer it
    else:
        for member in tree.members:
            yield from _walk(scope, member, unit)
