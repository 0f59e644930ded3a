"""Partitions that make no progress though records wait. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Mapping


class StalledPartitionDetector:
    """Looks at every partition again and again, and remembers since when it stands still."""

    def __init__(self) -> None:
        self._seen: dict[Hashable, tuple[object, float]] = {}

    def observe(self, partitions: Mapping[Hashable, tuple[object, bool]], now: float) -> None:
        """By partition: what changes with every record that is read or done, and whether records wait."""
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
        """Those that stand still for longer than so many seconds, and for how long."""
        return {partition: now - since for partition, (_, since) in self._seen.items() if now - since > seconds}
