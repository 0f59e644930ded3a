"""Settlements of one receiver, side by side."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from azure.servicebus.aio import ServiceBusReceiver
from azure.servicebus.exceptions import MessageAlreadySettled

from bridge.brokers.servicebus import seam
from bridge.brokers.servicebus.connection import FOREIGN
from bridge.brokers.servicebus.delivery import Request, Verb
from bridge.errors import BrokerError, BrokerUnavailable, LockLost

if TYPE_CHECKING:
    from bridge.brokers.servicebus.receiver import Receiver

BATCH = 100
"""How many run side by side: where the round trip is long they share it."""


class Settlements:
    """What is asked for waits here until the receiver's task comes by."""

    def __init__(self, owner: Receiver) -> None:
        self._owner = owner
        self._requests: deque[Request] = deque()

    @property
    def waiting(self) -> bool:
        """Whether there is something to do."""
        return bool(self._requests)

    def add(self, request: Request) -> None:
        """Settle it in its turn."""
        self._requests.append(request)

    def fail(self, error: BrokerError) -> None:
        """Nothing can be settled now: whoever waits is told, and asks again."""
        requests, self._requests = self._requests, deque()
        for request in requests:
            request.fail(BrokerUnavailable(str(error)))

    async def carry_out(self, link: ServiceBusReceiver) -> None:
        """One batch of what waits. What breaks the connection is noted at the receiver."""
        requests: list[Request] = []
        while self._requests and len(requests) < BATCH:
            request = self._requests.popleft()
            if request.delivery.lost:
                request.fail(LockLost(f"the lock of {request.delivery.position} has passed"))
            elif not request.done.cancelled():
                requests.append(request)
        if len(requests) == 1:
            await self._settle(link, requests[0])
        elif requests:
            await asyncio.gather(*(self._settle(link, request) for request in requests))

    async def _settle(self, link: ServiceBusReceiver, request: Request) -> None:
        raw, owner = request.delivery.raw, self._owner
        try:
            async with asyncio.timeout(owner.connection.config.request_timeout):
                match request.verb:
                    case Verb.COMPLETE:
                        await link.complete_message(raw)
                    case Verb.ABANDON:
                        await link.abandon_message(raw)
                    case Verb.DEAD_LETTER:
                        await link.dead_letter_message(
                            raw, reason=request.reason, error_description=request.description
                        )
        except MessageAlreadySettled:
            request.succeed()
        except FOREIGN as error:
            found = owner.translate(error, request.verb.value)
            if isinstance(found, LockLost):
                # Where the link has gone, the SDK asks once more beside it: the first time may have been heard
                request.delivery.unsure = request.delivery.unsure or not seam.attached(link)
                request.fail(owner.lose(request.delivery, found))
            else:
                request.delivery.unsure = True
                owner.broken = found
                request.fail(BrokerUnavailable(str(found)))
        else:
            owner.heard = asyncio.get_running_loop().time()
            request.succeed()
