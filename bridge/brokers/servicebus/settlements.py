"""Concurrent settlements of one receiver."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from azure.servicebus.exceptions import MessageAlreadySettled

from bridge.brokers.servicebus import sdk_internals
from bridge.brokers.servicebus.connection import SDK_ERRORS, ReceiverLink
from bridge.brokers.servicebus.dead_letters import DeadLetterQueue
from bridge.brokers.servicebus.delivery import DoubtfulRefusal, ServiceBusDelivery, SettlementRequest
from bridge.brokers.servicebus.faults import Refused, may_be_the_message
from bridge.core.errors import BrokerError, BrokerUnavailable, LockLost, SettlementRefused

BATCH = 100
"""Number of concurrent settlements, which share a long round trip."""

FAILURES = 3
"""Number of faults that one settlement may meet while others succeed; then the message is at fault."""


class SettlementQueue:
    """Settlement requests of one receiver until its task carries them out. Implements `delivery.Settlements`."""

    def __init__(
        self,
        dead_letter_queue: DeadLetterQueue | None,
        *,
        away: Callable[[], BrokerError | None],
        wake: Callable[[], None],
        finished: Callable[[ServiceBusDelivery], None],
        lock_lost: Callable[[ReceiverLink, ServiceBusDelivery, LockLost], BrokerError],
    ) -> None:
        """Create a settlement queue.

        away: returns the reason for which nothing can be settled.
        wake: called when a request is waiting.
        finished: see `delivery.Settlements`.
        lock_lost: marks what is lost with a lock that the service does not know any more, and returns the error for
        the caller of the settlement.
        """
        self.dead_letter_queue = dead_letter_queue
        self.finished = finished
        self._away = away
        self._wake = wake
        self._lock_lost = lock_lost
        self._requests: deque[SettlementRequest] = deque()
        self._settled = 0

    @property
    def waiting(self) -> bool:
        """True when requests are waiting."""
        return bool(self._requests)

    async def settle(self, request: SettlementRequest) -> None:
        """See `delivery.Settlements.settle`."""
        away = self._away()
        if away is not None:
            raise BrokerUnavailable(str(away))
        self._requests.append(request)
        self._wake()
        await request.done

    def fail(self, error: BrokerError) -> None:
        """Fail all waiting requests with BrokerUnavailable. Their callers ask again."""
        requests, self._requests = self._requests, deque()
        for request in requests:
            request.fail(BrokerUnavailable(str(error)))

    async def carry_out(self, link: ReceiverLink) -> None:
        """Carry out one batch of waiting requests. An error that breaks the connection is recorded in the link."""
        requests: list[SettlementRequest] = []
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
            if link.broken is not None:
                request.fail(BrokerUnavailable(str(link.broken)))
            else:
                await self._settle(link, request)

    async def _settle(self, link: ReceiverLink, request: SettlementRequest) -> None:
        raw, verb = request.delivery.raw, request.verb.value
        try:
            async with asyncio.timeout(link.timeout):
                answer = await sdk_internals.settle(
                    link.sdk, raw, verb, request.reason or None, request.description or None
                )
        except MessageAlreadySettled:
            request.succeed()
        except SDK_ERRORS as error:
            found = link.translate(error, verb)
            if isinstance(found, LockLost):
                self._lost(link, request, found)
            else:
                self._unanswered(link, request, found)
        else:
            link.record_answer()
            if answer is None:
                self._settled += 1
                request.succeed()
            else:
                self._refused(link, request, answer)

    def _refused(self, link: ReceiverLink, request: SettlementRequest, answer: Exception) -> None:
        """Handle a refusal by the service; the connection is intact."""
        what = request.verb.value
        refusal = link.translate(answer, what, doing="settling")
        if isinstance(refusal, SettlementRefused):
            request.fail(refusal)
            return
        found = link.translate(answer, what)
        if isinstance(found, LockLost):
            self._lost(link, request, found)
        elif isinstance(found, Refused):
            link.break_off(found)
            request.fail(BrokerUnavailable(str(found)))
        elif may_be_the_message(answer):
            # An error inside the service does not show what the service did before
            request.delivery.mark_settlement_unknown()
            request.fail(DoubtfulRefusal(str(found), request.delivery.count_failure(self._settled)))
        else:
            request.fail(BrokerUnavailable(str(found)))

    def _lost(self, link: ReceiverLink, request: SettlementRequest, error: LockLost) -> None:
        # Where the link has gone, the SDK sends a second request beside it: the first one may have reached the service
        if not sdk_internals.is_link_attached(link.sdk):
            request.delivery.mark_settlement_unknown()
        request.fail(self._lock_lost(link, request.delivery, error))

    def _unanswered(self, link: ReceiverLink, request: SettlementRequest, found: BrokerError) -> None:
        """Handle a missing answer. When others are settled and only this message never is, the message is at fault."""
        request.delivery.mark_settlement_unknown()
        link.break_off(found)
        others = request.delivery.count_failure(self._settled)
        if others and request.delivery.failures >= FAILURES and not isinstance(found, Refused):
            request.fail(SettlementRefused(str(found)))
        else:
            request.fail(BrokerUnavailable(str(found)))
