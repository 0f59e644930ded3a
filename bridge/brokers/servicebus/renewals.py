"""Renewals of the locks of one receiver's messages."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from azure.servicebus.aio import ServiceBusReceiver

from bridge.brokers.servicebus import sdk_internals
from bridge.brokers.servicebus.connection import FOREIGN
from bridge.brokers.servicebus.delivery import ServiceBusDelivery
from bridge.brokers.servicebus.faults import Refused, busy, refused, refuses_message
from bridge.brokers.servicebus.locks import MessageLocks
from bridge.core.errors import BrokerError, LockLost

if TYPE_CHECKING:
    from bridge.brokers.servicebus.receiver import Receiver

_log = logging.getLogger(__name__)

BATCH = 100
"""Number of locks renewed in one request."""

AGAIN_SECONDS = 0.5
"""Seconds until a failed renewal is tried again, on the next receiver."""


class Renewals:
    """Renews due locks. An error that breaks the connection is recorded in the receiver."""

    def __init__(self, owner: Receiver, locks: MessageLocks) -> None:
        self._owner = owner
        self._locks = locks
        self._batch = BATCH
        self._full = 0
        """Full batches renewed since the batch size last changed."""
        self._grow_after = 1
        """Full batches until the batch size grows: doubled by each refusal, halved by each growth."""
        self._renewed = 0
        """Number of locks renewed so far."""
        self._refused: list[tuple[ServiceBusDelivery, BrokerError, bool]] = []
        """Locks that were refused one by one, each with its error and whether the condition is permanent."""

    async def renew(self, link: ServiceBusReceiver) -> None:
        """Renew all due locks, as long as the connection holds."""
        now = time.monotonic()
        due = self._locks.due(now, self._batch)
        while due:
            # A lock that was refused would cause the refusal of the others
            alone = [delivery for delivery in due if delivery.renewed_before is not None]
            if together := [delivery for delivery in due if delivery.renewed_before is None]:
                await self._renew(link, together)
            for delivery in alone:
                await self._renew(link, [delivery])
            self._judge()
            self._locks.renewed(time.monotonic() - now)
            if self._owner.broken is not None:
                return
            now = time.monotonic()
            due = self._locks.due(now, self._batch)

    async def _renew(self, link: ServiceBusReceiver, deliveries: list[ServiceBusDelivery]) -> None:
        """Renew locks in one request. After a lost lock or a refusal, halves are tried, down to single locks."""
        if self._owner.broken is not None:
            self._later(deliveries)
            return
        limit = self._owner.connection.config.request_timeout
        try:
            async with asyncio.timeout(limit):
                ends = await sdk_internals.renew(link, [delivery.raw for delivery in deliveries], limit)
        except FOREIGN as error:
            found = self._owner.translate(error, "renew locks of")
            half = len(deliveries) // 2
            if isinstance(found, LockLost):
                if not half:
                    # No sign of clock skew after a settlement: the settlement may be done, and its answer lost
                    lost = deliveries[0]
                    if not lost.over and self._owner.clock.lost(lost.remaining(time.time())):
                        self._locks.renew_all_now(time.monotonic())
                    self._owner.mark_lock_lost(deliveries[0], found)
                    return
                await self._renew(link, deliveries[:half])
                await self._renew(link, deliveries[half:])
                return
            if busy(error):
                _log.debug("%s", found)
            else:
                # The service may refuse their number, or need too long for it
                self._batch, self._full = max(1, half), 0
                self._grow_after = min(BATCH, 2 * self._grow_after)
                if refused(error) and half:
                    await self._renew(link, deliveries[:half])
                    await self._renew(link, deliveries[half:])
                    return
                if refused(error) and not isinstance(found, Refused):
                    if deliveries[0].renewed_before is None:
                        deliveries[0].renewed_before = self._renewed
                    self._refused.append((deliveries[0], found, refuses_message(error)))
                    return
                self._owner.broken = found
            self._later(deliveries)
        else:
            self._owner.renewals += len(deliveries)
            self._renewed += len(deliveries)
            self._grow(len(deliveries))
            now, wall = time.monotonic(), time.time()
            for delivery, end in zip(deliveries, ends, strict=True):
                delivery.renewed_before = None
                self._locks.add(delivery, self._owner.clock.usable(end - wall), now)

    def _grow(self, renewed: int) -> None:
        """Let the batch size grow by one. After repeated refusals growth is rare: every refusal costs two requests."""
        if renewed < self._batch:
            return
        self._full += 1
        if self._full >= self._grow_after:
            self._batch, self._full = min(BATCH, self._batch + 1), 0
            self._grow_after = max(1, self._grow_after // 2)

    def _later(self, deliveries: list[ServiceBusDelivery]) -> None:
        again = time.monotonic() + AGAIN_SECONDS
        for delivery in deliveries:
            self._locks.again(delivery, again)

    def _judge(self) -> None:
        """Distinguish refusals of single locks from an outage: by their condition, or by other locks renewed since."""
        refused, self._refused = self._refused, []
        for delivery, found, for_good in refused:
            if for_good or self._renewed > (delivery.renewed_before or 0):
                self._batch, self._grow_after = BATCH, 1  # their number was not the cause
                self._leave(delivery, found)
            else:
                self._owner.broken = found
                self._later([delivery])

    def _leave(self, delivery: ServiceBusDelivery, found: BrokerError) -> None:
        """Ask again, fewer than ten times, until the lock has expired; then the message comes again."""
        remaining = delivery.remaining(time.time())
        if remaining > 0:
            _log.debug("%s: %s", delivery.position, found)
            self._locks.again(delivery, time.monotonic() + max(AGAIN_SECONDS, remaining / 2))
            return
        _log.error("%s: the service refused to renew the lock of this message: %s", delivery.position, found)
        self._owner.mark_lock_lost(delivery, LockLost(f"the lock of {delivery.position} has expired: {found}"))
