"""Outcomes and states of sagas and of their steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from bridge.core.errors import wire_name


class StepState(StrEnum):
    """State of a step, shown in the custom status."""

    WAITING = "waiting"
    """Planned and not started."""
    RUNNING = "running"
    COMPLETED = "completed"
    REFUSED = "refused"
    UNKNOWN = "unknown"
    """Failed or timed out. The step may have had an effect."""
    COMPENSATING = "compensating"
    COMPENSATED = "compensated"
    COMPENSATION_FAILED = "compensation_failed"


class SagaStatus(StrEnum):
    """Status of a saga. The last four are final."""

    RUNNING = "running"
    CANCELLING = "cancelling"
    """The saga has received `cancel` and waits for running steps before it compensates."""
    COMPENSATING = "compensating"
    COMPLETED = "completed"
    COMPENSATED = "compensated"
    COMPENSATION_FAILED = "compensation_failed"
    FAILED = "failed"
    """A step failed behind the point of no return. Nothing was undone and the orchestration fails."""


@dataclass(frozen=True, slots=True)
class FailedCompensation:
    """A step that could not be undone, with the failure of its compensation."""

    step: str
    error: str


@dataclass(frozen=True, slots=True)
class SagaOutcome:
    """Outcome of a saga.

    status: a SagaStatus.
    result: return value of the body.
    reason: a stable word: `failed`, `timeout`, `refused`, `cancelled`, `expression`, or the word of SagaAborted.
    step: name of the step that failed.
    detail: for people.
    completed, compensated: names of steps, in the order of completion or compensation.
    """

    status: str
    result: Any = None
    reason: str | None = None
    step: str | None = None
    detail: str = ""
    completed: list[str] = field(default_factory=list)
    compensated: list[str] = field(default_factory=list)
    failed_compensations: list[FailedCompensation] = field(default_factory=list)


@wire_name("bridge.workflow.outcome.SagaAborted")
class SagaAborted(Exception):
    """Raise this in a saga's body to abort the saga for a business reason.

    reason: a stable word.
    detail: for people.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


@wire_name("bridge.workflow.outcome.StepFailed")
class StepFailed(SagaAborted):
    """Raised when a step failed.

    reason: `failed`, `timeout`, `refused` or `cancelled`; `expression` if its command could not be built.
    """

    def __init__(self, step: str | None, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.step = step
