"""Due times of timers while the wall clock is set forward and back. Pure."""

from __future__ import annotations

from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.sqlite_engine.model.clock import due, micros
from bridge.sqlite_engine.storage.store import START_IS_DUE, TIMER_FIRES, Timer


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
