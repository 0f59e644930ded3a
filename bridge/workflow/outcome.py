"""How a saga, and each of its steps, can end."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from bridge.errors import wire_name


class StepState(StrEnum):
    """Where a step is; shown in the custom status."""

    WAITING = "waiting"
    """Planned and not begun."""
    RUNNING = "running"
    COMPLETED = "completed"
    REFUSED = "refused"
    UNKNOWN = "unknown"
    """It failed or timed out: it may have had an effect."""
    COMPENSATING = "compensating"
    COMPENSATED = "compensated"
    COMPENSATION_FAILED = "compensation_failed"


class SagaStatus(StrEnum):
    """Where a saga is; the last four are final."""

    RUNNING = "running"
    CANCELLING = "cancelling"
    """It has heard `cancel`, and waits for what runs before it compensates."""
    COMPENSATING = "compensating"
    COMPLETED = "completed"
    COMPENSATED = "compensated"
    COMPENSATION_FAILED = "compensation_failed"
    FAILED = "failed"
    """Something failed behind the point of no return; nothing was undone and the orchestration fails."""


@dataclass(frozen=True, slots=True)
class FailedCompensation:
    """A step whose effect stays, and why its compensation gave up."""

    step: str
    error: str


@dataclass(frozen=True, slots=True)
class SagaOutcome:
    """How a saga ended.

    status: a SagaStatus. result: what the body returned. reason: a stable word, `failed`, `timeout`, `refused`,
    `cancelled`, `expression` or the word of SagaAborted. step: the step it failed at. detail: for people.
    completed and compensated: names of steps, in the order it happened.
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
    """Raise it in a saga's body when a business rule says no. reason: a stable word. detail: for people."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


@wire_name("bridge.workflow.outcome.StepFailed")
class StepFailed(SagaAborted):
    """A step did not do its work.

    reason: `failed`, `timeout`, `refused` or `cancelled`; `expression` when its command could not be made.
    """

    def __init__(self, step: str | None, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.step = step
