"""Partitions that make no progress although records wait. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Mapping


class StalledPartitionDetector:
    """Observes every partition repeatedly, and stores since when it has made no progress."""

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
