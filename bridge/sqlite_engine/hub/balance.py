"""Balance of activities between workers: an idle one takes over what a busy one holds and has not begun.

Work is handed out ahead, so that no worker waits for a commit. Slow activities would therefore wait behind others in
one process while the next process is idle.

Everything runs in the writer's thread.
"""

from __future__ import annotations

from collections.abc import Sequence

from bridge.sqlite_engine.hub.leases import ACTIVITY, WorkerStream

IDLE_SECONDS = 0.02
"""Seconds without work after which a worker counts as idle. With short activities, a worker often has none for less."""


class Balance:
    """Idle workers, and the requests for the activities that others hold."""

    def __init__(self) -> None:
        self._idle: dict[WorkerStream, float] = {}
        """Idle streams, and the times by the monotonic clock since when they have no work."""
        self.due: float | None = None
        """Time by the monotonic clock at which a worker counts as idle; None while none has no work, or all others
        have nothing to give."""

    def check(self, streams: Sequence[WorkerStream], now: float) -> None:
        """Ask the busiest workers to return activities that idle ones accept. Call it when no activity waits."""
        self.due = None
        self._idle = {each: self._idle.get(each, now) for each in streams if not each.leases}
        for idle, since in self._idle.items():
            busy = [
                each
                for each in streams
                if leased_activities(each) > 1 and each.filters[ACTIVITY] == idle.filters[ACTIVITY]
            ]
            if not busy:
                continue
            if now < since + IDLE_SECONDS:
                self.due = since + IDLE_SECONDS if self.due is None else min(self.due, since + IDLE_SECONDS)
            elif any(each.recall() for each in sorted(busy, key=leased_activities, reverse=True)):
                return

    def clear(self) -> None:
        """Forget the idle workers."""
        self._idle.clear()
        self.due = None


def leased_activities(stream: WorkerStream) -> int:
    """Number of activities that the stream holds."""
    return stream.credits[ACTIVITY] - stream.free[ACTIVITY]
