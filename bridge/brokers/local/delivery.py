"""Delivery of a record of the local log."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from bridge.brokers import dead_letter
from bridge.brokers.local.log import Log
from bridge.brokers.local.positions import CommittedPosition
from bridge.brokers.log_delivery import LogDelivery
from bridge.core.message import Message
from bridge.core.provenance import Cause

if TYPE_CHECKING:
    from bridge.brokers.local.partition import LocalPartition


class LocalDelivery(LogDelivery):
    """Implements `bridge.brokers.base.Delivery`."""

    __slots__ = ()

    partition: LocalPartition

    async def dead_letter(self, cause: Cause) -> None:
        """See `Delivery.dead_letter`. The dead letter and the settlement are one transaction."""
        if not self._open():
            return
        partition = self.partition
        topic, group, count = partition.dead_letter_topic, partition.commits.group, partition.new_topic_partitions
        done = CommittedPosition(0, (self._offset,))

        async def send(letter: Message) -> None:
            def work(log: Log) -> None:
                log.append(topic, (letter,), count)
                log.commit(group, partition.id, done)

            written = partition.commits.writer.submit(work)
            written.add_done_callback(self._dead_lettered)
            # Cancellation of the caller must not undo the settlement by the transaction
            await asyncio.shield(written)

        await dead_letter.write(send, topic, self.message, self.position, cause)

    def _dead_lettered(self, written: asyncio.Future[None]) -> None:
        if not written.cancelled() and written.exception() is None:
            self._settled = True
            if not self.partition.revoked:
                self.partition.complete(self._offset)
