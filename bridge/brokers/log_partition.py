"""One partition of a log during one assignment, and its deliveries: records handed out, returned and completed."""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TypeVar

from bridge.brokers.offsets import OffsetTracker
from bridge.core.errors import PartitionRevoked
from bridge.core.message import Message, Position

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
        """Create an assigned partition.

        start: first offset.
        done: offsets above it that an earlier assignment completed.
        changed: called when there may be records to hand out.
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

    def revoke(self) -> None:
        """Complete nothing any more: the partition belongs to another member, or the subscription is closed."""
        self.revoked = True

    def drain(self) -> None:
        """Stop handing out records permanently, because the partition is about to be revoked."""
        self.draining = True
        self._returned.clear()

    def complete(self, offset: int) -> None:
        """Mark a delivery as completed."""
        raise NotImplementedError

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


class LogDelivery:
    """Implementation of `bridge.brokers.base.Delivery` except `dead_letter`. A second settlement does nothing."""

    __slots__ = ("_loaded", "_offset", "_settled", "message", "partition")

    attempt = 1
    """Always 1: a log does not count deliveries."""
    lost = False
    settlement_unknown = False
    """Always False, like `lost`: single messages have no locks."""

    def __init__(self, message: Message, partition: AssignedPartition, offset: int) -> None:
        self.message = message
        self.partition = partition
        self._offset = offset
        self._settled = False
        self._loaded = True

    def unload(self) -> None:
        """See `UnloadableDelivery.unload`."""
        self._loaded = False
        self.message = replace(self.message, body=None, headers=(), native=None)

    def load(self, message: Message) -> None:
        """See `UnloadableDelivery.load`."""
        self._loaded = True
        self.message = message

    @property
    def position(self) -> Position:
        """Position of the record."""
        partition = self.partition
        return Position(partition.cluster, partition.topic, partition.number, self._offset)

    async def complete(self) -> None:
        """See `Delivery.complete`: committed with others, later. Raises: PartitionRevoked."""
        if self._open():
            self._settled = True
            self.partition.complete(self._offset)

    async def abandon(self) -> None:
        """See `Delivery.abandon`. The message is redelivered here while the partition stays assigned, otherwise by its
        next owner.

        An unloaded delivery comes from the log again, after the next start or assignment.
        """
        if not self._settled:
            self._settled = True
            if self._loaded:
                self.partition.give_back(self._offset, self.message)

    def _open(self) -> bool:
        """Return whether the delivery can still be settled. Raises: PartitionRevoked."""
        if self.partition.revoked:
            raise PartitionRevoked(
                f"{self.position} belongs to another member of the group, or the subscription is closed"
            )
        return not self._settled
