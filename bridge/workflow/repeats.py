"""Number of repeated messages that workflows dropped."""

from __future__ import annotations

import threading
from collections import Counter


class Repeats:
    """Counters of this process, by the component that dropped the message. Replayed turns count again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, by: str) -> None:
        with self._lock:
            self._counts[by] += 1

    def counts(self) -> dict[str, int]:
        """Counts of `inbox` and `entity` since the start of the process."""
        with self._lock:
            return {"inbox": self._counts["inbox"], "entity": self._counts["entity"]}


REPEATS = Repeats()
