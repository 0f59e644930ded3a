"""Renewals of the locks of one receiver's messages."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from azure.servicebus.aio import ServiceBusReceiver

from bridge.brokers.servicebus import seam
from bridge.brokers.servicebus.connection import FOREIGN
from bridge.brokers.servicebus.delivery import ServiceBusDelivery
from bridge.brokers.servicebus.faults import busy, refused
from bridge.brokers.servicebus.locks import MessageLocks
from bridge.errors import LockLost

if TYPE_CHECKING:
    from bridge.brokers.servicebus.receiver import Receiver

_log = logging.getLogger(__name__)

BATCH = 100
"""Locks that are renewed in one request."""

AGAIN_SECONDS = 0.5
"""Until a renewal is tried again that met a fault, on the next receiver."""


class Renewals:
    """Renews what is due. What breaks the connection is noted at the receiver."""

    def __init__(self, owner: Receiver, locks: MessageLocks) -> None:
        self._owner = owner
        self._locks = locks
        self._batch = BATCH

    async def renew(self, link: ServiceBusReceiver) -> None:
        """All that is due now, as long as the connection holds."""
        now = time.monotonic()
        due = self._locks.due(now, self._batch)
        while due:
            await self._renew(link, due)
            self._locks.renewed(time.monotonic() - now)
            if self._owner.broken is not None:
                return
            now = time.monotonic()
            due = self._locks.due(now, self._batch)

    async def _renew(self, link: ServiceBusReceiver, deliveries: list[ServiceBusDelivery]) -> None:
        """All at once; by halves when some are lost, until it is known which, and when so many are refused."""
        limit = self._owner.connection.config.request_timeout
        try:
            async with asyncio.timeout(limit):
                ends = await seam.renew(link, [delivery.raw for delivery in deliveries], limit)
        except FOREIGN as error:
            found = self._owner.translate(error, "renew locks of")
            half = len(deliveries) // 2
            if isinstance(found, LockLost):
                if not half:
                    # No sign where it met a settlement: that may have been done, and its answer lost
                    lost = deliveries[0]
                    if not lost.over and self._owner.clock.lost(lost.remaining(time.time())):
                        self._locks.hasten(time.monotonic())
                    self._owner.lose(deliveries[0], found)
                    return
                await self._renew(link, deliveries[:half])
                await self._renew(link, deliveries[half:])
                return
            if busy(error):
                _log.debug("%s", found)
            else:
                # It may be their number that the service does not take, or not in time
                self._batch = max(1, half)
                if refused(error) and half:
                    await self._renew(link, deliveries[:half])
                    await self._renew(link, deliveries[half:])
                    return
                self._owner.broken = found
            again = time.monotonic() + AGAIN_SECONDS
            for delivery in deliveries:
                self._locks.again(delivery, again)
        else:
            self._owner.renewals += len(deliveries)
            if len(deliveries) == self._batch:
                self._batch = min(BATCH, self._batch + 1)
            now, wall = time.monotonic(), time.time()
            for delivery, end in zip(deliveries, ends, strict=True):
                self._locks.add(delivery, self._owner.clock.usable(end - wall), now)
