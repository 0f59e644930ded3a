"""Retry attempts that the engine makes in place of a worker's retry policy, after a rewind.

A worker counts the attempts of a step by its failures in the history. Old failures stay in the history after a rewind,
and the worker would take the first new failure for the last one. The engine therefore stores the pauses of the policy
with the step, and repeats as many attempts before it reports a failure to the worker.

The pauses are stored behind the execution id of their owner, because neither the protocol nor the file has a field for
them.
"""

from __future__ import annotations

_SEPARATOR = "\x1f"


def with_pauses(execution: str, pauses: tuple[int, ...]) -> str:
    """Append the pauses before further attempts, in microseconds, to the execution id."""
    return f"{execution}{_SEPARATOR}{','.join(map(str, pauses))}" if pauses else execution


def pauses_of(value: str) -> tuple[str, tuple[int, ...]]:
    """Split a stored value into execution id and pauses in microseconds."""
    execution, separator, pauses = value.partition(_SEPARATOR)
    return (execution, tuple(int(each) for each in pauses.split(","))) if separator else (value, ())
