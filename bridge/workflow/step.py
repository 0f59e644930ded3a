"""What a saga is made of: steps, what each does and what undoes it."""

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
    """A sub-orchestration as a step's action. It gets the event `cancel` when the saga stops waiting for it."""

    orchestrator: Callable[..., Any] | str
    version: str | None = None


@dataclass(frozen=True, slots=True)
class Command:
    """A message as a step's action; its data is the step's input.

    target: where it is published. type: the event's type. reply_to: where the receiver answers; the step waits for the
    answer, which is its result. Without it the step is done when the message is published.
    """

    target: str
    type: str
    reply_to: str | None = None
    subject: str | None = None
    key: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


Action: TypeAlias = "Callable[..., Any] | str | Child | Command | Attempts"
"""An activity (function or registered name), a sub-orchestration or a command; or what makes its attempts itself."""


@dataclass(slots=True)
class Step:
    """One step of a saga.

    name: unique in the saga; together with the saga it makes the step key.
    action: what the step does. Activities and children get a StepInput; with `keyed=False` the plain `input`.
    compensation: undoes the step; activities and children get a CompensationInput (`keyed=False`: the plain `input`),
        commands its fields as data. None when there is nothing to undo.
    retry: how often and how fast the action is repeated after a failure; None means one attempt.
    timeout: from the first attempt to the end of the last one. When it is over the outcome is unknown: the step is
        compensated, although its last attempt may still have its effect later.
    refusals: exceptions (classes or names) that say "no, and nothing was done". They are not retried, and the step is
        not compensated. After any other failure the outcome is unknown, so the step is compensated.
    compensation_retry, compensation_timeout: the same for the compensation; DEFAULT_COMPENSATION_RETRY when None.

    Raises: ValueError for a retry policy with `retry_timeout`: it reads the wall clock, so a replay could decide
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
    """What the activity of a step gets.

    key: the same for every attempt and every replay, and for the compensation; no other step has it. Write it down
        with the effect, and a repeat can be told from a first call.
    input: the step's input as JSON. Annotate the activity with a dataclass of your own that has these two fields, and
        the input arrives in the type you name there.
    """

    key: str
    input: Any = None

    def input_as(self, type_: type[T]) -> T:
        """The input as a dataclass, a pydantic model or a named tuple."""
        value: T = _CONVERTER.coerce(self.input, type_)
        return value


@dataclass(frozen=True, slots=True)
class CompensationInput:
    """What the activity of a compensation gets: the step's key and input, and what is known of its outcome.

    known: False when nobody can say whether the step had an effect, or will still have it; `result` is None then. The
        compensation must then leave a tombstone under the key, so that a step that arrives late does nothing.
    result: what the step returned.
    """

    key: str
    input: Any = None
    result: Any = None
    known: bool = True

    def input_as(self, type_: type[T]) -> T:
        """The step's input as a dataclass, a pydantic model or a named tuple."""
        value: T = _CONVERTER.coerce(self.input, type_)
        return value
