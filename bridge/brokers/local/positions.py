"""A group's committed position in one partition: the next offset, and what is done above it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import orjson


@dataclass(frozen=True, slots=True)
class CommittedPosition:
    """Everything below `next` is done, and so are the offsets in `done` (ascending)."""

    next: int
    done: tuple[int, ...] = ()

    def merge(self, other: CommittedPosition) -> CommittedPosition:
        """Both together. What was done never becomes undone, so commits may arrive in any order."""
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
    """What `encode` was given."""
    if text == "[]":
        return ()
    return tuple(offset for first, last in orjson.loads(text) for offset in range(first, last + 1))
