"""One partition of a log during one assignment: records handed out, returned and completed."""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterable
from typing import TypeVar

from bridge.brokers.offsets import OffsetTracker
from bridge.core.message import Message

D = TypeVar("D")


class AssignedPartition:
    """Common part of `bridge.brokers.base.Partition` for all logs. Every assignment creates a new object."""

    __slots__ = (
        "_changed", "_paused", "_returned", "_start", "_tracker", "cluster", "draining", "number", "revoked", "topic",
    )  # fmt: skip

    lost = False
    """Always False: a partition is revoked by its group, never lost."""

    def __init__(
        self, *, cluster: str, topic: str, number: int, start: int, done: Iterable[int], changed: Callable[[], None]
    ) -> None:
        """start: first offset. done: offsets above it that an earlier assignment completed. changed: called when there
        may be records to hand out.
        """
        self.cluster = cluster
        self.topic = topic
        self.number = number
        self.revoked = False
        self.draining = False
        self._start = start
        self._tracker = OffsetTracker(done)
        self._changed = changed
        self._paused = False
        self._returned: list[tuple[int, Message]] = []

    @property
    def gap(self) -> int:
        """Number of records handed out since the end of the committable prefix; records that are only read ahead do not
        count.
        """
        return self._tracker.gap

    @property
    def prefix(self) -> int:
        """Offset that may be committed: all records handed out below it are completed."""
        committable = self._tracker.committable
        return self._start if committable is None else committable

    def pause(self) -> None:
        """Stop handing out records. Records read ahead stay; their number is limited."""
        self._paused = True

    def resume(self) -> None:
        """Hand out records again."""
        if self._paused:
            self._paused = False
            self._changed()

    def drain(self) -> None:
        """Stop handing out records permanently, because the partition is about to be revoked."""
        self.draining = True
        self._returned.clear()

    def give_back(self, offset: int, message: Message) -> None:
        """Take an abandoned record back and hand it out again, before all later ones."""
        if not self.draining:
            insort(self._returned, (offset, message), key=lambda returned: returned[0])
            self._changed()

    def take_returned(self, limit: int, into: list[D], make: Callable[[Message, int], D]) -> None:
        """Hand out returned records, oldest first, up to `limit` items in `into`."""
        room = max(0, limit - len(into))
        into += [make(message, offset) for offset, message in self._returned[:room]]
        del self._returned[:room]
