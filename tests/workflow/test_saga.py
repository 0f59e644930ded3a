"""A saga in virtual time: how it ends, and what it tells on its way."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from durabletask import task

from bridge.origin import Origin, wrap
from bridge.workflow import Child, Command, Saga, SagaAborted, Scope, Step, StepFailed
from tests.workflow.simulation import Simulation

RETRY = task.RetryPolicy(first_retry_interval=timedelta(seconds=1), max_number_of_attempts=3)


def saga(body: Callable[[Saga], Any], **options: Any) -> Callable[..., Any]:
    def orchestrator(ctx: task.OrchestrationContext, _: Any) -> Any:
        one = Saga(ctx, "order", **options)
        return (yield from one.run(body(one)))

    return orchestrator


def simulate(body: Callable[[Saga], Any], answers: dict[str, Any] | None = None, **options: Any) -> Simulation:
    """answers: by activity, (seconds, result or exception), or a list of them of which the last repeats."""
    script = {name: list(value) if isinstance(value, list) else [value] for name, value in (answers or {}).items()}

    def answer(name: str, _: Any) -> tuple[float, Any]:
        waiting = script.get(name, [(1.0, name)])
        return waiting.pop(0) if len(waiting) > 1 else waiting[0]

    return Simulation(saga(body, **options), answer)


def names(simulation: Simulation) -> list[str]:
    return [one.name for one in simulation.scheduled]


def two_steps(one: Saga) -> Any:
    first = yield from one.step(Step("stock", "reserve", {"sku": "tea"}, compensation="release"))
    second = yield from one.step(Step("payment", "charge", first, compensation="refund", retry=RETRY))
    return [first, second]


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


def test_a_saga_drops_repeats_of_a_message() -> None:
    def body(one: Saga) -> Any:
        first = yield from one.wait_for_event("paid", timedelta(seconds=9))
        second = yield from one.wait_for_event("paid", timedelta(seconds=9))
        return [first, second]

    done = simulate(body)
    for at, number in ((1.0, 1), (2.0, 1), (3.0, 2)):
        done.event(at, "paid", wrap(number, Origin(f"m-{number}", "paid")))
    assert done.run().output["result"] == [1, 2]


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
    told = done.output
    assert (told["status"], told["reason"], told["result"], done.now) == outcome


def test_a_failed_branch_ends_the_wait_for_an_event() -> None:
    def waits(scope: Scope) -> Any:
        yield from scope.wait_for_event("never")

    def body(one: Saga) -> Any:
        yield from one.parallel([Step("fails", "fails"), waits])

    done = simulate(body, {"fails": (3.0, OSError("away"))}).run()
    assert (done.output["step"], done.now) == ("fails", 3.0)


def test_a_command_is_one_message_however_often_it_is_published() -> None:
    def body(one: Saga) -> Any:
        ask = Command("services", "stock.reserve", reply_to="replies", subject="tea", headers={"x": "y"})
        undo = Command("services", "stock.release")
        answer = yield from one.step(Step("stock", ask, {"sku": "tea"}, compensation=undo, retry=RETRY))
        raise SagaAborted("enough", answer["id"])

    done = simulate(body, {"bridge.publish": [(1.0, OSError("away")), (1.0, "id")]})
    while len(done.scheduled) < 2:
        done.turn()
    first, second = (one.input for one in done.scheduled)
    assert first == second
    assert (first["type"], first["subject"], first["data"]) == ("stock.reserve", "tea", {"sku": "tea"})
    headers = first["headers"]
    assert headers["reply-to"] == "replies"
    assert headers["x"] == "y"
    assert headers["correlation-id"][36:] == "@simulated"
    done.event(10.0, f"reply:{headers['correlation-id']}", {"id": "r-1"})
    done.run()
    undo = done.scheduled[-1].input
    assert done.output["detail"] == "r-1"
    assert undo["type"] == "stock.release"
    assert undo["headers"] == {"step-key": headers["step-key"]}
    assert undo["data"] == {"key": headers["step-key"], "input": {"sku": "tea"}, "result": {"id": "r-1"}, "known": True}


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
