"""A bad rule must not empty a topic into the dead letters."""

from __future__ import annotations

from collections.abc import Hashable


class Fuse:
    """Blows when more than `limit` dead letters fall within `window` seconds, and stays blown until a restart.

    It does not mend by itself: letting a bad rule go on at the limit's pace would empty the topic all the same.
    """

    def __init__(self, limit: int, window: float = 60.0) -> None:
        self.limit = limit
        self.window = window
        self.blown = False
        self._allowed: dict[Hashable, float] = {}
        """When the messages of the window were allowed, the earliest first."""

    def allow(self, now: float, message: Hashable) -> bool:
        """Whether one more dead letter may be written at monotonic time `now`; False blows the fuse.

        message: its identity. One that cannot be settled comes again and again, and counts once.
        """
        if self.blown:
            return False
        while self._allowed and now - next(iter(self._allowed.values())) >= self.window:
            del self._allowed[next(iter(self._allowed))]
        if message not in self._allowed and len(self._allowed) >= self.limit:
            self.blown = True
            return False
        self._allowed.setdefault(message, now)
        return True
