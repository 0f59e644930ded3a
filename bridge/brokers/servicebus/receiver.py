"""One receiver of the SDK and the only task that uses it."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from azure.servicebus import ServiceBusMessageState, ServiceBusReceivedMessage

from bridge.brokers.servicebus import sdk_internals
from bridge.brokers.servicebus.amqp import decoding, messages
from bridge.brokers.servicebus.clock import ClockSkewDetector
from bridge.brokers.servicebus.connection import IDLE_READ, SDK_ERRORS, Connection, ReceiverLink
from bridge.brokers.servicebus.dead_letters import DeadLetterQueue
from bridge.brokers.servicebus.delivery import ServiceBusDelivery, ServiceBusPartition
from bridge.brokers.servicebus.entity import EntityPath
from bridge.brokers.servicebus.locks import MessageLocks
from bridge.brokers.servicebus.receive_buffer import ReceiveBuffer
from bridge.brokers.servicebus.settlements import SettlementQueue
from bridge.core.errors import BrokerError, BrokerUnavailable, ClockSkew, LockLost
from bridge.core.message import Position, Unreadable
from bridge.system.tasks import cancelled

_log = logging.getLogger(__name__)

TURNS = 4
"""Number of event-loop cycles that a message without I/O needs. Waiting for them is cheaper than starting and
cancelling a read."""

QUIET_SECONDS = 60.0
"""Seconds of silence after which the receiver queries the service."""

PEEKED = 10
"""Number of messages that are peeked at in that query."""

STEADY_SECONDS = 5.0
"""Seconds of service after which the count of failures restarts; the next pause is short again."""

LONGEST_PAUSE = 2.0
"""Longest pause between two attempts to connect, in seconds."""

TAKEN = 100
"""Number of messages that are taken from the receiver's buffer at once."""

SHOWN_SECONDS = 300.0
"""Seconds for which a message that cannot be settled is shown."""

_UNNUMBERED = "the service sent a message without a sequence number, which identifies a message"

NOTHING = 1e-6
"""Wait, in seconds, that is so short that a read only returns messages the receiver has buffered."""


