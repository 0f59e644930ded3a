"""Delivery of a record from a log: the common part of brokers that commit positions."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from bridge.brokers.base import Partition
from bridge.core.errors import PartitionRevoked
from bridge.core.message import Message, Position


class LogPartition(Partition, Protocol):
    """Operations of a partition that a delivery uses."""

    cluster: str

    def complete(self, offset: int) -> None:
        """Mark a delivery as completed."""
        ...

    def give_back(self, offset: int, message: Message) -> None:
        """Take an abandoned delivery back."""
        ...


class LogDelivery:
    """Implements `bridge.brokers.base.Delivery` except `dead_letter`. Settles once: a second call does nothing."""

    __slots__ = ("_loaded", "_offset", "_settled", "message", "partition")

    attempt = 1
    """Always 1: a log does not count deliveries."""
    lost = False
    settlement_unknown = False
    """Always False, like `lost`: single messages have no locks."""

    def __init__(self, message: Message, partition: LogPartition, offset: int) -> None:
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
