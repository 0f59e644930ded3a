"""Notification of a task's completion while the orchestrator waits for another task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from durabletask import task


class OnComplete(task.CompositeTask[None]):
    """Calls a function as soon as a task completes, while the orchestrator waits for another task.

    Never completes itself.
    """

    def __init__(self, awaited: task.Task[Any], tell: Callable[[], None]) -> None:
        self._tell = tell
        super().__init__([awaited])

    def on_child_completed(self, task: task.Task[Any]) -> None:
        self._tell()
