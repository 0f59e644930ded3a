"""A group that does not come to rest. Pure."""

from __future__ import annotations

from collections import deque

LIMIT = 8
WINDOW = 60.0
"""More hand-overs than `LIMIT` within so many seconds are no group of processes that come and go."""


class RebalanceStormDetector:
    """Most often two processes have one `instance_id`: each of them puts the other out of the group, for ever."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=LIMIT + 1)

    def note(self, now: float) -> None:
        """Partitions were handed to us at monotonic time `now`."""
        self._times.append(now)

    def message(self, now: float, instance_id: str | None) -> str | None:
        """A sentence for a person, None while the group is at rest."""
        if len(self._times) <= LIMIT or now - self._times[0] > WINDOW:
            return None
        what = f"the group changed hands more than {LIMIT} times within {WINDOW:g} s; "
        if instance_id is None:
            return what + "do its members crash, or take longer than `rebalance_timeout`?"
        return what + f"is another process running with `instance_id: {instance_id}`? each needs its own"
