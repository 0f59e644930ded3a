"""Hearing of an event while the orchestrator waits for something else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from durabletask import task


class OnComplete(task.CompositeTask[None]):
    """Tells of a task's end at once, while the orchestrator waits for another one. It never ends itself."""

    def __init__(self, awaited: task.Task[Any], tell: Callable[[], None]) -> None:
        self._tell = tell
        super().__init__([awaited])

    def on_child_completed(self, task: task.Task[Any]) -> None:
        self._tell()
