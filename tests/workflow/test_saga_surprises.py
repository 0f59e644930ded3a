"""Failures at unexpected points: no step that may have had an effect is forgotten."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from durabletask import task
from pydantic import BaseModel

from bridge.workflow import Child, Saga, Step
from bridge.workflow.attempts import delay
from bridge.workflow.step import Attempts
from tests.workflow.sagas import names, simulate


class Reservation(BaseModel):
    number: int


def reserve(ctx: task.ActivityContext, _: Any) -> Reservation:
    return Reservation(number=1)


@pytest.mark.parametrize("timeout", [None, timedelta(hours=1)])
def test_a_result_that_does_not_fit_is_undone_with_what_was_before(timeout: timedelta | None) -> None:
    def body(one: Saga) -> Any:
        yield from one.step(Step("first", "first", compensation="undo_first"))
        yield from one.step(Step("stock", reserve, timeout=timeout, compensation="undo_reserve"))

    done = simulate(body, {"reserve": (1.0, {"nr": 5})}).run()
    assert names(done) == ["first", "reserve", "undo_reserve", "undo_first"]
    assert (done.output["status"], done.output["step"]) == ("compensated", "stock")
    assert "does not fit" in done.output["detail"]


@pytest.mark.parametrize("timeout", [None, timedelta(hours=1)])
def test_a_result_comes_in_its_type(timeout: timedelta | None) -> None:
    def body(one: Saga) -> Any:
        stock = yield from one.step(Step("stock", reserve, timeout=timeout))
        assert isinstance(stock, Reservation)
        return stock.number

    assert simulate(body, {"reserve": (1.0, {"number": 7})}).run().output["result"] == 7


class Broken(Attempts):
    """User-defined action with a bug after its effect."""

    def attempts(self, ctx: task.OrchestrationContext, call: Any) -> Any:
        def attempt(number: int, timer: Any) -> Any:
            yield ctx.call_activity("effect")
            raise ZeroDivisionError

        return attempt


def test_a_step_that_ends_in_a_bug_is_undone() -> None:
    def body(one: Saga) -> Any:
        yield from one.step(Step("first", "first", compensation="undo_first"))
        yield from one.step(Step("second", Broken(), compensation="undo_second"))

    done = simulate(body).run()
    assert names(done) == ["first", "effect", "undo_second", "undo_first"]
    assert done.status == "FAILED"
    assert done.failure.startswith("builtins.ZeroDivisionError")


def test_pauses_have_an_end_however_many_attempts_there_are() -> None:
    def policy(longest: timedelta | None, first: float = 1.0) -> task.RetryPolicy:
        return task.RetryPolicy(
            first_retry_interval=timedelta(seconds=first), max_number_of_attempts=9999, backoff_coefficient=2.0,
            max_retry_interval=longest,
        )  # fmt: skip

    assert delay(policy(timedelta(seconds=9)), 5000) == timedelta(seconds=9)
    assert delay(policy(None), 5000) == timedelta(days=365)
    assert delay(policy(None), 100) == timedelta(days=365)


def test_refusals_that_are_no_tuple_are_told_at_once() -> None:
    for refusals in ("SoldOut", ValueError):
        with pytest.raises(ValueError, match="step 'stock': refusals is a tuple"):
            Step("stock", "reserve", refusals=refusals)  # type: ignore[arg-type]  # that is the point


def test_a_child_that_fails_for_days_is_still_tried_behind_the_point_of_no_return() -> None:
    def body(one: Saga) -> Any:
        one.point_of_no_return()
        return (yield from one.step(Step("parcel", Child("ship"))))

    rounds = 60
    done = simulate(body, {"ship": [*[(1.0, OSError("away"))] * rounds, (1.0, "shipped")]}).run(max_turns=5000)
    assert done.output["result"] == "shipped"
    ids = [one.instance_id for one in done.scheduled]
    assert len(set(ids)) == rounds + 1
    assert max(map(len, ids)) < min(map(len, ids)) + 5


def test_no_point_of_no_return_inside_a_parallel_group() -> None:
    def body(one: Saga) -> Any:
        def branch(scope: Any) -> Any:
            yield from scope.step(Step("a", "a", compensation="undo_a"))
            one.point_of_no_return()

        yield from one.parallel([branch, Step("b", "b", compensation="undo_b")])

    done = simulate(body).run()
    assert "belongs behind the parallel group" in done.failure
    assert sorted(names(done)) == ["a", "b", "undo_a", "undo_b"]


def test_a_saga_that_fails_behind_the_point_of_no_return_says_so_where_it_was_asked_to() -> None:
    def body(one: Saga) -> Any:
        one.point_of_no_return()
        yield from one.step(Step("parcel", "ship", refusals=("ValueError",)))

    done = simulate(body, {"ship": (1.0, ValueError("no"))}, publish_outcome="results").run()
    (received,) = [one.input for one in done.scheduled if one.name != "ship"]
    assert received["type"] == "order.failed"
    assert received["data"]["step"] == "parcel"
    assert (done.status, done.failure.split(":")[0]) == ("FAILED", "bridge.workflow.outcome.StepFailed")
    away = simulate(body, {"ship": (1.0, ValueError("no"))}, publish_outcome="results")
    away.answers = lambda name, _: (1.0, ValueError("no"))
    assert away.run().failure.split(":")[0] == "bridge.workflow.outcome.StepFailed"
