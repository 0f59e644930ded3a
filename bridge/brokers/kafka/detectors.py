"""Detectors of partitions without progress although records wait, and of continuous rebalances. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Mapping


class StalledPartitionDetector:
    """Observer of every partition, which stores the time since when a partition has made no progress."""

    def __init__(self) -> None:
        self._seen: dict[Hashable, tuple[object, float]] = {}

    def observe(self, partitions: Mapping[Hashable, tuple[object, bool]], now: float) -> None:
        """Record an observation at `now`.

        partitions: by partition, a value that changes with every record read or completed, and whether records wait.
        """
        self._seen = {
            partition: (
                state,
                now
                if not waiting or partition not in self._seen or self._seen[partition][0] != state
                else self._seen[partition][1],
            )
            for partition, (state, waiting) in partitions.items()
        }

    def longer(self, seconds: float, now: float) -> dict[Hashable, float]:
        """Partitions without progress for more than `seconds`, with the duration in seconds."""
        return {partition: now - since for partition, (_, since) in self._seen.items() if now - since > seconds}


LIMIT = 8
WINDOW = 60.0
"""Seconds within which more than `LIMIT` rebalances are a storm, and not processes that start and stop."""


class RebalanceStormDetector:
    """Counter of rebalances within a time window.

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
