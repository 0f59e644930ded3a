"""A group's committed position in one partition: the next offset, and completed offsets above it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import orjson


@dataclass(frozen=True, slots=True)
class CommittedPosition:
    """Committed position: all offsets below `next`, and the offsets in `done` (ascending), are completed."""

    next: int
    done: tuple[int, ...] = ()

    def merge(self, other: CommittedPosition) -> CommittedPosition:
        """Union of both positions. Completed offsets stay completed, and commits may arrive in any order."""
        start = max(self.next, other.next)
        if not self.done and not other.done:
            return CommittedPosition(start)
        done = sorted(offset for offset in {*self.done, *other.done} if offset >= start)
        return CommittedPosition(start, tuple(done))


def encode(offsets: Iterable[int]) -> str:
    """Ascending offsets as JSON pairs of first and last: `[[3,3],[7,9]]`."""
    ranges: list[list[int]] = []
    for offset in offsets:
        if ranges and ranges[-1][1] == offset - 1:
            ranges[-1][1] = offset
        else:
            ranges.append([offset, offset])
    return orjson.dumps(ranges).decode()


def decode(text: str) -> tuple[int, ...]:
    """Offsets that were given to `encode`."""
    if text == "[]":
        return ()
    return tuple(offset for first, last in orjson.loads(text) for offset in range(first, last + 1))
