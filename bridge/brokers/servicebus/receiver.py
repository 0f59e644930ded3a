"""One receiver of the SDK and the only task that uses it."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from dataclasses import replace
from typing import Any

from azure.servicebus import ServiceBusMessageState, ServiceBusReceivedMessage
from azure.servicebus.aio import ServiceBusReceiver

from bridge.brokers.servicebus import attaching, messages, sdk_internals, transport
from bridge.brokers.servicebus.clock import Clock
from bridge.brokers.servicebus.connection import FOREIGN, IDLE_READ, Connection
from bridge.brokers.servicebus.dead_letters import DeadLetterQueue
from bridge.brokers.servicebus.delivery import Request, ServiceBusDelivery
from bridge.brokers.servicebus.entity import EntityPath
from bridge.brokers.servicebus.inbox import Inbox
from bridge.brokers.servicebus.locks import MessageLocks
from bridge.brokers.servicebus.partition import ServiceBusPartition
from bridge.brokers.servicebus.renewals import Renewals
from bridge.brokers.servicebus.settlements import Settlements
from bridge.core.errors import BrokerError, BrokerUnavailable, ClockSkew, LockLost
from bridge.core.message import Position, Unreadable

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


class Receiver:
    """Reads messages of one entity without sessions, renews their locks and settles them.

    In the SDK, reads and writes of a connection share one lock, and a read holds this lock until a message comes.
    Therefore one task does everything in turns: take, renew, settle, wait. A settlement request ends the wait. A fault
    that affects the connection ends the receiver. The next receiver takes over the messages in flight, since locks of
    messages survive their connection.
    """

    def __init__(
        self,
        *,
        connection: Connection,
        path: str,
        number: int,
        prefetch: int,
        inbox: Inbox,
        clock: Clock,
        dead_letter_queue: DeadLetterQueue | None,
    ) -> None:
        self.connection = connection
        self.path = path
        self.dead_letter_queue = dead_letter_queue
        self.entity = EntityPath.parse(path)
        self.prefetch = prefetch
        self.inbox = inbox
        self.clock = clock
        self.number = number
        self.partition = ServiceBusPartition(path, number, self.wake)
        self.away: BrokerError | None = None
        """Reason for which nothing can be read at the moment."""
        self.ready = asyncio.Event()
        """Set after the first attempt to connect has succeeded or failed."""
        self.reconnects = 0
        self.closing = False
        self.renewals = 0
        self.last_service_response = 0.0
        """Time of the last answer of the service, in monotonic seconds."""
        self.broken: BrokerError | None = None
        """Error that made the present connection useless."""
        self.unsettleable = 0
        """Number of messages that came without a delivery id and cannot be settled."""
        self._unsettleable: tuple[float, str] | None = None
        self._waiting: int | None = None
        """Sequence number of a message that waited at the last query of the service."""
        self._locks = MessageLocks()
        self._renewals = Renewals(self, self._locks)
        self._nameless: list[ServiceBusDelivery] = []
        self._unusable: list[ServiceBusReceivedMessage] = []
        """Unsettled messages whose locks had expired on arrival by the local clock."""
        self._settlements = Settlements(self)
        self._link: ServiceBusReceiver | None = None
        self._opening: asyncio.Task[ServiceBusReceiver | None] | None = None
        self._reading: asyncio.Task[Any] | None = None
        self._woken = asyncio.Event()

    # -- calls from outside

    async def settle(self, request: Request) -> None:
        """Return when the service has confirmed the settlement.

        Raises: LockLost, BrokerUnavailable (the result is unknown: try again).
        """
        if self._link is None and self.away is not None:
            raise BrokerUnavailable(str(self.away))
        self._settlements.add(request)
        self.wake()
        await request.done

    def wake(self) -> None:
        """Wake the task because there is work."""
        if not self._woken.is_set():
            self._woken.set()
            if self._reading is not None:
                _cancel_read(self._reading)

    def close(self) -> None:
        """Let `run` end."""
        self.closing = True
        if self._opening is not None:
            self._opening.cancel()
        self.wake()

    spare = False
    """True for a receiver that can do without a connection where a namespace allows few of them."""

    def give_way(self) -> None:
        """Give way to another receiver that needs the connection; does nothing in a receiver without sessions."""

    # -- the task

    async def run(self) -> None:
        """Run until the receiver is closed. Never raises, neither for service faults nor for unexpected errors."""
        failures = 0
        while not self.closing:
            try:
                link = await self._connect()
                if link is None:
                    continue
                begun = time.monotonic()
                sound = False
                try:
                    await self._serve(link)
                    sound = True
                finally:
                    if time.monotonic() - begun > STEADY_SECONDS:
                        failures = 0
                    self._link = None
                    # Fail pending settlements before `close_link`, which may wait for their callers
                    self._settlements.fail(BrokerUnavailable(f"{self.path}: the receiver was closed"))
                    await self.close_link(link, sound)
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
        await self.dispose()
        self._fail(BrokerUnavailable(f"{self.path}: the subscription is closed"))

    async def _connect(self) -> ServiceBusReceiver | None:
        """Open a receiver and make it the current one; None when there is none. Raises: BrokerError."""
        if not self.clock.reset_skew():
            self._fail(ClockSkew(str(self.clock)))
            await self._pause(1.0)
            return None
        self._opening = asyncio.create_task(self.open())
        try:
            link = await self._opening
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return None
        if link is not None:
            self._link, self.broken, self.away = link, None, None
            self.last_service_response = time.monotonic()
            self.ready.set()
            self.inbox.notify()
        return link

    async def open(self) -> ServiceBusReceiver | None:
        """Open a receiver; None when the caller has to check again what to open. Raises: BrokerError."""
        link = self.connection.receiver(self.entity, self.prefetch, credit=self.credit)
        await self.connection.open(link, f"read {self.path}", self.connection.config.request_timeout)
        return link

    async def dispose(self) -> None:
        """Close the resources that `close_link` keeps."""

    async def close_link(self, link: ServiceBusReceiver, sound: bool) -> None:
        """Close the SDK receiver. On shutdown, give messages in flight back first. sound: nothing has failed."""
        if self.closing:
            self.partition.revoked = True
            for delivery in list(self._locks):
                await sdk_internals.release(link, delivery.raw)
                delivery.finish()
            self._locks.clear()
        nameless, self._nameless = self._nameless, []
        for delivery in nameless:
            delivery.mark_lock_lost()
        unusable, self._unusable = self._unusable, []
        if self.clock.skew:
            for raw in unusable:
                await sdk_internals.release(link, raw)
        await self.connection.close(link)

    def over(self) -> bool:
        """Return whether this receiver has finished and another takes its place."""
        return False

    async def renew(self, link: ServiceBusReceiver) -> None:
        """Renew the locks that are due. Raises: BrokerError when the connection is broken."""
        await self._renewals.renew(link)
        self._check()

    def next_renewal(self) -> float | None:
        """Monotonic time at which `renew` is due next, in seconds; None when no lock is to be renewed."""
        return self._locks.next_due

    def admit(self, raw: ServiceBusReceivedMessage, now: float, wall: float) -> ServiceBusDelivery:
        """Create a delivery from a received message; marked as lost when its lock has already expired.

        now: monotonic seconds. wall: seconds since the epoch.
        """
        delivery = self.deliver(raw)
        before = self.inbox.hold(delivery)
        if before is not None and self.clock.lost(before.remaining(wall)):
            self._locks.renew_all_now(now)
        remaining = delivery.remaining(wall)
        self.clock.received(delivery.message.timestamp, remaining, wall)
        if not transport.has_token(raw):
            # A lock without a token cannot be renewed, and its message can be settled on its own link only
            self._nameless.append(delivery)
            return delivery
        if remaining > 0:
            self._locks.add(delivery, self.clock.usable(remaining), now)
        else:
            self.clock.expired(-remaining)
            delivery.mark_lock_lost()
            self._unusable.append(raw)
        return delivery

    # -- the loop

    async def _serve(self, link: ServiceBusReceiver) -> None:
        while not self.closing:
            self._check()
            await self._settlements.carry_out(link)
            due = self.next_renewal()
            if due is not None and due <= time.monotonic():
                await self.renew(link)
            if time.monotonic() - self.last_service_response >= QUIET_SECONDS:
                await self._ask(link)
            taken = await self.take(link)
            if self.over():
                return
            if taken:
                for _ in range(TURNS):
                    if self._settlements.waiting:
                        break
                    await asyncio.sleep(0)
            if not self._settlements.waiting:
                await self._wait(link)

    async def take(self, link: ServiceBusReceiver) -> int:
        """Hand out the messages that the receiver has buffered, even when the inbox is full: they are locked for this
        process.
        """
        count = 0
        while True:
            try:
                found = await link.receive_messages(TAKEN, max_wait_time=NOTHING)
            except FOREIGN as error:
                raise self.translate(error, "read") from error
            self._hand_out(found)
            count += len(found)
            if len(found) < TAKEN:
                return count

    def _hand_out(self, found: list[ServiceBusReceivedMessage]) -> None:
        if not found:
            return
        now, wall = time.monotonic(), time.time()
        self.last_service_response = now
        admitted = [self.admit(raw, now, wall) for raw in found if self._settleable(raw, now)]
        if self.clock.skew:
            # Locks that seem to have expired: the messages cannot be processed and are given back
            admitted = [delivery for delivery in admitted if not delivery.lost]
        else:
            self._unusable.clear()
        self.inbox.put(admitted)
        if self.clock.skew:
            raise ClockSkew(str(self.clock))

    def deliver(self, raw: ServiceBusReceivedMessage) -> ServiceBusDelivery:
        """Create a delivery from a received message, readable or not."""
        size = transport.size(raw)
        self.inbox.measure(size)
        number, message = raw.sequence_number, messages.received(raw, self.key)
        if number is None:
            # No sequence number from the service: each such message gets a number of its own
            self.inbox.unnumbered += 1
            number = -self.inbox.unnumbered
            if message.unreadable is None:
                message = replace(message, unreadable=Unreadable("sequence_number", _UNNUMBERED, key_known=True))
        position = Position(self.connection.access.namespace, self.path, 0, number)
        self.partition.taken()
        return ServiceBusDelivery(raw, message, position, self.partition, self, size)

    @property
    def key(self) -> bytes | None:
        """Ordering key of all messages; None where each message has its own."""
        return None

    def credit(self) -> int:
        """Number of messages that may come now, by the free space and the sizes of earlier messages."""
        return self.inbox.credit(self.prefetch) if self.wanted() else 0

    def _settleable(self, raw: ServiceBusReceivedMessage, now: float) -> bool:
        if transport.settleable(raw):
            return True
        number = raw.sequence_number
        text = (
            f"message {'of unknown number' if number is None else number} came without a delivery id and cannot be "
            "settled; the service delivers it again until its max delivery count is reached. Inspect the message there"
        )
        self.unsettleable += 1
        self._unsettleable = (now, text)
        _log.error("%s: %s", self.path, text)
        return False

    def trouble(self) -> str | None:
        """Text for a person: why nothing can be read, or which message cannot be settled; None without such a
        problem.
        """
        if self.away is not None:
            return str(self.away)
        if self._unsettleable is not None and time.monotonic() - self._unsettleable[0] < SHOWN_SECONDS:
            return self._unsettleable[1]
        return None

    async def _wait(self, link: ServiceBusReceiver) -> None:
        """Wait until a message comes, a settlement is requested or a lock is due for renewal."""
        self._woken.clear()
        if self.closing or self._settlements.waiting:
            return
        due = self.next_renewal()
        limit = self.read_timeout() if due is None else min(self.read_timeout(), due - time.monotonic())
        limit = max(0.0, limit)
        if not self.wanted():
            try:
                await attaching.authorize(link)
            except FOREIGN as error:
                raise self.translate(error, "renew the claim to") from error
            await self._pause(min(limit, IDLE_READ))
            return
        # Set at each wait: an SDK of an unknown version may create another connection by itself
        sdk_internals.set_read_timeout(link, IDLE_READ)
        loop = asyncio.get_running_loop()
        # One message: any others are taken afterwards without waiting. The receiver's buffer is empty now, and a
        # cancellation loses nothing.
        reading = asyncio.create_task(link.receive_messages(1, max_wait_time=limit + 1.0))
        self._reading = reading
        alarm = loop.call_later(limit, self.wake)
        try:
            await asyncio.wait([reading])
        finally:
            alarm.cancel()
            self._reading = None
            if not reading.done():
                reading.cancel()
                await asyncio.wait([reading])
        if reading.cancelled():
            return
        problem = reading.exception()
        if problem is not None:
            if isinstance(problem, FOREIGN):
                raise self.translate(problem, "read") from problem
            raise problem
        self._hand_out(reading.result())

    def wanted(self) -> bool:
        """Return whether more messages are to be read."""
        return self.inbox.room and not self.partition.paused

    def read_timeout(self) -> float:
        """Longest duration of a wait, in seconds."""
        return self.last_service_response + QUIET_SECONDS - time.monotonic()

    async def _ask(self, link: ServiceBusReceiver) -> None:
        """Query the service by peeking.

        A connection with a dead peer is as silent as an empty queue, and so is a link that the service has forgotten.
        """
        first = 1 + max((number for path, number in self.inbox.held if path == self.path), default=0)
        try:
            found = await link.peek_messages(
                PEEKED, sequence_number=first, timeout=self.connection.config.request_timeout
            )
        except FOREIGN as error:
            raise self.translate(error, "ask about") from error
        self.last_service_response = time.monotonic()
        waiting = next((each.sequence_number for each in found if each.state is ServiceBusMessageState.ACTIVE), None)
        known, self._waiting = self._waiting, waiting
        if waiting is not None and waiting == known and self.wanted():
            # Another consumer may have held the message for all this time: a new link does no harm then
            self._waiting = None
            raise BrokerUnavailable(f"{self.path}: message {waiting} waits, but the link delivers nothing")

    async def _pause(self, seconds: float) -> None:
        self._woken.clear()
        if self.closing or self._settlements.waiting:
            return
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            return

    # -- faults

    def mark_lock_lost(self, delivery: ServiceBusDelivery, error: LockLost) -> BrokerError:
        """Mark a delivery whose lock the service does not know any more; return the error for the caller of the
        settlement.
        """
        delivery.mark_lock_lost()
        return error

    def _check(self) -> None:
        if self.broken is not None:
            raise self.broken

    def _fail(self, error: BrokerError) -> None:
        """Report the receiver as away and fail pending settlements. Their callers ask again."""
        self.away = error
        self.ready.set()
        self._settlements.fail(error)
        self.inbox.notify()

    def translate(self, error: BaseException, what: str) -> BrokerError:
        """Translate an SDK error raised at this entity into an error of the bridge."""
        return self.connection.translate(error, f"{what} {self.path}", path=self.path)


def _cancel_read(reading: asyncio.Task[Any]) -> None:
    """Cancel a read repeatedly: Python 3.11 swallows a cancellation that coincides with the end of the read."""
    if not reading.done():
        reading.cancel()
        asyncio.get_running_loop().call_later(0.002, _cancel_read, reading)
