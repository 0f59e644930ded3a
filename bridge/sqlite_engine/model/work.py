"""Work of an instance that waits for a worker or for a time: activities, timers, delayed starts and delayed signals.

After a rewind the engine makes retry attempts in place of a worker's retry policy. A worker counts the attempts of a
step by its failures in the history. Old failures stay in the history after a rewind, and the worker would take the
first new failure for the last one. The engine therefore stores the pauses of the policy with the step, and repeats as
many attempts before it reports a failure to the worker. The pauses are stored behind the execution id of their owner,
because neither the protocol nor the file has a field for them.
"""

from __future__ import annotations

from dataclasses import dataclass

from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.sqlite_engine.model.values import due, micros

_SEPARATOR = "\x1f"


@dataclass(slots=True, eq=False)
class Task:
    """Activity without a result. `request` is None while it is only on disk."""

    seq: int
    key: int
    execution: str
    task_id: int
    name: str
    version: str | None
    request: pb.ActivityRequest | None
    pauses: tuple[int, ...] = ()
    """Pauses before further attempts that the engine makes, in microseconds."""

    def drop_request(self) -> None:
        """Keep the request on disk only."""
        self.request = None

    def split_execution(self) -> None:
        """Split `execution` from its stored form, into execution and pauses. Raises: ValueError."""
        self.execution, self.pauses = pauses_of(self.execution)


@dataclass(slots=True)
class Timer:
    """Timer, delayed start or delayed signal. `kind` is one of the constants below."""

    seq: int
    fire_at: int
    kind: int
    key: int | None = None
    entity: str | None = None
    event: pb.HistoryEvent | None = None
    stored: bytes | None = None
    """Event in its stored form."""


TIMER_FIRES = 0
START_IS_DUE = 1
SIGNAL_IS_DUE = 2


def with_pauses(execution: str, pauses: tuple[int, ...]) -> str:
    """Append the pauses before further attempts, in microseconds, to the execution id."""
    return f"{execution}{_SEPARATOR}{','.join(map(str, pauses))}" if pauses else execution


def pauses_of(value: str) -> tuple[str, tuple[int, ...]]:
    """Split a stored value into execution id and pauses in microseconds."""
    execution, separator, pauses = value.partition(_SEPARATOR)
    return (execution, tuple(int(each) for each in pauses.split(","))) if separator else (value, ())


def due_at(now: int, fire_at: int, wanted: int, made: int) -> int:
    """Time at which a timer fires, in microseconds.

    A timer whose creation time lies in the future, because the clock was set back, runs for its full length from `now`.

    fire_at: its stored due time.
    wanted: time for which it was requested.
    made: time at which it was created.
    """
    return wanted if made <= now else min(fire_at, now + max(0, wanted - made))


def origin_of(
    timer: Timer, event: pb.HistoryEvent | None, created_at: int | None, start_at: int | None
) -> tuple[int, int] | None:
    """Requested time and creation time of a stored timer, in microseconds; None where they were not stored.

    event: the timer's own event.
    created_at, start_at: times of its instance.
    """
    if timer.kind == START_IS_DUE:
        return None if created_at is None or start_at is None else (start_at, created_at)
    if event is None:
        return None
    made = micros(event.timestamp)
    if timer.kind == TIMER_FIRES:
        wanted = due(event.timerFired.fireAt)
        # Older files store the same time in both places.
        return None if made == wanted else (wanted, made)
    signal = event.entityOperationSignaled
    return (due(signal.scheduledTime), made) if signal.HasField("scheduledTime") else None
