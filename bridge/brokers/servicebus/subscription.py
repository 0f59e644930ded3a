"""An open consumer of queues and subscriptions."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Sequence

from bridge.brokers.base import Listener, SubscribeOptions
from bridge.brokers.servicebus.clock import ClockSkewDetector
from bridge.brokers.servicebus.connection import Connection
from bridge.brokers.servicebus.dead_letters import DeadLetterQueue
from bridge.brokers.servicebus.delivery import ServiceBusDelivery
from bridge.brokers.servicebus.faults import Refused
from bridge.brokers.servicebus.receive_buffer import ReceiveBuffer
from bridge.brokers.servicebus.receiver import EntityReceiver
from bridge.brokers.servicebus.session import SessionReceiver
from bridge.core.errors import BrokerUnavailable, ClockSkew
from bridge.system.tasks import cancelled

_log = logging.getLogger(__name__)

FIRST_SECONDS = 5.0
"""Seconds within which a refusal usually shows at the start. With sessions, acceptance looks like silence."""

TICK_SECONDS = 1.0


class ServiceBusSubscription:
    """Implementation of `bridge.brokers.base.Subscription`, `ObservedSubscription`, `AgingSubscription`,
    `PausableSubscription` and `LockingSubscription`.
    """

    commits = (0, 0.0)
    """See `ObservedSubscription.commits`: every message is settled by itself, and no commits are counted."""

    skipped = 0
    """See `ObservedSubscription.skipped`: always 0, since the service drops no messages that a consumer would skip."""

    def __init__(
        self,
        *,
        connection: Connection,
        options: SubscribeOptions,
        listener: Listener,
        dead_letter_queue: DeadLetterQueue | None,
        closed: Callable[[], None],
    ) -> None:
        """Create a Service Bus subscription. closed: called once, at the end of `close`."""
        settings, sessions = options.servicebus, options.sessions
        self._connection = connection
        self._listener = listener
        self._on_closed = closed
        self._closed = False
        self._closing: asyncio.Task[None] | None = None
        self._clock = ClockSkewDetector()
        parts = settings.receivers if sessions is None else sessions.concurrent
        count = parts * len(options.topics)
        self._buffer = ReceiveBuffer(settings.prefetch, options.prefetch_bytes, count, paused=options.paused)
        self._sessions = sessions is not None
        self._receivers: list[EntityReceiver] = []
        self._tasks: list[asyncio.Task[None]] = []
        for path in options.topics:
            for number in range(parts):
                given = {
                    "connection": connection, "path": path, "number": number, "prefetch": settings.prefetch,
                    "buffer": self._buffer, "clock": self._clock, "dead_letter_queue": dead_letter_queue,
                }  # fmt: skip
                self._receivers.append(
                    EntityReceiver(**given)  # type: ignore[arg-type]  # a dict of different types
                    if sessions is None
                    else SessionReceiver(listener=listener, sessions=sessions, **given)
                )

    async def start(self) -> None:
        """Connect. Raises: BrokerUnavailable when the service is away or refuses the connection."""
        if not self._sessions:
            await self._listener.assigned([receiver.partition for receiver in self._receivers])
        self._connection.slots.join(self._receivers)
        self._tasks = [asyncio.create_task(receiver.run()) for receiver in self._receivers]
        self._tasks.append(asyncio.create_task(self._tick()))
        limit = FIRST_SECONDS if self._sessions else self._connection.config.request_timeout
        waiting = [asyncio.create_task(receiver.ready.wait()) for receiver in self._entitled()]
        try:
            await asyncio.wait(waiting, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            if not self._sessions:
                await asyncio.wait(waiting, timeout=limit)
        finally:
            for each in waiting:
                each.cancel()
        refused = next((each.away for each in self._receivers if isinstance(each.away, Refused)), None)
        away = [each.away for each in self._entitled() if each.away is not None]
        skewed = any(isinstance(error, ClockSkew) for error in away)  # the clock can be set during the wait, not ready
        if refused is not None or (len(away) == len(self._entitled()) and not skewed):
            await self.close()
            raise refused or away[0]

    async def receive(self, limit: int) -> Sequence[ServiceBusDelivery]:
        """See `Subscription.receive`. Raises: BrokerUnavailable, ClockSkew."""
        while not self._closed:
            full = not self._buffer.room
            taken = self._buffer.take(limit)
            if full and self._buffer.room:
                self._wake()
            if taken:
                return taken
            entitled = self._entitled()
            away = [each.away for each in entitled if each.away is not None]
            if len(away) == len(entitled):
                raise away[0] if isinstance(away[0], ClockSkew) else BrokerUnavailable(str(away[0]))
            await self._buffer.wait()
        return ()

    def _entitled(self) -> list[EntityReceiver]:
        """Receivers that may connect: at least one of each entity."""
        return [each for each in self._receivers if self._connection.slots.is_entitled(each)]

    def pause(self) -> None:
        """See `PausableSubscription.pause`."""
        self._buffer.pause()
        self._wake()

    def resume(self) -> None:
        """See `PausableSubscription.resume`."""
        self._buffer.resume()
        self._wake()

    async def flush(self) -> None:
        """See `Subscription.flush`: `complete` returns only after settlement, and nothing is left to flush."""

    async def close(self) -> None:
        """See `Subscription.close`."""
        if self._closing is None:
            self._closed = True
            self._buffer.notify()
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        for receiver in self._receivers:
            receiver.close()
        if self._tasks:
            await cancelled(self._tasks[-1])
            await asyncio.wait(self._tasks)
        for receiver in self._receivers:
            receiver.partition.revoke()
        self._connection.slots.leave(self._receivers)
        self._on_closed()

    def _wake(self) -> None:
        for receiver in self._receivers:
            receiver.wake()

    async def _tick(self) -> None:
        while True:
            self._clock.tick()
            await asyncio.sleep(TICK_SECONDS)

    def lag(self) -> dict[tuple[str, int], int]:
        """See `Subscription.lag`. Counts the locked messages; only clients with manage rights can query the number of
        waiting ones.
        """
        return {(each.path, each.number): each.partition.gap for each in self._receivers}

    def oldest(self) -> dict[tuple[str, int], float]:
        """See `AgingSubscription.oldest`. Of the locked messages: the service hands out the oldest ones first, and
        reports the time of another one only to clients with manage rights.
        """
        found: dict[tuple[str, int], float] = {}
        for delivery in self._buffer.held():
            enqueued = delivery.message.timestamp
            place = (delivery.partition.topic, delivery.partition.number)
            if enqueued is not None and enqueued < found.get(place, math.inf):
                found[place] = enqueued
        return found

    def stopped(self) -> dict[str, str]:
        """See `ObservedSubscription.stopped`."""
        problems = ((f"{each.path}/{each.number}", each.problem()) for each in self._receivers)
        found = {part: text for part, text in problems if text is not None}
        if not self._sessions:  # with sessions, a receiver that waits for one has no answer either
            attaching = (each for each in self._entitled() if not each.ready.is_set())
            found |= {f"{each.path}/{each.number}": "the receiver is not attached yet" for each in attaching}
        return found

    @property
    def rebalances(self) -> int:
        """See `ObservedSubscription.rebalances`: number of accepted sessions."""
        return sum(each.sessions for each in self._receivers if isinstance(each, SessionReceiver))

    @property
    def reconnects(self) -> int:
        """See `LockingSubscription.reconnects`."""
        return sum(each.reconnects for each in self._receivers)

    @property
    def renewals(self) -> int:
        """See `LockingSubscription.renewals`."""
        return sum(each.renewals for each in self._receivers)
