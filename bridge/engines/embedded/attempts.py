"""Attempts that the engine makes in place of a retry policy.

A worker counts the attempts of a step by its failures in the history. Those stay there after a rewind, so that the
worker would take the first new failure for the last. The engine therefore keeps the pauses of the policy beside the
step and makes as many attempts again before the worker hears of a failure.

The pauses are stored behind the execution id of their owner, since neither the protocol nor the file has a field for
them.
"""

from __future__ import annotations

_SEPARATOR = "\x1f"


def with_pauses(execution: str, pauses: tuple[int, ...]) -> str:
    """The execution id with the pauses before further attempts, microseconds."""
    return f"{execution}{_SEPARATOR}{','.join(map(str, pauses))}" if pauses else execution


def pauses_of(value: str) -> tuple[str, tuple[int, ...]]:
    """(execution id, pauses)."""
    execution, separator, pauses = value.partition(_SEPARATOR)
    return (execution, tuple(int(each) for each in pauses.split(","))) if separator else (value, ())
