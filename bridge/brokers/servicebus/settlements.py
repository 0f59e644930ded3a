"""Concurrent settlements of one receiver."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from azure.servicebus.aio import ServiceBusReceiver
from azure.servicebus.exceptions import MessageAlreadySettled

from bridge.brokers.servicebus import sdk_internals
from bridge.brokers.servicebus.connection import FOREIGN
from bridge.brokers.servicebus.delivery import DoubtfulRefusal, Request, ServiceBusDelivery
from bridge.brokers.servicebus.faults import Refused, may_be_the_message
from bridge.core.errors import BrokerError, BrokerUnavailable, LockLost, SettlementRefused

if TYPE_CHECKING:
    from bridge.brokers.servicebus.receiver import Receiver

BATCH = 100
"""Number of concurrent settlements, which share a long round trip."""

FAILURES = 3
"""Number of faults that one settlement may meet while others succeed; then the message is at fault."""


class Settlements:
    """Queue of settlement requests until the receiver's task carries them out."""

    def __init__(self, owner: Receiver) -> None:
        self._owner = owner
        self._requests: deque[Request] = deque()
        self._settled = 0

    @property
    def waiting(self) -> bool:
        """True when requests are waiting."""
        return bool(self._requests)

    def add(self, request: Request) -> None:
        """Queue a request."""
        self._requests.append(request)

    def fail(self, error: BrokerError) -> None:
        """Fail all waiting requests with BrokerUnavailable. Their callers ask again."""
        requests, self._requests = self._requests, deque()
        for request in requests:
            request.fail(BrokerUnavailable(str(error)))

    async def carry_out(self, link: ServiceBusReceiver) -> None:
        """Carry out one batch of waiting requests. An error that breaks the connection is recorded in the receiver."""
        requests: list[Request] = []
        while self._requests and len(requests) < BATCH:
            request = self._requests.popleft()
            if request.delivery.lost:
                request.fail(LockLost(f"the lock of {request.delivery.position} has expired"))
            elif not request.done.cancelled():
                requests.append(request)
        together = [request for request in requests if not request.delivery.failures]
        if len(together) == 1:
            await self._settle(link, together[0])
        elif together:
            await asyncio.gather(*(self._settle(link, request) for request in together))
        # A fault of the connection affects all concurrent requests: one at a time shows which message causes it
        for request in sorted(
            (request for request in requests if request.delivery.failures), key=lambda each: each.delivery.failures
        ):
            if self._owner.broken is not None:
                request.fail(BrokerUnavailable(str(self._owner.broken)))
            else:
                await self._settle(link, request)

    async def _settle(self, link: ServiceBusReceiver, request: Request) -> None:
        raw, owner = request.delivery.raw, self._owner
        try:
            async with asyncio.timeout(owner.connection.config.request_timeout):
                answer = await sdk_internals.settle(
                    link, raw, request.verb.value, request.reason or None, request.description or None
                )
        except MessageAlreadySettled:
            request.succeed()
        except FOREIGN as error:
            found = owner.translate(error, request.verb.value)
            if isinstance(found, LockLost):
                self._lost(link, request, found)
            else:
                self._broken(request, found)
        else:
            owner.last_service_response = asyncio.get_running_loop().time()
            if answer is None:
                self._settled += 1
                request.succeed()
            else:
                self._refused(link, request, answer)

    def _refused(self, link: ServiceBusReceiver, request: Request, answer: Exception) -> None:
        """Handle a refusal by the service; the connection is intact."""
        owner, what = self._owner, request.verb.value
        refusal = owner.connection.translate(answer, f"{what} {owner.path}", doing="settling", path=owner.path)
        if isinstance(refusal, SettlementRefused):
            request.fail(refusal)
            return
        found = owner.translate(answer, what)
        if isinstance(found, LockLost):
            self._lost(link, request, found)
        elif isinstance(found, Refused):
            owner.broken = found
            request.fail(BrokerUnavailable(str(found)))
        elif may_be_the_message(answer):
            # An error inside the service does not show what the service did before
            request.delivery.settlement_unknown = True
            request.fail(DoubtfulRefusal(str(found), self._others_are_settled(request.delivery)))
        else:
            request.fail(BrokerUnavailable(str(found)))

    def _lost(self, link: ServiceBusReceiver, request: Request, error: LockLost) -> None:
        # Where the link has gone, the SDK sends a second request beside it: the first one may have reached the service
        request.delivery.settlement_unknown = request.delivery.settlement_unknown or not sdk_internals.is_link_attached(
            link
        )
        request.fail(self._owner.mark_lock_lost(request.delivery, error))

    def _broken(self, request: Request, found: BrokerError) -> None:
        """Handle a missing answer. When others are settled and only this message never is, the message is at fault."""
        request.delivery.settlement_unknown = True
        self._owner.broken = found
        others = self._others_are_settled(request.delivery)
        if others and request.delivery.failures >= FAILURES and not isinstance(found, Refused):
            request.fail(SettlementRefused(str(found)))
        else:
            request.fail(BrokerUnavailable(str(found)))

    def _others_are_settled(self, delivery: ServiceBusDelivery) -> bool:
        """Count a failure; return whether others have been settled since the first."""
        if not delivery.failures:
            delivery.settled_before = self._settled
        delivery.failures += 1
        return self._settled > delivery.settled_before
