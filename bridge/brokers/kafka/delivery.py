"""Delivery of a Kafka record."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bridge.brokers.log_delivery import LogDelivery
from bridge.core.provenance import Cause

if TYPE_CHECKING:
    from bridge.brokers.kafka.partition import KafkaPartition


class KafkaDelivery(LogDelivery):
    """Implements `bridge.brokers.base.Delivery`."""

    __slots__ = ()

    partition: KafkaPartition

    async def dead_letter(self, cause: Cause) -> None:
        """See `Delivery.dead_letter`. A crash between the two steps writes the dead letter again."""
        if self._open():
            await self.partition.dead_letters.write(self.message, self.position, cause)
            await self.complete()
