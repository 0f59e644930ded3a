"""Committable offsets of one partition. Pure; one tracker lives as long as one assignment."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

_LONGEST_SPAN = 1 << 20
"""Most offsets of one span that are listed one by one; the rest of a longer span is repeated after a restart."""


class OffsetTracker:
    """Tracker of the contiguous completed prefix of fetched records, which complete in any order.

    Offsets need not be contiguous: a compacted or transactional log has holes, and only fetched records count. `done`
    holds offsets that an earlier assignment completed above its prefix; they are not processed again.
    """

    __slots__ = ("_committable", "_done", "_last", "_open", "_pending", "_spans", "_times")

    def __init__(self, done: Iterable[int] = ()) -> None:
        self._pending: deque[int] = deque()
        self._times: deque[float | None] = deque()
        """Times of the pending records."""
        self._open: set[int] = set()
        self._spans: dict[int, int] = {}
        """Last offset of records that stand for several offsets, by their first."""
        self._done = set(done)
        self._last = -1
        self._committable: int | None = None

    def fetched(self, offset: int, last: int | None = None, time: float | None = None) -> bool:
        """Record the next fetched record; False when an earlier assignment has completed it already.

        last: last offset that the record stands for, when it stands for several. time: the broker's time of the record.
        Raises: ValueError when offsets do not increase.
        """
        if offset <= self._last:
            raise ValueError(f"offset {offset} follows {self._last}: offsets of a partition must increase")
        if last is not None and last > offset:
            self._spans[offset] = last
            self._last = last
        else:
            self._last = offset
        self._pending.append(offset)
        self._times.append(time)
        if self._done:
            stands_for = range(offset, self._last + 1)
            # Some of these offsets may have been completed as separate records: the others were not
            if all(each in self._done for each in stands_for):
                self._done.difference_update(stands_for)
                self._advance()
                return False
        self._open.add(offset)
        return True

    def complete(self, offset: int) -> bool:
        """Mark a fetched record as completed; False when it is not open (completed before, or never fetched)."""
        try:
            self._open.remove(offset)
        except KeyError:
            return False
        if self._pending[0] == offset:
            self._advance()
        return True

    def _advance(self) -> None:
        pending, times, still_open = self._pending, self._times, self._open
        while pending and pending[0] not in still_open:
            offset = pending.popleft()
            times.popleft()
            self._committable = (self._spans.pop(offset, offset) if self._spans else offset) + 1

    @property
    def committable(self) -> int | None:
        """Offset to commit: all fetched records below it are completed. None while no prefix is completed."""
        return self._committable

    @property
    def gap(self) -> int:
        """Number of records fetched since the end of the prefix, including completed ones."""
        return len(self._pending)

    @property
    def completed_above(self) -> list[int]:
        """Completed offsets above the prefix, ascending; a restart must not repeat them."""
        above: list[int] = []
        for offset in self._pending:
            if offset not in self._open:
                last = self._spans.get(offset, offset)
                above += range(offset, min(last, offset + _LONGEST_SPAN) + 1)
        if self._done:
            above += sorted(offset for offset in self._done if offset > self._last)
        return above

    @property
    def oldest(self) -> float | None:
        """Time of the first fetched record that is not completed; None without one, or where its time is unknown."""
        return self._times[0] if self._times else None

    @property
    def outstanding(self) -> int:
        """Number of fetched records that are not completed."""
        return len(self._open)
