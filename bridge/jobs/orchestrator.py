"""Orchestration of one job: it runs one activity again and again, and waits in between when there is nothing to do.

The input is the cursor of the job; the activity returns the next one. After some rounds the orchestration continues as
new: its history stays short, however many items the job has.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from datetime import timedelta
from typing import Any

from durabletask import task

from bridge.core.system_names import JOB, JOB_STEP

CONTROL_EVENT = "control"
"""Event that ends a wait, after an operation of a person."""

ROUNDS = 50
"""Rounds of one history."""

_RETRY = task.RetryPolicy(
    first_retry_interval=timedelta(seconds=1),
    max_number_of_attempts=1000,
    backoff_coefficient=2.0,
    max_retry_interval=timedelta(minutes=1),
)


def job_orchestrator() -> Callable[..., Any]:
    """Create the orchestrator. Its output is the state of the job at its end."""

    def job(ctx: task.OrchestrationContext, cursor: Any) -> Generator[Any, Any, Any]:
        control: task.Task[Any] | None = None
        for _ in range(ROUNDS):
            answer = yield ctx.call_activity(JOB_STEP, input=cursor, retry_policy=_RETRY)
            if answer["end"] is not None:
                return answer["end"]
            cursor = answer["place"]
            if answer["seconds"]:
                if control is None or control.is_complete:
                    control = ctx.wait_for_external_event(CONTROL_EVENT)
                yield task.when_any([control, ctx.create_timer(timedelta(seconds=answer["seconds"]))])
        ctx.continue_as_new(cursor, save_events=True)
        return None

    job.__name__ = JOB
    return job
