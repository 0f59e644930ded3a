"""Message ids seen within a time window."""

from __future__ import annotations

from typing import Any


class Duplicates:
    """Duplicate detection. window: milliseconds; 0: off."""

    def __init__(self, window: int) -> None:
        self._window = window
        # The window is the same for all ids; the oldest id is the first
        self._seen: dict[Any, int] = {}

    def __len__(self) -> int:
        return len(self._seen)

    def seen(self, message_id: Any, now: int) -> bool:
        """Return whether the id occurred within the window; remember a new id."""
        if not self._window:
            return False
        while self._seen:
            oldest = next(iter(self._seen))
            if self._seen[oldest] > now:
                break
            del self._seen[oldest]
        if message_id in self._seen:
            return True
        self._seen[message_id] = now + self._window
        return False
