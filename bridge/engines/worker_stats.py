"""Counts and durations of the work of one worker."""

from __future__ import annotations

import threading
import time

from bridge.core.histogram import LONG_SECONDS, Histogram


class WorkerStats:
    """Work that a worker has done since it was created. Thread-safe.

    activities: durations by name and result, `completed` or `failed`.
    replays: turns that ran an orchestrator again from its history.
    """

    def __init__(self) -> None:
        self.activities: dict[tuple[str, str], Histogram] = {}
        self.replays = 0
        self._lock = threading.Lock()

    def run(self, name: str, result: str, seconds: float, trace_id: str | None = None) -> None:
        """Count an activity. trace_id: its sampled trace; None without one."""
        with self._lock:
            histogram = self.activities.get((name, result))
            if histogram is None:
                histogram = self.activities[name, result] = Histogram(LONG_SECONDS)
            histogram.observe(seconds)
            if trace_id is not None:
                histogram.example(seconds, trace_id, time.time())

    def replay(self) -> None:
        """Count a replay."""
        with self._lock:
            self.replays += 1
