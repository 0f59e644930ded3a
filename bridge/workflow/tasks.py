"""Tasks inside one orchestrator: concurrent generators, and notification of a task's completion."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeAlias

from durabletask import task

Steps: TypeAlias = Generator[task.Task[Any], Any, Any]
"""Part of an orchestrator: yields tasks and returns any value. Run it with `yield from`."""


def gather(branches: Sequence[Steps], halt: task.CompletableTask[None] | None = None) -> Steps:
    """Run branches concurrently and return their results in the given order. Without branches the result is empty.

    Every branch runs to its end, even if another fails. Then the first failure is raised.
    halt: completed at the first failure, for branches that can end early.
    """
    results: list[Any] = [None] * len(branches)
    waiting: dict[int, task.Task[Any]] = {}
    failure: Exception | None = None
    ready: list[int] = list(range(len(branches)))
    while ready or waiting:
        if not ready:
            yield task.when_any(list(waiting.values()))
            ready = [position for position, awaited in waiting.items() if awaited.is_complete]
        for position in ready:
            awaited = waiting.pop(position, None)
            try:
                if awaited is not None and awaited.is_failed:
                    waiting[position] = branches[position].throw(awaited.get_exception())
                else:
                    value = None if awaited is None else awaited.get_result()
                    waiting[position] = branches[position].send(value)
            except StopIteration as done:
                results[position] = done.value
            except Exception as error:
                failure = failure or error
                if halt is not None and not halt.is_complete:
                    halt.complete(None)
        ready = [position for position, awaited in waiting.items() if awaited.is_complete]
    if failure is not None:
        raise failure
    return results


class OnComplete(task.CompositeTask[None]):
    """Call of a function as soon as a task completes, while the orchestrator waits for another task.

    Never completes itself.
    """

    def __init__(self, awaited: task.Task[Any], on_complete: Callable[[], None]) -> None:
        self._on_complete = on_complete
        super().__init__([awaited])

    def on_child_completed(self, task: task.Task[Any]) -> None:
        self._on_complete()
