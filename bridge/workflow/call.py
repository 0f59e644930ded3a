"""One action of a saga with its limits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeAlias

from durabletask import task

from bridge.core.errors import wire_name
from bridge.workflow.outcome import StepFailed
from bridge.workflow.parallel import Steps
from bridge.workflow.step import Action

CANCEL_EVENT = "cancel"
"""External event that asks an orchestration to stop in an orderly way."""

DETAIL_LIMIT = 300
"""Maximum number of characters that are kept of an exception's text."""


@dataclass(slots=True)
class Call:
    """An action with its limits.

    payload: input of the activity or child, data of the command.
    child_id: instance id of the child, without the attempt number.
    interrupts: tasks whose completion ends a wait for an answer or for the next attempt, and stops a child in an
    orderly way. A running activity is waited for, because it cannot be stopped.
    """

    name: str
    key: str
    action: Action
    payload: Any
    child_id: str
    retry: task.RetryPolicy | None
    timeout: timedelta | None
    refusals: tuple[type[BaseException] | str, ...]
    interrupts: Sequence[task.Task[Any]]

    @property
    def interrupted(self) -> bool:
        return any(interrupt.is_complete for interrupt in self.interrupts)

    def given_up(self, timer: task.Task[Any] | None) -> StepFailed:
        """Failure of an interrupted or timed-out wait."""
        return StepFailed(self.name, "timeout" if timer is not None and timer.is_complete else "cancelled")


@wire_name("bridge.workflow.call.AttemptFailed")
class AttemptFailed(Exception):
    """Raised when an attempt failed and another one may succeed. detail: the cause, for people."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail[:DETAIL_LIMIT]


Attempt: TypeAlias = Callable[[int, task.Task[Any] | None], Steps]
"""Function that makes attempt number N, until the timer (if any) fires.

Raises: TaskFailedError, AttemptFailed, StepFailed.
"""


class Attempts(ABC):
    """An action that makes its attempts itself."""

    __slots__ = ()

    @abstractmethod
    def attempts(self, ctx: task.OrchestrationContext, call: Call) -> Attempt:
        """Create the function that makes the attempts of one call."""


def describe(error: task.TaskFailedError | AttemptFailed) -> str:
    """Type and text of the failure of an activity or child."""
    if isinstance(error, AttemptFailed):
        return error.detail
    kind = error.details.error_type.rpartition(".")[2]
    return f"{kind}: {error.details.message}"[:DETAIL_LIMIT]


def first_of(work: task.Task[Any], call: Call, timer: task.Task[Any] | None) -> Steps:
    """Wait for a task and return its result. Raises: StepFailed if the timer fires first; TaskFailedError."""
    if timer is None:
        return (yield work)
    yield task.when_any([work, timer])
    if work.is_complete:
        return work.get_result()
    raise StepFailed(call.name, "timeout")


def answer(ctx: task.OrchestrationContext, event: str, call: Call, timer: task.Task[Any] | None) -> Steps:
    """Wait for the event that carries an answer and return its data. Raises: StepFailed if the call ends before."""
    waited = ctx.wait_for_external_event(event)
    yield task.when_any([waited, *([] if timer is None else [timer]), *call.interrupts])
    if waited.is_complete:
        return waited.get_result()
    waited.cancel()
    raise call.given_up(timer)
