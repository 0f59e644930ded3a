"""Sagas that are cancelled, or wait for an event."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from durabletask import task

from bridge.workflow import Command, Saga, Step
from tests.workflow.sagas import names, simulate, two_steps
from tests.workflow.simulation import Simulation


def test_cancel_before_the_first_step() -> None:
    done = simulate(two_steps)
    done.together = 0.1
    done.event(0.0, "cancel", {"reason": "typo"})
    done.run()
    # The first step was started in the turn that read the start; the cancel came with it, and was read after it.
    assert names(done) == ["reserve", "release"]
    assert (done.output["reason"], done.output["detail"]) == ("cancelled", "typo")


def test_a_saga_that_was_cancelled_earlier_starts_nothing() -> None:
    def orchestrator(ctx: task.OrchestrationContext, _: Any) -> Any:
        yield ctx.create_timer(timedelta(seconds=5))
        one = Saga(ctx, "order")
        return (yield from one.run(two_steps(one)))

    done = Simulation(orchestrator, lambda name, _: (1.0, name))
    done.event(1.0, "cancel")
    done.run()
    assert (names(done), done.output["reason"]) == ([], "cancelled")


def test_cancel_lets_the_running_activity_end_and_undoes_it() -> None:
    done = simulate(two_steps, {"reserve": (10.0, "r")})
    done.event(4.0, "cancel", "please")
    done.run()
    assert [(one.name, one.at) for one in done.scheduled] == [("reserve", 0.0), ("release", 10.0)]
    assert (done.output["detail"], done.output["completed"]) == ("please", ["stock"])


def test_cancel_ends_the_wait_for_an_answer_and_for_the_next_attempt() -> None:
    def waits(one: Saga) -> Any:
        yield from one.step(Step("a", Command("services", "ask", reply_to="replies"), compensation="undo"))

    def sleeps(one: Saga) -> Any:
        slow = task.RetryPolicy(first_retry_interval=timedelta(hours=1), max_number_of_attempts=9)
        yield from one.step(Step("a", "fails", retry=slow, compensation="undo"))

    for body in (waits, sleeps):
        done = simulate(body, {"fails": (1.0, OSError("away"))})
        done.event(4.0, "cancel", {"reason": "typo"})
        done.run()
        assert (done.now, done.output["reason"], done.output["compensated"]) == (5.0, "cancelled", ["a"])
        assert done.output["detail"] == "typo"


@pytest.mark.parametrize(
    ("events", "outcome"),
    [
        ([(3.0, "paid", "cash")], ("completed", None, "cash", 4.0)),
        ([(0.5, "paid", "early")], ("completed", None, "early", 2.0)),
        ([], ("compensated", "timeout", None, 11.0)),
        ([(3.0, "cancel", "typo"), (4.0, "paid", "late")], ("compensated", "cancelled", None, 4.0)),
    ],
    ids=["event", "early", "timeout", "cancel"],
)
def test_a_saga_waits_for_an_event(events: list[tuple[float, str, Any]], outcome: tuple[Any, ...]) -> None:
    def body(one: Saga) -> Any:
        yield from one.step(Step("stock", "reserve", compensation="release"))
        data = yield from one.wait_for_event("paid", timedelta(seconds=9))
        yield from one.step(Step("parcel", "ship"))
        return data

    done = simulate(body)
    for at, name, data in events:
        done.event(at, name, data)
    done.run()
    received = done.output
    assert (received["status"], received["reason"], received["result"], done.now) == outcome


def test_a_cancel_is_told_in_the_turn_that_hears_it() -> None:
    done = simulate(two_steps, {"reserve": (10.0, "r"), "release": (1.0, None)})
    done.event(4.0, "cancel", "please")
    done.run()
    received = [(one["status"], one["steps"]) for one in done.statuses]
    assert ("cancelling", {"stock": "running"}) in received
    assert [status for status, _ in received] == ["running", "cancelling", "compensating", "compensated"]


def test_a_cancel_behind_the_point_of_no_return_is_not_told() -> None:
    def body(one: Saga) -> Any:
        one.point_of_no_return()
        yield from one.step(Step("parcel", "ship"))

    done = simulate(body, {"ship": (10.0, "sent")})
    done.event(4.0, "cancel")
    done.run()
    assert {one["status"] for one in done.statuses} == {"running", "completed"}


def test_an_activity_that_fails_after_a_cancel_does_not_hide_why_the_saga_stopped() -> None:
    done = simulate(two_steps, {"reserve": (10.0, OSError("away")), "release": (1.0, None)})
    done.event(4.0, "cancel", "please")
    done.run()
    assert (done.output["reason"], done.output["detail"], done.output["step"]) == ("cancelled", "please", "stock")
    assert names(done) == ["reserve", "release"]