class EntityReceiver:
    """Receiver of one entity without sessions: reads messages, renews their locks and settles them.

    In the SDK, reads and writes of a connection share one lock, and a read holds this lock until a message comes.
    Therefore one task does everything in turns: take, renew, settle, wait. A settlement request ends the wait. A fault
    that affects the connection ends its link. The next link takes over the messages in flight, since locks of messages
    survive their connection.
    """

    is_dispensable = False
    """See `connection.SlotHolder`."""

    def __init__(
        self,
        *,
        connection: Connection,
        path: str,
        number: int,
        prefetch: int,
        buffer: ReceiveBuffer,
        clock: ClockSkewDetector,
        dead_letter_queue: DeadLetterQueue | None,
    ) -> None:
        """Create a receiver. path: of the entity."""
        self.path = path
        self.number = number
        self.partition = ServiceBusPartition(path, number, self.wake)
        self.away: BrokerError | None = None
        """Reason for which nothing can be read at the moment."""
        self.ready = asyncio.Event()
        """Set after the first attempt to connect has succeeded or failed."""
        self.reconnects = 0
        self._connection = connection
        self._entity = EntityPath.parse(path)
        self._prefetch = prefetch
        self._buffer = buffer
        self._clock = clock
        self._locks = MessageLocks(clock)
        self._settlements = SettlementQueue(
            dead_letter_queue,
            away=lambda: self.away,
            wake=self.wake,
            finished=buffer.forget,
            lock_lost=self._lock_lost_at_settlement,
        )
        self._closing = False
        self._was_paused = False
        """True when the present link was opened after a pause began, and gets no messages."""
        self._unsettleable: tuple[float, str] | None = None
        """Last message that came without a delivery id: its time in monotonic seconds, and a sentence about it."""
        self._waiting: int | None = None
        """Sequence number of a message that waited at the last query of the service."""
        self._opening: asyncio.Task[ReceiverLink | None] | None = None
        self._reading: asyncio.Task[Any] | None = None
        self._woken = asyncio.Event()

    # -- calls from outside

    @property
    def renewals(self) -> int:
        """Number of renewed locks."""
        return self._locks.renewals

    def wake(self) -> None:
        """Wake the task because there is work."""
        if not self._woken.is_set():
            self._woken.set()
            if self._reading is not None:
                _cancel_read(self._reading)

    def close(self) -> None:
        """Let `run` end."""
        self._closing = True
        if self._opening is not None:
            self._opening.cancel()
        self.wake()

    def yield_connection(self) -> None:
        """See `connection.SlotHolder`; does nothing in a receiver without sessions."""

    def problem(self) -> str | None:
        """Text for a person: why nothing can be read, or which message cannot be settled; None without such a
        problem.
        """
        if self.away is not None:
            return str(self.away)
        if self._unsettleable is not None and time.monotonic() - self._unsettleable[0] < SHOWN_SECONDS:
            return self._unsettleable[1]
        return None

    # -- the task

    async def run(self) -> None:
        """Run until the receiver is closed. Never raises, neither for service faults nor for unexpected errors."""
        failures = 0
        while not self._closing:
            try:
                link = await self._connect()
                if link is None:
                    continue
                begun = time.monotonic()
                sound = False
                try:
                    await self._serve(link)
                    sound = True
                except LockLost:
                    self._lock_lost(link)
                    raise
                finally:
                    if time.monotonic() - begun > STEADY_SECONDS:
                        failures = 0
                    # Fail pending settlements before `_close_link`, which may wait for their callers
                    self._settlements.fail(BrokerUnavailable(f"{self.path}: the receiver was closed"))
                    await self._close_link(link, sound)
            except LockLost as error:
                # Lock of a session: the next session is taken at once
                self.reconnects += 1
                _log.warning("%s: %s", self.path, error)
                continue
            except BrokerError as error:
                self.reconnects += self.away is None
                if self.away is None:
                    _log.warning("%s: a receiver is replaced: %s", self.path, error)
                self._fail(error)
            except Exception as error:
                _log.error("%s: a receiver failed unexpectedly", self.path, exc_info=error)
                self._fail(BrokerUnavailable(f"{self.path}: unexpected {type(error).__name__}, see the log"))
            else:
                continue
            ceiling = min(LONGEST_PAUSE, 0.1 * 2.0 ** min(failures, 10))
            failures += 1
            await self._pause(ceiling * (0.5 + random.random() / 2))  # noqa: S311 -- jitter, not a secret
        await self._dispose()
        self._fail(BrokerUnavailable(f"{self.path}: the subscription is closed"))

    async def _connect(self) -> ReceiverLink | None:
        """Open the next link; None when there is none. Raises: BrokerError."""
        if not self._clock.reset_skew():
            self._fail(ClockSkew(str(self._clock)))
            await self._pause(1.0)
            return None
        self._opening = asyncio.create_task(self._open())
        try:
            link = await self._opening
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return None
        if link is not None:
            self._is_back()
            self._buffer.notify()
        return link

    def _is_back(self) -> None:
        """Report that the service answers."""
        self.away = None
        self.ready.set()

    def _fail(self, error: BrokerError) -> None:
        """Report the receiver as away and fail pending settlements. Their callers ask again."""
        self.away = error
        self.ready.set()
        self._settlements.fail(error)
        self._buffer.notify()

    async def _serve(self, link: ReceiverLink) -> None:
        while not self._closing:
            link.check()
            await self._settlements.carry_out(link)
            due = self._next_renewal()
            if due is not None and due <= time.monotonic():
                await self._renew(link)
                link.check()
            if time.monotonic() - link.last_answer >= QUIET_SECONDS:
                await self._ask(link)
            taken = await self._take(link)
            if self._is_over():
                return
            if taken:
                for _ in range(TURNS):
                    if self._settlements.waiting:
                        break
                    await asyncio.sleep(0)
            if not self._settlements.waiting:
                await self._wait(link)

    # -- steps that differ where the entity has sessions

    async def _open(self) -> ReceiverLink | None:
        """Open a link; None when the caller has to check again what to open. Raises: BrokerError."""
        sdk = self._connection.receiver(self._entity, self._prefetch, credit=self._credit)
        await self._connection.open(sdk, f"read {self.path}", self._connection.config.request_timeout)
        return ReceiverLink(self._connection, self.path, sdk)

    async def _close_link(self, link: ReceiverLink, sound: bool) -> None:
        """Close the SDK receiver. On shutdown, give messages in flight back first. sound: nothing has failed."""
        if self._closing:
            self.partition.revoke()
        elif self._buffer.paused:
            await self._return_buffered(link)
        await self._locks.close(link, final=self._closing)
        await self._connection.close(link.sdk)

    async def _return_buffered(self, link: ReceiverLink) -> None:
        """Give back the messages that were not handed out. The SDK gives back its own when its receiver closes.

        A message that cannot be given back stays locked until its lock expires. It is handed out as lost after the
        pause, and counted.
        """
        kept = []
        for delivery in self._buffer.drop(self.partition):
            if not delivery.lost and await sdk_internals.release(link.sdk, delivery.raw):
                delivery.finish()
            else:
                delivery.mark_lock_lost()
                kept.append(delivery)
        self._buffer.put(kept)

    async def _dispose(self) -> None:
        """Close the resources that `_close_link` keeps."""

    def _is_over(self) -> bool:
        """Return whether this link has done its work and another takes its place.

        A pause ends the link, whose credit would fetch further messages. The next one only settles what is in flight.
        """
        rested, self._was_paused = self._was_paused, self._buffer.paused
        return self._was_paused and not rested

    def _next_renewal(self) -> float | None:
        """Monotonic time at which `_renew` is due next, in seconds; None when no lock is to be renewed."""
        return self._locks.next_due

    async def _renew(self, link: ReceiverLink) -> None:
        """Renew the locks that are due. Raises: BrokerError."""
        await self._locks.renew(link)

    def _admit(self, link: ReceiverLink, raw: ServiceBusReceivedMessage, now: float, wall: float) -> ServiceBusDelivery:
        """Create a delivery from a received message; marked as lost when its lock has already expired.

        now: monotonic seconds.
        wall: seconds since the epoch.
        """
        delivery = self._deliver(raw, None)
        self._locks.admit(delivery, self._buffer.hold(delivery), now, wall)
        return delivery

    def _wants_more(self) -> bool:
        """Return whether more messages are to be read."""
        return self._buffer.room and not self.partition.paused

    def _longest_wait(self, link: ReceiverLink) -> float:
        """Longest duration of a wait, in seconds."""
        return link.last_answer + QUIET_SECONDS - time.monotonic()

    def _lock_lost(self, link: ReceiverLink) -> None:
        """Mark what is lost when a read or a renewal finds that the service does not know the link's lock any more."""

    def _lock_lost_at_settlement(
        self, link: ReceiverLink, delivery: ServiceBusDelivery, error: LockLost
    ) -> BrokerError:
        """See `SettlementQueue`."""
        delivery.mark_lock_lost()
        return error

    # -- reading

    async def _take(self, link: ReceiverLink) -> int:
        """Hand out the messages that the receiver has buffered, even when the buffer is full: they are locked for this
        process.
        """
        count = 0
        while True:
            try:
                found = await link.sdk.receive_messages(TAKEN, max_wait_time=NOTHING)
            except SDK_ERRORS as error:
                raise link.translate(error, "read") from error
            self._add_deliveries(link, found)
            count += len(found)
            if len(found) < TAKEN:
                return count

    def _add_deliveries(self, link: ReceiverLink, found: Sequence[ServiceBusReceivedMessage]) -> None:
        if not found:
            return
        link.record_answer()
        now, wall = link.last_answer, time.time()
        admitted = [self._admit(link, raw, now, wall) for raw in found if self._is_settleable(raw, now)]
        if self._clock.skew:
            # Locks that seem to have expired: the messages cannot be processed and are given back
            admitted = [delivery for delivery in admitted if not delivery.lost]
        else:
            self._locks.trust_clock()
        self._buffer.put(admitted)
        if self._clock.skew:
            raise ClockSkew(str(self._clock))

    def _deliver(self, raw: ServiceBusReceivedMessage, key: bytes | None) -> ServiceBusDelivery:
        """Create a delivery from a received message, readable or not. key: see `messages.received`."""
        size = decoding.size(raw)
        self._buffer.measure(size)
        number, message = raw.sequence_number, messages.received(raw, key)
        if number is None:
            number = self._buffer.substitute_number()
            if message.unreadable is None:
                message = replace(message, unreadable=Unreadable("sequence_number", _UNNUMBERED, key_known=True))
        position = Position(self._connection.access.namespace, self.path, 0, number)
        self.partition.add_message()
        return ServiceBusDelivery(raw, message, position, self.partition, self._settlements, size)

    def _credit(self) -> int:
        """Number of messages that may come now, by the free space and the sizes of earlier messages."""
        return self._buffer.credit(self._prefetch) if self._wants_more() else 0

    def _is_settleable(self, raw: ServiceBusReceivedMessage, now: float) -> bool:
        if sdk_internals.is_settleable(raw):
            return True
        number = raw.sequence_number
        text = (
            f"message {'of unknown number' if number is None else number} came without a delivery id and cannot be "
            "settled; the service delivers it again until its max delivery count is reached. Inspect the message there"
        )
        self._unsettleable = (now, text)
        _log.error("%s: %s", self.path, text)
        return False

    # -- waiting

    async def _wait(self, link: ReceiverLink) -> None:
        """Wait until a message comes, a settlement is requested or a lock is due for renewal."""
        self._woken.clear()
        if self._closing or self._settlements.waiting:
            return
        limit = self._longest_wait(link)
        due = self._next_renewal()
        if due is not None:
            limit = min(limit, due - time.monotonic())
        limit = max(0.0, limit)
        if not self._wants_more():
            try:
                await sdk_internals.authorize(link.sdk)
            except SDK_ERRORS as error:
                raise link.translate(error, "renew the claim to") from error
            await self._pause(min(limit, IDLE_READ))
            return
        # Set at each wait: an SDK of an unknown version may create another connection by itself
        sdk_internals.set_read_timeout(link.sdk, IDLE_READ)
        loop = asyncio.get_running_loop()
        # One message: any others are taken afterwards without waiting. The receiver's buffer is empty now, and a
        # cancellation loses nothing.
        reading = asyncio.create_task(link.sdk.receive_messages(1, max_wait_time=limit + 1.0))
        self._reading = reading
        alarm = loop.call_later(limit, self.wake)
        try:
            await asyncio.wait([reading])
        finally:
            alarm.cancel()
            self._reading = None
            if not reading.done():
                await cancelled(reading)
        if reading.cancelled():
            return
        problem = reading.exception()
        if problem is not None:
            if isinstance(problem, SDK_ERRORS):
                raise link.translate(problem, "read") from problem
            raise problem
        self._add_deliveries(link, reading.result())

    async def _ask(self, link: ReceiverLink) -> None:
        """Query the service by peeking.

        A connection with a dead peer is as silent as an empty queue, and so is a link that the service has forgotten.
        """
        first = 1 + self._buffer.last_held(self.path)
        try:
            found = await link.sdk.peek_messages(PEEKED, sequence_number=first, timeout=link.timeout)
        except SDK_ERRORS as error:
            raise link.translate(error, "ask about") from error
        link.record_answer()
        waiting = next((each.sequence_number for each in found if each.state is ServiceBusMessageState.ACTIVE), None)
        known, self._waiting = self._waiting, waiting
        if waiting is not None and waiting == known and self._wants_more():
            # Another consumer may have held the message for all this time: a new link does no harm then
            self._waiting = None
            raise BrokerUnavailable(f"{self.path}: message {waiting} waits, but the link delivers nothing")

    async def _pause(self, seconds: float) -> None:
        self._woken.clear()
        if self._closing or self._settlements.waiting:
            return
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            return


def _cancel_read(reading: asyncio.Task[Any]) -> None:
    """Cancel a read repeatedly: Python 3.11 swallows a cancellation that coincides with the end of the read."""
    if not reading.done():
        reading.cancel()
        asyncio.get_running_loop().call_later(0.002, _cancel_read, reading)
