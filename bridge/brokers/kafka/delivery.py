"""A record in the hands of the consumer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bridge.errors import PartitionRevoked
from bridge.message import Message, Position
from bridge.provenance import Cause

if TYPE_CHECKING:
    from bridge.brokers.kafka.partition import KafkaPartition


class KafkaDelivery:
    """Implements `bridge.brokers.base.Delivery`."""

    __slots__ = ("_offset", "_settled", "message", "partition")

    attempt = 1
    """Kafka does not count deliveries."""
    lost = False
    """There are no locks of single messages."""

    def __init__(self, message: Message, partition: KafkaPartition, offset: int) -> None:
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
        """See `Delivery.complete`: committed with others, later. Raises: PartitionRevoked."""
        partition = self.partition
        if partition.revoked:
            raise self._revoked()
        if not self._settled:
            self._settled = True
            partition.complete(self._offset)

    async def dead_letter(self, cause: Cause) -> None:
        """See `Delivery.dead_letter`. A crash between the two halves writes the dead letter again."""
        partition = self.partition
        if partition.revoked:
            raise self._revoked()
        if self._settled:
            return
        await partition.dead_letters.write(self.message, self.position, cause)
        if partition.revoked:
            raise self._revoked()
        self._settled = True
        partition.complete(self._offset)

    async def abandon(self) -> None:
        """See `Delivery.abandon`. Redelivered here while the partition stays, else by its next owner."""
        if not self._settled:
            self._settled = True
            self.partition.give_back(self._offset, self.message)

    def _revoked(self) -> PartitionRevoked:
        return PartitionRevoked(
            f"{self.position} belongs to another member of the group, or the subscription is closed"
        )
