"""Steps that a saga has started. Compensation runs against this order."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bridge.workflow.outcome import StepState
from bridge.workflow.step import Step


@dataclass(slots=True)
class Entry:
    """A started step."""

    step: Step
    key: str
    state: StepState = StepState.RUNNING
    result: Any = None


@dataclass(slots=True)
class Group:
    """Steps and groups in the order of their start.

    parallel: the members ran concurrently, and are undone concurrently.
    """

    parallel: bool = False
    members: list[Entry | Group] = field(default_factory=list)
