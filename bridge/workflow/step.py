"""Steps of a saga, their actions and their compensations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from durabletask import task

from bridge.workflow.converter import DataConverter

if TYPE_CHECKING:
    from bridge.workflow.call import Attempts

T = TypeVar("T")

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
