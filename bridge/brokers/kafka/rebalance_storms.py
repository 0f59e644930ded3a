"""Detection of a group that rebalances continuously. Pure."""

from __future__ import annotations

from collections import deque

LIMIT = 8
WINDOW = 60.0
"""Seconds within which more than `LIMIT` rebalances are a storm, and not processes that start and stop."""


class RebalanceStormDetector:
    """Counts rebalances within a time window.

    The usual cause of a storm is two processes with one `instance_id`: each continuously expels the other from the
    group.
    """

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=LIMIT + 1)

    def note(self, now: float) -> None:
        """Record an assignment of partitions at monotonic time `now`, in seconds."""
        self._times.append(now)

    def message(self, now: float, instance_id: str | None) -> str | None:
        """Sentence for a person about a rebalance storm; None without one. now: monotonic seconds."""
        if len(self._times) <= LIMIT or now - self._times[0] > WINDOW:
            return None
        what = f"{LIMIT} rebalances within {WINDOW:g} s; "
        if instance_id is None:
            return what + "check for members that crash, or that take longer than `rebalance_timeout`"
        return what + f"check for another process with `instance_id: {instance_id}`; each process needs its own"
