"""One partition of a log for as long as it is ours once: what is handed out, what came back, what is done."""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterable
from typing import TypeVar

from bridge.brokers.offsets import OffsetTracker
from bridge.message import Message

D = TypeVar("D")


class AssignedPartition:
    """The part of `bridge.brokers.base.Partition` that is alike for all logs. A new object for every assignment: the
    object is the epoch.
    """

    __slots__ = (
        "_changed", "_paused", "_returned", "_start", "_tracker", "cluster", "draining", "number", "revoked", "topic",
    )  # fmt: skip

    lost = False
    """Partitions are handed over, never lost."""

    def __init__(
        self, *, cluster: str, topic: str, number: int, start: int, done: Iterable[int], changed: Callable[[], None]
    ) -> None:
        """start: offset to begin at. done: offsets above it that an earlier epoch completed. changed: called when there
        may be something to hand out.
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
        """Records handed out since the committable prefix ended; what is only read ahead does not count."""
        return self._tracker.gap

    @property
    def prefix(self) -> int:
        """The offset that may be committed: everything handed out below it is done."""
        committable = self._tracker.committable
        return self._start if committable is None else committable

    def pause(self) -> None:
        """Hand out no more; what was read ahead stays, which is bounded."""
        self._paused = True

    def resume(self) -> None:
        """Hand out again."""
        if self._paused:
            self._paused = False
            self._changed()

    def drain(self) -> None:
        """Hand out no more, for good: the partition is about to be revoked."""
        self.draining = True
        self._returned.clear()

    def give_back(self, offset: int, message: Message) -> None:
        """A delivery was abandoned: hand the record out again, before all later ones."""
        if not self.draining:
            insort(self._returned, (offset, message), key=lambda returned: returned[0])
            self._changed()

    def take_returned(self, limit: int, into: list[D], make: Callable[[Message, int], D]) -> None:
        """Hand out what was given back, oldest first, as long as there are less than `limit` in `into`."""
        room = max(0, limit - len(into))
        into += [make(message, offset) for offset, message in self._returned[:room]]
        del self._returned[:room]
