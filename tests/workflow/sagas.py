"""Sagas in virtual time: creation, and answers of activities."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from durabletask import task

from bridge.workflow import Saga, Step
from tests.workflow.simulation import Simulation

RETRY = task.RetryPolicy(first_retry_interval=timedelta(seconds=1), max_number_of_attempts=3)


def saga(body: Callable[[Saga], Any], **options: Any) -> Callable[..., Any]:
    def orchestrator(ctx: task.OrchestrationContext, _: Any) -> Any:
        one = Saga(ctx, "order", **options)
        return (yield from one.run(body(one)))

    return orchestrator


def simulate(body: Callable[[Saga], Any], answers: dict[str, Any] | None = None, **options: Any) -> Simulation:
    """Simulate a saga.

    answers: by activity, (seconds, result or exception), or a list of them, whose last entry repeats.
    """
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
