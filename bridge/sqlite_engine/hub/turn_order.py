"""Order of turns: begun orchestrations before new ones, and each with the worker that has it in memory.

An orchestration in memory takes its next turn without a replay. Orchestrations that begin while many others still have
steps to run would push these out of memory before their next turn. New orchestrations therefore wait while as many as
fit into memory are in motion: begun, and waiting for their own activities. An orchestration that waits for a message, a
timer or a child is not in motion.

Everything runs in the writer's thread.
"""

from __future__ import annotations

import time
from collections import Counter

from bridge.sqlite_engine.hub.leases import WorkerStream
from bridge.sqlite_engine.hub.ready import Group

STALL_SECONDS = 0.1
"""Seconds without a turn after which some new orchestrations begin anyway. The steps of the others are slow then, and
waiting gains nothing."""

SHARE = 20
"""Divisor of the limit: so many orchestrations begin after such a pause."""


class Motion:
    """Orchestrations in motion, and the limit up to which new ones begin."""

    def __init__(self) -> None:
        self.limit: int | None = None
        """Number of orchestrations that the workers keep in memory; None: new ones begin at once."""
        self.limit_bytes = 0
        """Bytes of the histories of these orchestrations."""
        self._sizes: dict[int, tuple[Group, int]] = {}
        """Group and bytes of the orchestrations in motion, by key."""
        self._groups: Counter[Group] = Counter()
        self._bytes = 0
        self._turned = 0.0
        self._extra = 0
        self.holds = False
        """True when a new orchestration had to wait in the last round."""

    def __len__(self) -> int:
        return len(self._sizes)

    def set_limits(self, streams: list[WorkerStream]) -> None:
        """Set the limits to what all workers together keep."""
        kept = [stream.sessions for stream in streams if stream.sessions is not None]
        self.limit = sum(most for most, _ in kept) or None
        self.limit_bytes = sum(size for _, size in kept)

    def begin_round(self) -> None:
        """Begin a round in which new orchestrations may get their first turns."""
        self.holds = False

    def begin(self, key: int, group: Group) -> None:
        """Record that an orchestration was given its first turn."""
        if self.limit is not None:
            self._extra = max(0, self._extra - 1)
            self._turned = time.monotonic()
            self._set(key, group, 0)

    def turned(self, key: int, group: Group, size: int, *, moves: bool) -> None:
        """Record the end of a turn. moves: it has called activities. size: bytes of the history."""
        if self.limit is None:
            return
        self._turned = time.monotonic()
        self._extra = 0
        if moves:
            self._set(key, group, size)
        else:
            self.remove(key)

    def remove(self, key: int) -> None:
        """Record that an orchestration is in motion no more. Idempotent."""
        found = self._sizes.pop(key, None)
        if found is not None:
            group, size = found
            self._bytes -= size
            self._groups[group] -= 1
            if self._groups[group] <= 0:
                del self._groups[group]

    def _set(self, key: int, group: Group, size: int) -> None:
        found = self._sizes.get(key)
        if found is not None and found[0] == group:
            self._bytes -= found[1]
        else:
            self.remove(key)
            self._groups[group] += 1
        self._sizes[key] = (group, size)
        self._bytes += size

    def may_begin(self, group: Group) -> bool:
        """True when an orchestration of the group may begin now.

        At the limit a group may begin while it has less than an equal share of what is in motion: the backlog of one
        does not stop another.
        """
        most, number = self.limit, len(self._sizes)
        if most is None or (number < most and self._bytes < self.limit_bytes):
            return True
        if self._extra > 0 or self._groups[group] * len(self._groups) < number:
            return True
        self.holds = True
        return False

    def stalled_until(self) -> float:
        """Time by the monotonic clock at which some new orchestrations may begin anyway."""
        return self._turned + STALL_SECONDS

    def wake(self, now: float) -> None:
        """Let some new orchestrations begin when no turn has ended for a while."""
        if self.holds and self.limit is not None and now >= self.stalled_until():
            self._extra = max(1, self.limit // SHARE)
            self._turned = now

    def clear(self) -> None:
        """Forget all orchestrations."""
        self._sizes.clear()
        self._groups.clear()
        self._bytes = 0
