"""Saga in virtual time: outcomes and reported status."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from durabletask import task

from bridge.core.origin import MessageOrigin, wrap_payload
from bridge.workflow import Child, Saga, SagaAborted, Step, StepFailed
from tests.workflow.sagas import RETRY, names, simulate, two_steps
from tests.workflow.simulation import Simulation


def test_a_completed_saga_undoes_nothing() -> None:
    done = simulate(two_steps).run()
    assert names(done) == ["reserve", "charge"]
    assert done.output == {
        "status": "completed", "result": ["reserve", "charge"], "reason": None, "step": None, "detail": "",
        "completed": ["stock", "payment"], "compensated": [], "failed_compensations": [],
    }  # fmt: skip


def test_the_status_tells_the_progress() -> None:
    done = simulate(two_steps, {"charge": (1.0, OSError("away"))}).run()
    shown = [(one["status"], one["steps"]) for one in done.statuses]
    assert shown[0] == ("running", {"stock": "running"})
    assert shown[1] == ("running", {"stock": "completed", "payment": "running"})
    assert ("compensating", {"stock": "completed", "payment": "compensating"}) in shown
    assert shown[-1] == ("compensated", {"stock": "compensated", "payment": "compensated"})
    assert (done.statuses[-1]["reason"], done.statuses[-1]["step"]) == ("failed", "payment")


def test_a_compensation_gets_key_input_and_result() -> None:
    done = simulate(two_steps, {"reserve": (1.0, {"id": 7}), "charge": (1.0, OSError("away"))}).run()
    by_name = {one.name: one.input for one in done.scheduled}
    assert by_name["release"] == {
        "key": by_name["reserve"]["key"], "input": {"sku": "tea"}, "result": {"id": 7}, "known": True,
    }  # fmt: skip
    assert by_name["refund"] == {
        "key": by_name["charge"]["key"], "input": {"id": 7}, "result": None, "known": False,
    }  # fmt: skip


def test_plain_input_for_activities_that_know_nothing_of_sagas() -> None:
    def body(one: Saga) -> Any:
        yield from one.step(Step("stock", "reserve", "tea", compensation="release", keyed=False))
        raise SagaAborted("changed_mind", "sorry")

    done = simulate(body).run()
    assert [one.input for one in done.scheduled] == ["tea", "tea"]
    assert (done.output["reason"], done.output["detail"], done.output["step"]) == ("changed_mind", "sorry", None)


def test_attempts_are_spaced_by_the_policy() -> None:
    policy = task.RetryPolicy(
        first_retry_interval=timedelta(seconds=1), max_number_of_attempts=5, backoff_coefficient=3.0,
        max_retry_interval=timedelta(seconds=5),
    )  # fmt: skip

    def body(one: Saga) -> Any:
        yield from one.step(Step("stock", "reserve", retry=policy))

    done = simulate(body, {"reserve": (0.0, OSError("away"))}).run()
    assert [one.at for one in done.scheduled] == [0.0, 1.0, 4.0, 9.0, 14.0]
    assert done.output["status"] == "compensated"
    assert done.output["detail"] == "OSError: away"


def test_after_a_timeout_nothing_is_tried_again_and_the_outcome_is_unknown() -> None:
    def body(one: Saga) -> Any:
        step = Step("stock", "reserve", compensation="release", retry=RETRY, timeout=timedelta(seconds=5))
        yield from one.step(step)

    # The only attempt fails long after the saga has given up: no further attempt may follow the compensation.
    done = simulate(body, {"reserve": (7.0, OSError("late")), "release": (60.0, None)}).run()
    assert [(one.name, one.at) for one in done.scheduled] == [("reserve", 0.0), ("release", 5.0)]
    assert (done.output["reason"], done.output["step"]) == ("timeout", "stock")


def test_the_timeout_covers_all_attempts() -> None:
    def body(one: Saga) -> Any:
        yield from one.step(Step("stock", "reserve", retry=RETRY, timeout=timedelta(seconds=1.5)))

    done = simulate(body, {"reserve": (1.0, OSError("away"))}).run()
    assert (names(done), done.output["reason"], done.now) == (["reserve"], "timeout", 1.5)


def test_a_refusal_is_neither_repeated_nor_undone() -> None:
    def body(one: Saga) -> Any:
        yield from one.step(Step("stock", "reserve", compensation="release"))
        step = Step("payment", "charge", compensation="refund", retry=RETRY, refusals=(PermissionError,))
        yield from one.step(step)

    done = simulate(body, {"charge": (1.0, PermissionError("limit"))}).run()
    assert names(done) == ["reserve", "charge", "release"]
    assert (done.output["reason"], done.output["step"]) == ("refused", "payment")


def test_compensation_goes_on_when_one_fails_for_good() -> None:
    def body(one: Saga) -> Any:
        for name in ("a", "b", "c"):
            yield from one.step(Step(name, f"do-{name}", compensation=f"undo-{name}", compensation_retry=RETRY))
        raise SagaAborted("enough")

    done = simulate(body, {"undo-b": (0.0, OSError("gone"))}).run()
    assert names(done)[3:] == ["undo-c", "undo-b", "undo-b", "undo-b", "undo-a"]
    assert done.output["status"] == "compensation_failed"
    assert done.output["failed_compensations"] == [{"step": "b", "error": "failed: OSError: gone"}]
    assert done.statuses[-1]["failed_compensations"] == done.output["failed_compensations"]


def test_a_compensation_that_never_ends_is_given_up() -> None:
    def body(one: Saga) -> Any:
        step = Step("a", "do", compensation="undo", compensation_timeout=timedelta(seconds=9))
        yield from one.step(step)
        raise SagaAborted("enough")

    done = simulate(body, {"undo": (1e9, None)}).run()
    assert done.output["failed_compensations"] == [{"step": "a", "error": "timeout"}]


def test_a_saga_drops_repeats_of_a_message() -> None:
    def body(one: Saga) -> Any:
        first = yield from one.wait_for_event("paid", timedelta(seconds=9))
        second = yield from one.wait_for_event("paid", timedelta(seconds=9))
        return [first, second]

    done = simulate(body)
    for at, number in ((1.0, 1), (2.0, 1), (3.0, 2)):
        done.event(at, "paid", wrap_payload(number, MessageOrigin(f"m-{number}", "paid")))
    assert done.run().output["result"] == [1, 2]


def test_behind_the_point_of_no_return_it_rolls_forward() -> None:
    def body(one: Saga) -> Any:
        yield from one.step(Step("stock", "reserve", compensation="release"))
        one.point_of_no_return()
        yield from one.step(Step("parcel", "ship", retry=RETRY, timeout=timedelta(seconds=100)))

    away = (0.0, OSError("away"))
    done = simulate(body, {"ship": [*[away] * 7, (1000.0, "late"), (1.0, "sent")]})
    done.event(2.0, "cancel")
    done.run()
    assert (done.output["status"], done.output["completed"]) == ("completed", ["stock", "parcel"])
    assert [one.at for one in done.scheduled if one.name == "ship"] == [1, 2, 3, 63, 64, 65, 125, 126, 285]


def test_a_refusal_behind_the_point_of_no_return_fails_the_orchestration() -> None:
    def body(one: Saga) -> Any:
        yield from one.step(Step("stock", "reserve", compensation="release"))
        one.point_of_no_return()
        yield from one.step(Step("parcel", "ship", refusals=("PermissionError",)))

    done = simulate(body, {"ship": (0.0, PermissionError("embargo"))}).run()
    assert (done.status, names(done)) == ("FAILED", ["reserve", "ship"])
    assert done.statuses[-1]["status"] == "failed"
    assert done.statuses[-1]["step"] == "parcel"


def test_a_body_may_go_on_without_a_step_but_its_effect_does_not_stay() -> None:
    def body(one: Saga) -> Any:
        try:
            yield from one.step(Step("cheap", "cheap", compensation="undo-cheap"))
        except StepFailed:
            yield from one.step(Step("dear", "dear", compensation="undo-dear"))

    done = simulate(body, {"cheap": (1.0, OSError("away"))}).run()
    assert names(done) == ["cheap", "dear", "undo-cheap"]
    assert (done.output["status"], done.output["completed"]) == ("completed", ["dear"])


def test_a_bug_in_the_body_is_undone_and_then_seen() -> None:
    def body(one: Saga) -> Any:
        yield from one.step(Step("stock", "reserve", compensation="release"))
        raise KeyError("typo")

    done = simulate(body).run()
    assert names(done) == ["reserve", "release"]
    assert done.status == "FAILED"
    assert "KeyError" in done.failure
    assert (done.statuses[-1]["status"], done.statuses[-1]["reason"]) == ("compensated", "error")


def test_a_failed_task_of_the_body_itself_is_a_failure() -> None:
    def orchestrator(ctx: task.OrchestrationContext, _: Any) -> Any:
        one = Saga(ctx, "order")

        def body() -> Any:
            yield from one.step(Step("stock", "reserve", compensation="release"))
            yield ctx.call_activity("plain")

        return (yield from one.run(body()))

    done = Simulation(orchestrator, lambda name, _: (1.0, OSError("away") if name == "plain" else name)).run()
    assert (done.output["status"], done.output["reason"]) == ("compensated", "failed")


def test_two_steps_of_one_name_are_refused() -> None:
    def body(one: Saga) -> Any:
        yield from one.step(Step("stock", "reserve"))
        yield from one.step(Step("stock", "reserve"))

    assert "two steps named 'stock'" in simulate(body).run().failure


def test_a_policy_that_reads_the_clock_is_refused() -> None:
    policy = task.RetryPolicy(
        first_retry_interval=timedelta(seconds=1), max_number_of_attempts=3, retry_timeout=timedelta(seconds=9)
    )
    with pytest.raises(ValueError, match="wall clock"):
        Step("stock", "reserve", retry=policy)
    with pytest.raises(ValueError, match="needs a name"):
        Step("", Child("x"))


def test_one_saga_after_another_has_other_keys() -> None:
    def orchestrator(ctx: task.OrchestrationContext, _: Any) -> Any:
        for _number in range(2):
            one = Saga(ctx, "order")
            yield from one.run(two_steps(one))

    done = Simulation(orchestrator, lambda name, _: (0.0, name)).run()
    assert len({one.input["key"] for one in done.scheduled}) == 4


def test_what_is_planned_is_shown_until_it_is_known_not_to_come() -> None:
    done = simulate(two_steps, {"charge": (1.0, OSError("away"))}, plan=("stock", "payment", "parcel")).run()
    assert done.statuses[0]["steps"] == {"stock": "running", "payment": "waiting", "parcel": "waiting"}
    assert done.statuses[-1]["steps"] == {"stock": "compensated", "payment": "compensated"}


def test_a_status_is_shown_whenever_the_body_waits_for_something_of_its_own() -> None:
    def orchestrator(ctx: task.OrchestrationContext, _: Any) -> Any:
        one = Saga(ctx, "order")

        def body() -> Any:
            yield from one.step(Step("stock", "reserve"))
            yield ctx.create_timer(timedelta(seconds=5))

        return (yield from one.run(body()))

    done = Simulation(orchestrator, lambda name, _: (1.0, name)).run()
    assert [one["steps"]["stock"] for one in done.statuses] == ["running", "completed", "completed"]


def test_no_attempt_begins_after_its_time_because_a_crash_held_up_the_turn() -> None:
    def body(one: Saga) -> Any:
        yield from one.step(Step("stock", "reserve", compensation="release", retry=RETRY, timeout=timedelta(seconds=4)))

    simulation = simulate(body, {"reserve": (0.5, OSError("away"))})
    simulation.lost_turns = iter([None, None, 9.0])  # the pause after the first attempt is over
    simulation.run()
    assert names(simulation) == ["reserve", "release"]
    assert (simulation.output["status"], simulation.output["reason"]) == ("compensated", "timeout")
    simulation.replay()
