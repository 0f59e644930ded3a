"""Parallel steps and branches."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from durabletask import task

from bridge.workflow import Command, Saga, SagaAborted, Scope, Step
from tests.workflow.sagas import names, simulate


def test_parallel_steps_run_and_are_undone_at_the_same_time() -> None:
    def body(one: Saga) -> Any:
        yield from one.step(Step("first", "first", compensation="undo-first"))
        steps = [Step(name, name, compensation=f"undo-{name}") for name in ("a", "b", "c")]
        results = yield from one.parallel(steps)
        assert results == ["a", "b", "c"]
        yield from one.step(Step("last", "last"))

    done = simulate(body, {"b": (5.0, "b"), "last": (1.0, OSError("away"))}).run()
    at = {one.name: one.at for one in done.scheduled}
    assert at["a"] == at["b"] == at["c"] == 1.0
    assert at["undo-a"] == at["undo-b"] == at["undo-c"] == 7.0
    assert at["undo-first"] == 8.0


def test_branches_are_sequences_of_their_own() -> None:
    def branch(name: str) -> Callable[[Scope], Any]:
        def run(scope: Scope) -> Any:
            yield from scope.step(Step(f"{name}1", f"{name}1", compensation=f"undo-{name}1"))
            return (yield from scope.step(Step(f"{name}2", f"{name}2", compensation=f"undo-{name}2")))

        return run

    def body(one: Saga) -> Any:
        results = yield from one.parallel([branch("a"), branch("b"), Step("c", "c")])
        assert results == ["a2", "b2", "c"]
        raise SagaAborted("enough")

    order = names(simulate(body).run())
    for name in ("a", "b"):
        assert order.index(f"undo-{name}2") < order.index(f"undo-{name}1")


@pytest.mark.parametrize("kind", ["parallel", "sequence"])
def test_an_empty_group_is_over_at_once(kind: str) -> None:
    def body(one: Saga) -> Any:
        return (yield from getattr(one, kind)([]))

    done = simulate(body).run()
    assert (done.output["status"], done.output["result"]) == ("completed", [])


def test_a_failed_branch_ends_the_waits_of_the_others() -> None:
    def body(one: Saga) -> Any:
        slow = task.RetryPolicy(first_retry_interval=timedelta(hours=1), max_number_of_attempts=9)
        yield from one.parallel([
            Step("fails", "fails"),
            Step("sleeps", "sleeps", retry=slow, compensation="undo-sleeps"),
            Step("asks", Command("services", "ask", reply_to="replies"), compensation="undo-asks"),
        ])  # fmt: skip

    done = simulate(body, {"fails": (3.0, OSError("away")), "sleeps": (1.0, OSError("away"))}).run()
    assert done.now == 4.0
    assert done.output["step"] == "fails"
    assert sorted(done.output["compensated"]) == ["asks", "sleeps"]


def test_a_failed_branch_ends_the_wait_for_an_event() -> None:
    def waits(scope: Scope) -> Any:
        yield from scope.wait_for_event("never")

    def body(one: Saga) -> Any:
        yield from one.parallel([Step("fails", "fails"), waits])

    done = simulate(body, {"fails": (3.0, OSError("away"))}).run()
    assert (done.output["step"], done.now) == ("fails", 3.0)
