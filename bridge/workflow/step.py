"""Steps of a saga with their actions and compensations, and the calls that run an action within its limits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeAlias, TypeVar

from durabletask import task

from bridge.core.errors import wire_name
from bridge.workflow.converter import DataConverter
from bridge.workflow.outcome import StepFailed
from bridge.workflow.tasks import Steps

T = TypeVar("T")

CANCEL_EVENT = "cancel"
"""External event that asks an orchestration to stop in an orderly way."""

DETAIL_LIMIT = 300
"""Maximum number of characters that are kept of an exception's text."""

_CONVERTER = DataConverter()


@dataclass(frozen=True, slots=True)
class Child:
    """A sub-orchestration as a step's action. It receives the event `cancel` when the saga stops waiting for it."""

    orchestrator: Callable[..., Any] | str
    version: str | None = None


@dataclass(frozen=True, slots=True)
class Command:
    """A message as a step's action. Its data is the step's input.

    target: target to which the message is published.
    type: the event's type.
    reply_to: destination of the receiver's answer. The step waits for the answer, which becomes its result. Without
    it the step is complete when the message is published.
    """

    target: str
    type: str
    reply_to: str | None = None
    subject: str | None = None
    key: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


Action: TypeAlias = "Callable[..., Any] | str | Child | Command | Attempts"
"""Action of a step: an activity (function or registered name), a sub-orchestration, a command, or an Attempts."""


@dataclass(slots=True)
class Step:
    """One step of a saga.

    name: unique in the saga. The saga's id and the name form the step key.
    action: what the step does. Activities and children receive a StepInput; with `keyed=False` the plain `input`.
    compensation: undoes the step. Activities and children receive a CompensationInput (`keyed=False`: the plain
    `input`), commands its fields as data. None if there is nothing to undo.
    retry: number and pace of attempts after a failure; None means one attempt.
    timeout: from the first attempt to the end of the last one. After a timeout the outcome is unknown: the step is
    compensated, although its last attempt may still have its effect later.
    refusals: exceptions (classes or names) that mean "no, and nothing was done". A refused step is neither retried
    nor compensated. After any other failure the outcome is unknown, and the step is compensated.
    compensation_retry, compensation_timeout: the same for the compensation; DEFAULT_COMPENSATION_RETRY if None.
    Raises: ValueError for a retry policy with `retry_timeout`: it reads the wall clock, and a replay could decide
    differently. Use `timeout`.
    """

    name: str
    action: Action
    input: Any = None
    compensation: Action | None = None
    retry: task.RetryPolicy | None = None
    timeout: timedelta | None = None
    refusals: tuple[type[BaseException] | str, ...] = ()
    compensation_retry: task.RetryPolicy | None = None
    compensation_timeout: timedelta | None = None
    keyed: bool = True

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("a step needs a name")
        if not isinstance(self.refusals, tuple):
            raise ValueError(f"step {self.name!r}: refusals is a tuple of exceptions or their names, like (SoldOut,)")
        if self.retry is not None:
            _check(self.retry, self.name)
        if self.compensation_retry is not None:
            _check(self.compensation_retry, self.name)


def _check(policy: task.RetryPolicy, step: str) -> None:
    if policy.retry_timeout is not None:
        raise ValueError(
            f"step {step!r}: retry_timeout reads the wall clock, which a replay does not repeat; "
            "give the step a timeout instead"
        )


@dataclass(frozen=True, slots=True)
class StepInput:
    """Input of a step's activity.

    key: identical for every attempt, every replay and the compensation, and unique to the step. Store it with the
    effect to recognize a repeated call.
    input: the step's input as JSON. Annotate the activity with a dataclass of your own that has these two fields to
    receive the input in the type you name there.
    """

    key: str
    input: Any = None

    def input_as(self, type_: type[T]) -> T:
        """Convert the input to a dataclass, a pydantic model or a named tuple."""
        value: T = _CONVERTER.coerce(self.input, type_)
        return value


@dataclass(frozen=True, slots=True)
class CompensationInput:
    """Input of a compensation's activity: the step's key and input, and its known outcome.

    known: False if it is unknown whether the step had an effect or will still have one; `result` is then None. The
    compensation must then leave a tombstone under the key, which makes a step that arrives late do nothing.
    result: return value of the step.
    """

    key: str
    input: Any = None
    result: Any = None
    known: bool = True

    def input_as(self, type_: type[T]) -> T:
        """Convert the step's input to a dataclass, a pydantic model or a named tuple."""
        value: T = _CONVERTER.coerce(self.input, type_)
        return value


@dataclass(slots=True)
class StepCall:
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
    def attempts(self, ctx: task.OrchestrationContext, call: StepCall) -> Attempt:
        """Create the function that makes the attempts of one call."""


def describe(error: task.TaskFailedError | AttemptFailed) -> str:
    """Type and text of the failure of an activity or child."""
    if isinstance(error, AttemptFailed):
        return error.detail
    kind = error.details.error_type.rpartition(".")[2]
    return f"{kind}: {error.details.message}"[:DETAIL_LIMIT]


def first_of(work: task.Task[Any], call: StepCall, timer: task.Task[Any] | None) -> Steps:
    """Wait for a task and return its result. Raises: StepFailed if the timer fires first; TaskFailedError."""
    if timer is None:
        return (yield work)
    yield task.when_any([work, timer])
    if work.is_complete:
        return work.get_result()
    raise StepFailed(call.name, "timeout")


def answer(ctx: task.OrchestrationContext, event: str, call: StepCall, timer: task.Task[Any] | None) -> Steps:
    """Wait for the event that carries an answer and return its data. Raises: StepFailed if the call ends before."""
    waited = ctx.wait_for_external_event(event)
    yield task.when_any([waited, *([] if timer is None else [timer]), *call.interrupts])
    if waited.is_complete:
        return waited.get_result()
    waited.cancel()
    raise call.given_up(timer)
