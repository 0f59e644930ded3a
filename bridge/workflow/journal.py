"""What a saga has started, in the order it has to be undone against."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bridge.workflow.outcome import StepState
from bridge.workflow.step import Step


@dataclass(slots=True)
class Entry:
    """A step that was started."""

    step: Step
    key: str
    state: StepState = StepState.RUNNING
    result: Any = None


@dataclass(slots=True)
class Group:
    """Steps and groups in the order of their start. parallel: they ran at the same time, and are undone so."""

    parallel: bool = False
    members: list[Entry | Group] = field(default_factory=list)
