"""A record in the hands of the consumer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from bridge import provenance
from bridge.brokers.local.log import Log
from bridge.brokers.local.positions import CommittedPosition
from bridge.errors import PartitionRevoked
from bridge.message import Message, Position
from bridge.provenance import Cause

if TYPE_CHECKING:
    from bridge.brokers.local.partition import LocalPartition


class LocalDelivery:
    """Implements `bridge.brokers.base.Delivery`."""

    __slots__ = ("_offset", "_settled", "message", "partition")

    attempt = 1
    """A log does not count deliveries."""
    lost = False
    """There are no locks of single messages."""

    def __init__(self, message: Message, partition: LocalPartition, offset: int) -> None:
        self.message = message
        self.partition = partition
        self._offset = offset
        self._settled = False

    @property
    def position(self) -> Position:
        """Where the record stands."""
        partition = self.partition
        return Position(partition.cluster, partition.topic, partition.number, self._offset)

    async def complete(self) -> None:
        """See `Delivery.complete`. Raises: PartitionRevoked. A second call does nothing."""
        partition = self.partition
        if partition.revoked:
            raise self._revoked()
        if not self._settled:
            self._settled = True
            partition.complete(self._offset)

    async def dead_letter(self, cause: Cause) -> None:
        """See `Delivery.dead_letter`. The dead letter and the settlement are one transaction."""
        partition = self.partition
        if partition.revoked:
            raise self._revoked()
        if self._settled:
            return
        message = provenance.dead_letter(self.message, self.position, cause)
        topic, group, count = partition.dead_letter_topic, partition.commits.group, partition.new_topic_partitions
        done = CommittedPosition(0, (self._offset,))

        def work(log: Log) -> None:
            log.append(topic, (message,), count)
            log.commit(group, partition.id, done)

        written = partition.commits.writer.submit(work)
        written.add_done_callback(self._dead_lettered)
        # A caller that is cancelled must not undo what the transaction settles.
        await asyncio.shield(written)

    def _dead_lettered(self, written: asyncio.Future[None]) -> None:
        if not written.cancelled() and written.exception() is None:
            self._settled = True
            if not self.partition.revoked:
                self.partition.complete(self._offset)

    async def abandon(self) -> None:
        """See `Delivery.abandon`. Redelivered here while the partition stays, else by its next owner."""
        if not self._settled:
            self._settled = True
            self.partition.give_back(self._offset, self.message)

    def _revoked(self) -> PartitionRevoked:
        return PartitionRevoked(
            f"{self.position} belongs to another member of the group, or the subscription is closed"
        )
