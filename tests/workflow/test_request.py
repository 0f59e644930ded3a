"""Request by message, and its reply."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from durabletask import task

from bridge.workflow import RequestTimedOut, request
from tests.workflow.simulation import Simulation

LIMIT = timedelta(seconds=10)


def asks(ctx: task.OrchestrationContext, timeout: float | None) -> Any:
    limit = None if timeout is None else timedelta(seconds=timeout)
    try:
        answer = yield from request(
            ctx, "prices", {"sku": "tea"}, type="price.asked", reply_to="answers", timeout=limit
        )
    except RequestTimedOut as error:
        return f"{error.target} is silent"
    return answer


def simulate(timeout: float | None, answered: float | None) -> Simulation:
    def answers(name: str, event: Any) -> tuple[float, Any]:
        assert name == "bridge.publish"
        assert event["headers"]["reply-to"] == "answers"
        if answered is not None:
            simulation.event(answered, f"reply:{event['headers']['correlation-id']}", {"price": 3})
        return 1.0, event["id"]

    simulation = Simulation(asks, answers, timeout)
    return simulation.run()


def test_the_answer_is_the_result() -> None:
    assert simulate(10.0, 4.0).output == {"price": 3}
    assert simulate(None, 4000.0).output == {"price": 3}


def test_an_answer_may_come_before_the_publish_is_confirmed() -> None:
    assert simulate(10.0, 0.5).output == {"price": 3}


def test_no_answer_in_time() -> None:
    for answered in (None, 10.5):
        done = simulate(10.0, answered)
        assert (done.output, done.now) == ("prices is silent", 10.0)


def test_requests_do_not_take_each_others_answers() -> None:
    def orchestrator(ctx: task.OrchestrationContext, _: Any) -> Any:
        answers = []
        for number in range(2):
            try:
                answers.append((yield from request(ctx, "p", number, type="t", reply_to="r", timeout=LIMIT)))
            except RequestTimedOut:
                answers.append(None)
        return answers

    def publish(_: str, event: Any) -> tuple[float, Any]:
        # The first reply comes late, during the wait for the second.
        at = simulation.now + (15.0 if event["data"] == 0 else 7.0)
        simulation.event(at, f"reply:{event['headers']['correlation-id']}", event["data"])
        return 0.0, event["id"]

    simulation = Simulation(orchestrator, publish)
    assert simulation.run().output == [None, 1]
