"""A receiver that accepts one session after another."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from azure.servicebus import ServiceBusReceivedMessage
from azure.servicebus.aio import ServiceBusReceiver
from azure.servicebus.exceptions import OperationTimeoutError

from bridge.brokers.base import Listener
from bridge.brokers.servicebus import sdk_internals
from bridge.brokers.servicebus.clock import UNKNOWN_LOCK, ClockSkewDetector, renew_after
from bridge.brokers.servicebus.connection import SDK_ERRORS, ReceiverLink
from bridge.brokers.servicebus.delivery import ServiceBusDelivery, ServiceBusPartition
from bridge.brokers.servicebus.receiver import EntityReceiver
from bridge.config.model.servicebus import SessionsConfig
from bridge.core.errors import BrokerError, BrokerUnavailable, ClockSkew, LockLost, PartitionRevoked

ACCEPT_SECONDS = 30.0
"""Seconds for which the service is asked to wait for a free session."""

ROOM_SECONDS = 1.0
"""Seconds between checks for free space in the buffer."""

SHORTEST_QUIET = 0.05
"""Shortest silence, in seconds, that shows that a session has no more messages."""


class SessionLock:
    """The lock of the present session, which covers all its messages, and its renewal."""

    def __init__(self, clock: ClockSkewDetector) -> None:
        self.renewals = 0
        """Number of renewals so far, of all sessions."""
        self.next_due: float | None = None
        """Monotonic time of the next renewal in seconds; None without a session."""
        self._clock = clock
        self._took = 0.0
        """Duration in seconds of the slowest recent renewal, decaying."""

    def begin(self, link: ReceiverLink) -> bool:
        """Keep the lock of an accepted session from now on; False when it has already expired."""
        remaining = _remaining(link)
        if remaining <= 0:
            self._clock.expired(-remaining)
            return False
        self._clock.received(None, remaining, time.time())
        self._schedule(remaining)
        return True

    def end(self) -> None:
        """Renew no more."""
        self.next_due = None

    def received(self, enqueued: float | None, now: float, wall: float) -> None:
        """Learn about the clock from a message.

        enqueued, wall: seconds since the epoch.
        now: monotonic seconds.
        """
        if enqueued is not None and self.next_due is not None:
            self._clock.received(enqueued, 0.0, wall)
            self.next_due = min(self.next_due, now + renew_after(self._clock.usable(UNKNOWN_LOCK), self._took))

    async def renew(self, link: ReceiverLink) -> None:
        """Renew the lock. Raises: BrokerError."""
        begun = time.monotonic()
        try:
            async with asyncio.timeout(link.timeout):
                until = await link.sdk.session.renew_lock()
        except SDK_ERRORS as error:
            raise link.translate(error, "renew the lock of a session of") from error
        self.renewals += 1
        self._took = max(time.monotonic() - begun, self._took * 0.9)
        self._schedule(until.timestamp() - time.time())

    def lost(self, link: ReceiverLink) -> None:
        """Check whether the lost lock had time left by the local clock."""
        if link.sdk.session.locked_until_utc is not None:
            self._clock.lost(_remaining(link))

    def _schedule(self, remaining: float) -> None:
        self.next_due = time.monotonic() + renew_after(self._clock.usable(remaining), self._took)


def _remaining(link: ReceiverLink) -> float:
    until = link.sdk.session.locked_until_utc
    return UNKNOWN_LOCK if until is None else until.timestamp() - time.time()


class SessionTurn:
    """Times of one held session, by which it makes room for another. Pure: the caller passes monotonic seconds."""

    def __init__(self, options: SessionsConfig, accepting: float, now: float) -> None:
        """Begin the turn of a session. accepting: seconds that the acceptance took."""
        self._end = now + options.turn
        self._busy = now
        self._quiet = self._shortest_quiet = options.idle
        """Seconds of silence after which a session is left: before its first message, and after it."""
        if accepting < options.idle / 4:
            # This session was waiting, and others may be too: silence of two round trips shows that it has no more
            self._shortest_quiet = min(options.idle, max(SHORTEST_QUIET, 2 * accepting))

    def received(self, now: float) -> None:
        """Record a message."""
        self._busy = now
        self._quiet = self._shortest_quiet

    def busy(self, now: float) -> None:
        """Record that the session is still needed."""
        self._busy = now

    def remaining(self, now: float) -> float:
        """Seconds until the turn is over; 0 and less afterwards."""
        return self._end - now

    def idle_after(self, now: float) -> float:
        """Seconds of further silence after which the session is left."""
        return self._busy + self._quiet - now


class SessionReceiver(EntityReceiver):
    """Receiver of sessions. One lock covers the session and all its messages.

    A session ends when it is idle, when its turn is over and no message of it is in process, or with its connection. In
    the last case this process loses all messages in flight.
    """

    def __init__(self, *, listener: Listener, sessions: SessionsConfig, **given: Any) -> None:
        """Create a session receiver. given: see `EntityReceiver`."""
        super().__init__(**given)
        self.sessions = 0
        """Number of accepted sessions."""
        self._listener = listener
        self._options = sessions
        self._lock = SessionLock(self._clock)
        self._turn = SessionTurn(sessions, 0.0, 0.0)
        self._handing: asyncio.Task[None] | None = None
        """Task that ends a turn."""
        self._kept: ServiceBusReceiver | None = None
        """Open connection, with or without a session."""

    @property
    def is_dispensable(self) -> bool:  # type: ignore[override]  # a constant there
        """See `connection.SlotHolder`: the first receiver of an entity can serve all its sessions."""
        return self.number > 0

    def yield_connection(self) -> None:
        """See `connection.SlotHolder`: a held session is kept to its end."""
        if self._opening is not None and not self._opening.done():
            self._opening.cancel()

    @property
    def renewals(self) -> int:
        """See `EntityReceiver.renewals`."""
        return self._lock.renewals

    # -- from one session to the next

    async def _open(self) -> ReceiverLink | None:
        """See `EntityReceiver._open`: wait for the next session, over the connection of the previous one."""
        slots = self._connection.slots
        if self._kept is None:
            slots.give_back(self)
        may_connect = slots.take(self)
        if not may_connect:
            await self._dispose()
            self._is_back()
        if self._buffer.paused:
            self._is_back()
        if not may_connect or not self._buffer.room:
            # Without free space, messages of another session could not be read either
            await self._pause(ROOM_SECONDS)
            return None
        begun = time.monotonic()
        sdk = await self._accept()
        if sdk is None:
            # No session was free, and the service answered
            self._is_back()
            return None
        link = ReceiverLink(self._connection, self.path, sdk)
        self.partition = ServiceBusPartition(self.path, self.number, self.wake)
        self.sessions += 1
        now = time.monotonic()
        self._turn = SessionTurn(self._options, now - begun, now)
        self._handing = None
        if not self._lock.begin(link):
            self._kept = None
            await self._connection.close(sdk)
            raise ClockSkew(str(self._clock)) if self._clock.skew else BrokerUnavailable(f"{self.path}: took too long")
        await self._listener.assigned([self.partition])
        return link

    async def _accept(self) -> ServiceBusReceiver | None:
        """Accept the next session; None where there is none. Raises: BrokerError."""
        what, limit = f"take a session of {self.path}", self._connection.config.request_timeout
        sdk, self._kept = self._kept, None
        if sdk is None:
            sdk = self._connection.receiver(self._entity, self._prefetch, accept=ACCEPT_SECONDS, credit=self._credit)
            if not sdk_internals.opens_in_steps(sdk):
                return await self._open_whole(sdk, what, limit)
            await self._connection.connect(sdk, what, limit)
        taken = await self._connection.attach(sdk, what, ACCEPT_SECONDS + limit)
        self._kept = sdk
        return sdk if taken else None

    async def _open_whole(self, sdk: ServiceBusReceiver, what: str, limit: float) -> ServiceBusReceiver | None:
        """Open the receiver with its own connection, in the SDK's way."""
        try:
            await self._connection.open(sdk, what, ACCEPT_SECONDS + limit)
        except BrokerUnavailable as error:
            if isinstance(error.__cause__, OperationTimeoutError):
                return None
            raise
        return sdk

    async def _close_link(self, link: ReceiverLink, sound: bool) -> None:
        """See `EntityReceiver._close_link`. The service gives the messages back without counting.

        The connection stays for the next session.
        """
        self._lock.end()
        partition = self.partition
        partition.revoke()
        self._buffer.drop(partition)
        if sound and not self._closing and link.sdk is self._kept and self._connection.slots.is_entitled(self):
            closing = asyncio.create_task(self._part(link.sdk))
        else:
            self._kept = None
            closing = asyncio.create_task(self._connection.close(link.sdk))
        if self._handing is not None:
            await self._handing
        elif not self._closing:
            # Before the next session is accepted, which may be the same one again
            await self._listener.revoked([partition])
        await closing

    async def _part(self, sdk: ServiceBusReceiver) -> None:
        if not await self._connection.detach(sdk):
            self._kept = None

    async def _dispose(self) -> None:
        """See `EntityReceiver._dispose`."""
        sdk, self._kept = self._kept, None
        if sdk is not None:
            await self._connection.close(sdk)
        self._connection.slots.give_back(self)

    # -- while a session is held

    def _is_over(self) -> bool:
        """See `EntityReceiver._is_over`."""
        if self._handing is not None:
            return self._handing.done()
        now = time.monotonic()
        if self._buffer.paused:
            for delivery in self._buffer.drop(self.partition):
                delivery.finish()  # given back with the session
            if not self.partition.gap:
                return True
        if self._buffer.stuck:
            # The buffer is full: neither this session nor the next could deliver messages
            self._turn.busy(now)
            return False
        if self._turn.remaining(now) <= 0:
            # Waiting messages are given back with the session; those in process are finished and settled meanwhile
            self._handing = asyncio.create_task(self._listener.revoked([self.partition]))
            self._handing.add_done_callback(lambda _: self.wake())
            return False
        if self.partition.gap:
            self._turn.busy(now)
            return False
        return self._turn.idle_after(now) <= 0

    def _longest_wait(self, link: ReceiverLink) -> float:
        """See `EntityReceiver._longest_wait`."""
        longest = super()._longest_wait(link)
        if self._buffer.stuck or self._handing is not None:
            return longest
        now = time.monotonic()
        turn = self._turn.remaining(now)
        return min(longest, turn) if self.partition.gap else max(0.0, min(self._turn.idle_after(now), turn))

    def _wants_more(self) -> bool:
        """See `EntityReceiver._wants_more`: at the end of a turn no more messages are read."""
        return super()._wants_more() and self._turn.remaining(time.monotonic()) > 0

    async def _take(self, link: ReceiverLink) -> int:
        """See `EntityReceiver._take`: after its turn a session gives buffered messages back."""
        return 0 if self._turn.remaining(time.monotonic()) <= 0 else await super()._take(link)

    def _admit(self, link: ReceiverLink, raw: ServiceBusReceivedMessage, now: float, wall: float) -> ServiceBusDelivery:
        """See `EntityReceiver._admit`: the session's lock covers the message, and its id is the key."""
        self._turn.received(now)
        session: Any = link.sdk.session.session_id
        delivery = self._deliver(raw, session.encode() if isinstance(session, str) else None)
        self._lock.received(delivery.message.timestamp, now, wall)
        return delivery

    def _next_renewal(self) -> float | None:
        """See `EntityReceiver._next_renewal`."""
        return self._lock.next_due

    async def _renew(self, link: ReceiverLink) -> None:
        """See `EntityReceiver._renew`."""
        await self._lock.renew(link)

    def _lock_lost(self, link: ReceiverLink) -> None:
        """See `EntityReceiver._lock_lost`: the session is lost with all its messages; the loss counts once."""
        if not self.partition.lost:  # a settlement that finds the loss may be done, and its answer lost
            self._lock.lost(link)
        self.partition.mark_lost()

    def _lock_lost_at_settlement(
        self, link: ReceiverLink, delivery: ServiceBusDelivery, error: LockLost
    ) -> BrokerError:
        """See `EntityReceiver._lock_lost_at_settlement`."""
        self.partition.mark_lost()
        link.break_off(error)
        return PartitionRevoked(str(error))
