"""A bad rule must not empty a topic into the dead letters."""

from __future__ import annotations

from collections import deque


class Fuse:
    """Blows when more than `limit` dead letters fall within `window` seconds, and stays blown until a restart.

    It does not mend by itself: letting a bad rule go on at the limit's pace would empty the topic all the same.
    """

    def __init__(self, limit: int, window: float = 60.0) -> None:
        self.limit = limit
        self.window = window
        self.blown = False
        self._times: deque[float] = deque()

    def allow(self, now: float) -> bool:
        """Whether one more dead letter may be written at monotonic time `now`; False blows the fuse."""
        if self.blown:
            return False
        while self._times and now - self._times[0] >= self.window:
            self._times.popleft()
        if len(self._times) >= self.limit:
            self.blown = True
            return False
        self._times.append(now)
        return True
