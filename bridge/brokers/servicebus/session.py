"""A receiver that accepts one session after another."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from azure.servicebus import ServiceBusReceivedMessage
from azure.servicebus.aio import ServiceBusReceiver
from azure.servicebus.exceptions import OperationTimeoutError

from bridge.brokers.base import Listener
from bridge.brokers.servicebus import attaching
from bridge.brokers.servicebus.connection import FOREIGN
from bridge.brokers.servicebus.delivery import ServiceBusDelivery, Verb
from bridge.brokers.servicebus.locks import UNKNOWN_LOCK, renew_after
from bridge.brokers.servicebus.partition import ServiceBusPartition
from bridge.brokers.servicebus.receiver import Receiver
from bridge.brokers.servicebus.receiver_options import Sessions
from bridge.core.errors import BrokerError, BrokerUnavailable, ClockSkew, LockLost, PartitionRevoked

ACCEPT_SECONDS = 30.0
"""Seconds for which the service is asked to wait for a free session."""

ROOM_SECONDS = 1.0
"""Seconds between checks for free space in the inbox."""

SHORTEST_QUIET = 0.05
"""Shortest silence, in seconds, that shows that a session has no more messages."""

_VERBS = {verb.value for verb in Verb}


class SessionReceiver(Receiver):
    """Receiver of sessions. One lock covers the session and all its messages.

    A session ends when it is idle, when its turn is over and no message of it is in process, or with its connection. In
    the last case this process loses all messages in flight.
    """

    def __init__(self, *, listener: Listener, receiver_options: Sessions, **given: Any) -> None:
        """given: see `Receiver`."""
        super().__init__(**given)
        self.sessions = 0
        """Number of accepted sessions."""
        self._listener = listener
        self._receiver_options = receiver_options
        self._renew_at: float | None = None
        self._handing: asyncio.Task[None] | None = None
        """Task that ends a turn."""
        self._kept: ServiceBusReceiver | None = None
        """Open connection, with or without a session."""
        self._took = 0.0
        self._begun = 0.0
        self._quiet = self._hurry = receiver_options.idle
        """Seconds of silence after which a session is left: before its first message, and after it."""
        self._busy = 0.0

    async def open(self) -> ServiceBusReceiver | None:
        """See `Receiver.open`: wait for the next session, over the connection of the previous one."""
        if self._kept is None:
            self.connection.seats.give_back(self)
        seated = self.connection.seats.take(self)
        if not seated:
            await self.dispose()
            self.away = None
            self.ready.set()
        if not seated or not self.inbox.room:
            # Without free space, messages of another session could not be read either
            await self._pause(ROOM_SECONDS)
            return None
        begun = time.monotonic()
        link = await self._accept()
        if link is None:
            # No session was free, and the service answered
            self.away = None
            self.ready.set()
            return None
        self.partition = ServiceBusPartition(self.path, self.number, self.wake)
        self.sessions += 1
        now = time.monotonic()
        self._begun = self._busy = now
        self._quiet = self._receiver_options.idle
        if now - begun < self._receiver_options.idle / 4:
            # This session was waiting, and others may be too: silence of two round trips shows that it has no more
            self._hurry = min(self._receiver_options.idle, max(SHORTEST_QUIET, 2 * (now - begun)))
        else:
            self._hurry = self._receiver_options.idle
        self._handing = None
        until = link.session.locked_until_utc
        remaining = UNKNOWN_LOCK if until is None else until.timestamp() - time.time()
        if remaining <= 0:
            self.clock.expired(-remaining)
            self._kept = None
            await self.connection.close(link)
            raise ClockSkew(str(self.clock)) if self.clock.skew else BrokerUnavailable(f"{self.path}: took too long")
        self.clock.received(None, remaining, time.time())
        self._renew_at = now + renew_after(self.clock.usable(remaining), self._took)
        await self._listener.assigned([self.partition])
        return link

    async def _accept(self) -> ServiceBusReceiver | None:
        """Accept the next session; None where there is none. Raises: BrokerError."""
        what, limit = f"take a session of {self.path}", self.connection.config.request_timeout
        link, self._kept = self._kept, None
        if link is None:
            link = self.connection.receiver(self.entity, self.prefetch, accept=ACCEPT_SECONDS, credit=self.credit)
            if not attaching.possible(link):
                return await self._open_whole(link, what, limit)
            await self.connection.connect(link, what, limit)
        taken = await self.connection.attach(link, what, ACCEPT_SECONDS + limit)
        self._kept = link
        return link if taken else None

    async def _open_whole(self, link: ServiceBusReceiver, what: str, limit: float) -> ServiceBusReceiver | None:
        """Open the receiver with its own connection, in the SDK's way."""
        try:
            await self.connection.open(link, what, ACCEPT_SECONDS + limit)
        except BrokerUnavailable as error:
            if isinstance(error.__cause__, OperationTimeoutError):
                return None
            raise
        return link

    async def close_link(self, link: ServiceBusReceiver, sound: bool) -> None:
        """See `Receiver.close_link`. The service gives the messages back without counting. The connection stays for the
        next session.
        """
        self._renew_at = None
        partition = self.partition
        partition.revoked = True
        self.inbox.drop(partition)
        if sound and not self.closing and link is self._kept and self.connection.seats.has(self):
            closing = asyncio.create_task(self._part(link))
        else:
            self._kept = None
            closing = asyncio.create_task(self.connection.close(link))
        if self._handing is not None:
            await self._handing
        elif not self.closing:
            # Before the next session is accepted, which may be the same one again
            await self._listener.revoked([partition])
        await closing

    async def _part(self, link: ServiceBusReceiver) -> None:
        if not await self.connection.detach(link):
            self._kept = None

    @property
    def spare(self) -> bool:  # type: ignore[override]  # a constant there
        """See `Receiver.spare`: the first receiver of an entity can serve all its sessions."""
        return self.number > 0

    def give_way(self) -> None:
        """See `Receiver.give_way`: a held session is kept to its end."""
        if self._opening is not None and not self._opening.done():
            self._opening.cancel()

    async def dispose(self) -> None:
        """See `Receiver.dispose`."""
        link, self._kept = self._kept, None
        if link is not None:
            await self.connection.close(link)
        self.connection.seats.give_back(self)

    def over(self) -> bool:
        """See `Receiver.over`."""
        if self._handing is not None:
            return self._handing.done()
        now = time.monotonic()
        if self.inbox.stuck:
            # The inbox is full: neither this session nor the next could deliver messages
            self._busy = now
            return False
        if self._turn_is_over(now):
            # Waiting messages are given back with the session; those in process are finished and settled meanwhile
            self._handing = asyncio.create_task(self._listener.revoked([self.partition]))
            self._handing.add_done_callback(lambda _: self.wake())
            return False
        if self.partition.gap:
            self._busy = now
            return False
        return now - self._busy >= self._quiet

    def read_timeout(self) -> float:
        """See `Receiver.read_timeout`."""
        if self.inbox.stuck:
            return super().read_timeout()
        now = time.monotonic()
        turn = self._begun + self._receiver_options.turn - now
        if self._handing is not None:
            return super().read_timeout()
        if self.partition.gap:
            return min(super().read_timeout(), turn)
        return max(0.0, min(self._busy + self._quiet - now, turn))

    def wanted(self) -> bool:
        """See `Receiver.wanted`: at the end of a turn messages in flight are finished and no more are read."""
        return super().wanted() and not self._turn_is_over(time.monotonic())

    def _turn_is_over(self, now: float) -> bool:
        return now - self._begun >= self._receiver_options.turn

    def admit(self, raw: ServiceBusReceivedMessage, now: float, wall: float) -> ServiceBusDelivery:
        """See `Receiver.admit`: the session's lock covers the message."""
        self._busy = now
        self._quiet = self._hurry
        delivery = self.deliver(raw)
        if delivery.message.timestamp is not None and self._renew_at is not None:
            self.clock.received(delivery.message.timestamp, 0.0, wall)
            self._renew_at = min(self._renew_at, now + renew_after(self.clock.usable(UNKNOWN_LOCK), self._took))
        return delivery

    @property
    def key(self) -> bytes | None:
        """See `Receiver.key`: the session's id."""
        id_ = None if self._link is None else self._link.session.session_id
        return id_.encode() if isinstance(id_, str) else None

    def next_renewal(self) -> float | None:
        """See `Receiver.next_renewal`."""
        return self._renew_at

    async def renew(self, link: ServiceBusReceiver) -> None:
        """See `Receiver.renew`."""
        begun = time.monotonic()
        try:
            async with asyncio.timeout(self.connection.config.request_timeout):
                until = await link.session.renew_lock()
        except FOREIGN as error:
            raise self.translate(error, "renew the lock of a session of") from error
        self.renewals += 1
        now = time.monotonic()
        self._took = max(now - begun, self._took * 0.9)
        self._renew_at = now + renew_after(self.clock.usable(until.timestamp() - time.time()), self._took)

    async def take(self, link: ServiceBusReceiver) -> int:
        """See `Receiver.take`: after its turn a session gives buffered messages back."""
        return 0 if self._turn_is_over(time.monotonic()) else await super().take(link)

    def translate(self, error: BaseException, what: str) -> BrokerError:
        """See `Receiver.translate`: a lost lock is that of the session."""
        found = super().translate(error, what)
        if isinstance(found, LockLost):
            if what not in _VERBS:  # a settlement may be done, and its answer lost
                self._check_clock_skew()
            self.partition.lost = self.partition.revoked = True
        return found

    def _check_clock_skew(self) -> None:
        """Check whether the lost lock had time left by the local clock."""
        until = None if self._link is None else self._link.session.locked_until_utc
        if until is not None and not self.partition.lost:
            self.clock.lost(until.timestamp() - time.time())

    def mark_lock_lost(self, delivery: ServiceBusDelivery, error: LockLost) -> BrokerError:
        """Mark the session as lost with all its messages; the loss counts once. See `Receiver.mark_lock_lost`."""
        self.broken = error
        return PartitionRevoked(str(error))
