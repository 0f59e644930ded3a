"""One action of a saga, from its first attempt to its result or final failure.

The SDK's own retries continue after an orchestrator has stopped waiting for them. A step that timed out could thus
start again after its compensation. This module therefore makes the attempts itself, one by one.

The SDK converts typed results outside the orchestrator. A result that does not fit would end the orchestration where
no saga could see it, and nothing would be undone. Sagas therefore call activities by name and convert the results
themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import timedelta
from functools import lru_cache
from typing import Any

from durabletask import task

from bridge.core.answers import PUBLISH_ACTIVITY, reply_event
from bridge.core.errors import is_final_failure
from bridge.workflow.converter import DataConverter
from bridge.workflow.outcome import StepFailed
from bridge.workflow.publishing import expects_answer, new_correlation_id, new_event, request_headers
from bridge.workflow.sdk_internals import output_type
from bridge.workflow.step import (
    CANCEL_EVENT,
    Attempt,
    AttemptFailed,
    Attempts,
    Child,
    Command,
    StepCall,
    answer,
    describe,
    first_of,
)
from bridge.workflow.tasks import Steps

_CONVERTER = DataConverter()

_LONGEST = timedelta(days=365)
"""Longest pause between two attempts for a policy without `max_retry_interval`."""

STEP_KEY = "step-key"
"""Header of a command that carries the step key."""


def perform(ctx: task.OrchestrationContext, call: StepCall, failed: task.TaskFailedError | None = None) -> Steps:
    """Perform an action and return its result.

    failed: failure of the first attempt, if the caller made it.
    Raises: StepFailed.
    """
    number = 1
    if failed is not None:
        yield from _pause(ctx, call, _next_attempt(call, failed, number), None)
        number += 1
    timer = None if call.timeout is None else ctx.create_timer(call.timeout)
    deadline = None if call.timeout is None else ctx.current_utc_datetime + call.timeout
    attempt = _attempts(ctx, call)
    try:
        while True:
            try:
                return (yield from attempt(number, timer))
            except (task.TaskFailedError, AttemptFailed) as error:
                pause = _next_attempt(call, error, number)
            yield from _pause(ctx, call, pause, timer)
            if deadline is not None and ctx.current_utc_datetime >= deadline:
                # The end of the pause was not processed in time: the timer fires in this same turn
                raise StepFailed(call.name, "timeout")
            number += 1
    finally:
        if timer is not None:
            timer.cancel()


def _next_attempt(call: StepCall, error: task.TaskFailedError | AttemptFailed, number: int) -> timedelta:
    """Pause after attempt `number` has failed. Raises: StepFailed if there is no further attempt."""
    if isinstance(error, task.TaskFailedError) and any(error.details.is_caused_by(one) for one in call.refusals):
        raise StepFailed(call.name, "refused", describe(error)) from error
    if call.interrupted:
        raise StepFailed(call.name, "cancelled", describe(error)) from error
    final = isinstance(error, task.TaskFailedError) and is_final_failure(error.details.error_type)
    if final or call.retry is None or number >= call.retry.max_number_of_attempts:
        raise StepFailed(call.name, "failed", describe(error)) from error
    return delay(call.retry, number)


def delay(policy: task.RetryPolicy, attempt: int) -> timedelta:
    """Pause after an attempt. Attempt numbers start at 1."""
    longest = _LONGEST if policy.max_retry_interval is None else policy.max_retry_interval
    first = policy.first_retry_interval.total_seconds()
    try:
        seconds = first * (policy.backoff_coefficient or 1.0) ** (attempt - 1)
    except OverflowError:
        seconds = math.inf
    return min(longest, timedelta(seconds=min(seconds, longest.total_seconds())))


def _attempts(ctx: task.OrchestrationContext, call: StepCall) -> Attempt:
    action = call.action
    if isinstance(action, Attempts):
        return action.attempts(ctx, call)
    if isinstance(action, Command):
        return _command_attempts(ctx, call, action)
    if isinstance(action, Child):
        child = action
        return lambda number, timer: _child_attempt(ctx, call, child, number, timer)
    activity = action
    return lambda _, timer: _activity_attempt(ctx, call, activity, timer)


def _activity_attempt(
    ctx: task.OrchestrationContext, call: StepCall, activity: Callable[..., Any] | str, timer: task.Task[Any] | None
) -> Steps:
    result = yield from first_of(ctx.call_activity(name_of(activity), input=call.payload), call, timer)
    return fitted(call.name, activity, result)


def _child_attempt(
    ctx: task.OrchestrationContext, call: StepCall, child: Child, number: int, timer: task.Task[Any] | None
) -> Steps:
    child_id = f"{call.child_id}:{number}"
    work: task.Task[Any] = ctx.call_sub_orchestrator(
        child.orchestrator, input=call.payload, instance_id=child_id, version=child.version
    )
    interrupts = list(call.interrupts)
    while True:
        yield task.when_any([work, *([] if timer is None else [timer]), *interrupts])
        if work.is_complete:
            return work.get_result()
        timed_out = timer is not None and timer.is_complete
        ctx.send_event(child_id, CANCEL_EVENT, data={"reason": "timeout" if timed_out else "cancelled"})
        if timed_out:
            raise StepFailed(call.name, "timeout")
        interrupts.clear()


def _command_attempts(ctx: task.OrchestrationContext, call: StepCall, command: Command) -> Attempt:
    # The event and its ids are created once: a repeated attempt publishes the same message again
    headers = {**command.headers, STEP_KEY: call.key}
    correlation_id = new_correlation_id(ctx)
    if command.reply_to is not None:
        headers = request_headers(headers, command.reply_to, correlation_id)
    event = new_event(ctx, command.target, call.payload, command.type, command.subject, command.key, headers)
    if command.reply_to is not None:
        deadline = None if call.timeout is None else ctx.current_utc_datetime + call.timeout
        event = expects_answer(event, correlation_id, deadline)

    def attempt(_: int, timer: task.Task[Any] | None) -> Steps:
        published = yield from first_of(ctx.call_activity(PUBLISH_ACTIVITY, input=event), call, timer)
        if command.reply_to is None:
            return published
        return (yield from answer(ctx, reply_event(correlation_id), call, timer))

    return attempt


def _pause(ctx: task.OrchestrationContext, call: StepCall, length: timedelta, timer: task.Task[Any] | None) -> Steps:
    """Wait until the next attempt. Raises: StepFailed if the time is up or the call is interrupted before."""
    pause = ctx.create_timer(length)
    yield task.when_any([pause, *([] if timer is None else [timer]), *call.interrupts])
    if pause.is_complete:
        return
    pause.cancel()
    raise call.given_up(timer)


# Results


@lru_cache(maxsize=2048)
def name_of(activity: Callable[..., Any] | str) -> str:
    """Name under which an activity is registered."""
    return activity if isinstance(activity, str) else task.get_name(activity)


@lru_cache(maxsize=2048)
def _wanted(activity: Callable[..., Any] | str) -> Any:
    return None if isinstance(activity, str) else output_type(activity, _CONVERTER)


def fitted(step: str, activity: Callable[..., Any] | str, result: Any) -> Any:
    """Convert a result to the type that the activity returns.

    Raises: StepFailed if it does not fit, although the activity has run.
    """
    wanted = _wanted(activity)
    if wanted is None:
        return result
    try:
        return _CONVERTER.coerce(result, wanted)
    except Exception as error:
        raise StepFailed(step, "failed", f"its result does not fit: {type(error).__name__}: {error}"[:300]) from error
