"""Pause between fetches at the end of a log, so that frequent records come several to an answer. Pure.

At the end of its log a broker answers a fetch with the first record that arrives. A request and its answer cost the
consumer more than the record itself. Above a few hundred records a second, a pause of a few milliseconds before the
next fetch therefore shortens the way of a message: it saves more processor time than it delays. Below, each record is
fetched at once.
"""

from __future__ import annotations

import math

PAUSE = 0.003
"""Seconds before the next fetch."""

EXPECTED = 1.0
"""Records that must be expected within a pause. 3 ms then begin at 333 records a second."""

MEMORY = 0.2
"""Seconds over which records are counted."""


class FetchPace:
    """Pace of the fetches from one node."""

    def __init__(self) -> None:
        self._counted = 0.0
        """Records, of which those of `MEMORY` seconds ago count for 1/e."""
        self._at = -math.inf

    def pause_after(self, records: int, now: float) -> float:
        """Seconds to wait after an answer with so many records, at a time of the monotonic clock."""
        self._counted = self._counted * math.exp((self._at - now) / MEMORY) + records
        self._at = now
        return PAUSE if self._counted / MEMORY * PAUSE >= EXPECTED else 0.0
