"""Several generators at once inside one orchestrator."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, TypeAlias

from durabletask import task

Steps: TypeAlias = Generator[task.Task[Any], Any, Any]
"""Part of an orchestrator: yields tasks, returns anything; run it with `yield from`."""


def gather(branches: Sequence[Steps], halt: task.CompletableTask[None] | None = None) -> Steps:
    """Run the branches at the same time. Returns their results in the order given; no branches give none.

    Every branch runs to its end, even when another fails; then the failure that came first is raised. halt: completed
    at the first failure, so that branches that wait for it can end early.
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
