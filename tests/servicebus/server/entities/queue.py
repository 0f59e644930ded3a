"""Queue, subscription or dead-letter queue: ingress, delivery, expiry."""

from __future__ import annotations

import asyncio
import heapq
import uuid
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

from tests.servicebus.server.clock import Clock, is_due
from tests.servicebus.server.config import QueueConfig
from tests.servicebus.server.counters import Counters, DeadLetter
from tests.servicebus.server.entities.consumer import Consumer
from tests.servicebus.server.entities.duplicates import Duplicates
from tests.servicebus.server.entities.limits import PropertyLimits
from tests.servicebus.server.entities.line import Line
from tests.servicebus.server.entities.sessions import Sessions
from tests.servicebus.server.errors import Refusal, message_not_found, not_allowed
from tests.servicebus.server.message import ACTIVE, DEFERRED, SCHEDULED, Message

DEAD_LETTERS = "$deadletterqueue"


@dataclass(frozen=True)
class Contents:
    """Number of messages in each state."""

    active: int
    locked: int
    deferred: int
    scheduled: int
    dead_letters: int

    @property
    def unsettled(self) -> int:
        """Number of messages that still have to be received or settled."""
        return self.active + self.locked


class Queue:
    """Queue of messages. path: as configured. key: the path in lower case, used by the counters."""

    def __init__(
        self,
        path: str,
        config: QueueConfig,
        clock: Clock,
        counters: Counters,
        limits: PropertyLimits | None = None,
        *,
        dead_letters: bool = False,
    ) -> None:
        self.path, self.key, self.config = path, path.lower(), config
        self.clock, self.counters, self.limits = clock, counters, limits
        self.ready = Line()
        """Messages ready for delivery; empty in a queue with sessions, where each session has its own line."""
        self.locked: dict[uuid.UUID, Message] = {}
        self.deferred: dict[int, Message] = {}
        self.scheduled: dict[int, Message] = {}
        self.sessions: Sessions | None = None
        if config.requires_session:
            self.sessions = Sessions(self.key, config.lock_duration, clock, counters, self._session_returns)
        self.dead_letters: Queue | None = None
        if not dead_letters:
            plain = replace(config, requires_session=False, duplicate_detection=0.0)
            self.dead_letters = Queue(f"{path}/{DEAD_LETTERS}", plain, clock, counters, limits, dead_letters=True)
        self._consumers: deque[Consumer] = deque()
        self._duplicates = Duplicates(int(config.duplicate_detection * 1000))
        self._last_sequence_number = 0
        self._pump_is_due = False

    def __len__(self) -> int:
        """Number of messages in any state."""
        return sum(1 for _ in self._all())

    # Ingress

    def check(self, message: Message) -> None:
        """Check whether a send of the message is allowed. Raises: the refusal of the send."""
        if self.sessions is not None and message.session_id is None:
            raise not_allowed("The SessionId was not set on a message, and it cannot be sent to the entity.")
        if self.limits is not None:
            self.limits.check(message)

    def accept(self, message: Message, enqueued_sequence_number: int = 0) -> int:
        """Store a message. Returns its sequence number; 0 for a duplicate."""
        self.check(message)
        now = self.clock.now()
        if self._duplicates.seen(message.message_id, now):
            self.counters.duplicates[self.key] += 1
            return 0
        self._last_sequence_number += 1
        message.sequence_number = self._last_sequence_number
        message.enqueued_sequence_number = enqueued_sequence_number or message.sequence_number
        message.enqueued = now
        self.counters.accepted[self.key] += 1
        if message.scheduled_for and message.scheduled_for > now:
            message.state = SCHEDULED
            self.scheduled[message.sequence_number] = message
            message.timer = self.clock.at(message.scheduled_for, self._due, message)
        else:
            self._activate(message, now)
        return message.sequence_number

    def cancel(self, sequence_numbers: list[int]) -> None:
        """Cancel scheduled messages, all or none. Raises: message-not-found."""
        for number in sequence_numbers:
            if number not in self.scheduled:
                raise message_not_found(number)
        for number in sequence_numbers:
            _stop(self.scheduled.pop(number))

    def _due(self, message: Message) -> None:
        if self.scheduled.pop(message.sequence_number, None) is not None:
            self._activate(message, self.clock.now())

    def _activate(self, message: Message, now: int) -> None:
        message.state, message.enqueued = ACTIVE, now
        own, default = message.ttl, self.config.default_ttl
        limit = None if default is None else int(default * 1000)
        ttl = min((t for t in (own, limit) if t is not None), default=None)
        message.expires = None if ttl is None else now + ttl
        self.make_ready(message)

    def make_ready(self, message: Message) -> None:
        """Make a message ready for delivery, at the position of its sequence number."""
        _stop(message)
        message.token = None
        if message.expires is not None:
            message.timer = self.clock.at(message.expires, self._expire, message)
        if self.sessions is None:
            self.ready.add(message)
        else:
            assert message.session_id is not None
            session = self.sessions.get(message.session_id)
            session.line.add(message)
            self.sessions.offer(session)
        self.kick()

    def _expire(self, message: Message) -> None:
        """Expire a message whose time to live ended while it waited; a locked message stays with its receiver."""
        line = self.ready
        if self.sessions is not None:
            line = self.sessions.get(str(message.session_id)).line
        if line.discard(message):
            self.counters.expired_messages[self.key] += 1
            if self.config.dead_letter_on_expiration:
                self.bury(message, "TTLExpiredException", "The message expired and was dead lettered.")

    def bury(self, message: Message, reason: str | None, description: str | None) -> None:
        """Move a message to the dead-letter queue; sequence number and delivery count are kept."""
        assert self.dead_letters is not None
        _stop(message)
        message.token, message.state, message.was_deferred, message.expires = None, ACTIVE, False, None
        message.dead_letter_reason, message.dead_letter_description = reason, description
        dead_letter = DeadLetter(
            self.key, str(message.message_id), message.sequence_number, message.delivery_count, reason, description
        )
        self.counters.dead_letters.append(dead_letter)
        self.dead_letters.make_ready(message)

    def _session_returns(self, message: Message, counted: bool) -> None:
        if message.token is not None:
            self.locked.pop(message.token, None)
        self.give_back(message, counted=counted)

    def give_back(self, message: Message, *, counted: bool) -> None:
        """Return an unlocked message to the queue.

        counted: the delivery count increases; a message that reaches the maximum is dead-lettered.
        """
        message.token = None
        if counted:
            message.delivery_count += 1
            if self.dead_letters is not None and message.delivery_count >= self.config.max_delivery_count:
                self.bury(
                    message,
                    "MaxDeliveryCountExceeded",
                    f"Message could not be consumed after {message.delivery_count} delivery attempts.",
                )
                return
        if message.was_deferred:
            _stop(message)
            message.state = DEFERRED
            self.deferred[message.sequence_number] = message
        else:
            self.make_ready(message)

    # Delivery

    def add_consumer(self, consumer: Consumer) -> None:
        self._consumers.append(consumer)
        self.kick()

    def remove_consumer(self, consumer: Consumer) -> None:
        if consumer in self._consumers:
            self._consumers.remove(consumer)
        if self.sessions is not None:
            self.sessions.leave(consumer)

    def detach_all(self, refusal: Refusal) -> int:
        """Detach every receiver with the refusal. Returns their number."""
        consumers = list(self._consumers)
        for consumer in consumers:
            consumer.detach(refusal)
        return len(consumers)

    def mute_all(self) -> int:
        """Stop deliveries to the present receivers without notice. Returns their number."""
        for consumer in self._consumers:
            consumer.mute()
        return len(self._consumers)

    def kick(self) -> None:
        """Schedule a delivery run on the event loop."""
        if not self._pump_is_due and self._consumers:
            self._pump_is_due = True
            asyncio.get_running_loop().call_soon(self.pump)

    def pump(self) -> None:
        """Deliver ready messages; receivers take turns."""
        self._pump_is_due = False
        if self.sessions is not None:
            for consumer in list(self._consumers):
                while consumer.session_lock is not None and consumer.session_lock.line and consumer.wants():
                    self._hand(consumer, consumer.session_lock.line)
            return
        unwilling = 0
        while self.ready and unwilling < len(self._consumers):
            consumer = self._consumers[0]
            self._consumers.rotate(-1)
            if consumer.wants():
                unwilling = 0
                self._hand(consumer, self.ready)
            else:
                unwilling += 1

    def _hand(self, consumer: Consumer, line: Line) -> None:
        message = line.pop()
        if message is None:
            return
        _stop(message)
        if not consumer.deletes:
            self.lock(message, consumer)
        self.counters.deliveries[self.key] += 1
        consumer.deliver(message)

    def lock(self, message: Message, consumer: Consumer | None = None) -> None:
        """Lock a message under a new token. consumer: None: the holder of the message's session."""
        message.token = uuid.uuid4()
        self.locked[message.token] = message
        session = consumer.session_lock if consumer is not None else None
        if session is None and self.sessions is not None:
            session = self.sessions.held(str(message.session_id))
        if session is not None:
            message.locked_until = session.locked_until
            session.locked[message.token] = message
        else:
            self.start_lock(message)

    def start_lock(self, message: Message) -> int:
        """Start the lock for its whole duration. Returns its end in milliseconds."""
        _stop(message)
        message.locked_until = self.clock.now() + int(self.config.lock_duration * 1000)
        message.timer = self.clock.at(message.locked_until, self.expire_lock, message)
        return message.locked_until

    def held(self, token: uuid.UUID) -> Message | None:
        """Return the message under this lock. A lock ends at its time, even when the loop runs its timer late."""
        message = self.locked.get(token)
        if message is None:
            return None
        if self.sessions is not None:
            session = self.sessions.get(str(message.session_id))
            if session.timer is not None and is_due(session.timer):
                self.sessions.expire(session)
        elif message.timer is not None and is_due(message.timer):
            self.expire_lock(message)
        return self.locked.get(token)

    def end_lock(self, token: uuid.UUID) -> None:
        """End the lock if it still exists."""
        if (message := self.locked.get(token)) is not None:
            self.expire_lock(message)

    def expire_lock(self, message: Message) -> None:
        if message.token is not None and self.locked.pop(message.token, None) is not None:
            self.counters.expired_locks[self.key] += 1
            self.give_back(message, counted=True)

    # Content

    def contents(self) -> Contents:
        active = len(self.ready) + sum(len(session.line) for session in self.sessions or ())
        dead = 0 if self.dead_letters is None else len(self.dead_letters)
        return Contents(active, len(self.locked), len(self.deferred), len(self.scheduled), dead)

    def browse(self, from_sequence_number: int, count: int, session_id: str | None = None) -> list[Message]:
        """Return messages by sequence number, without locks."""
        found = (
            message
            for message in self._all()
            if message.sequence_number >= from_sequence_number
            and (session_id is None or message.session_id == session_id)
        )
        return heapq.nsmallest(count, found, key=lambda message: message.sequence_number)

    def _all(self) -> Iterator[Message]:
        yield from self.ready
        if self.sessions is not None:
            for session in self.sessions:
                yield from session.line
        for group in (self.locked, self.deferred, self.scheduled):
            yield from group.values()

    def clear(self) -> None:
        """Remove all messages and forget the message ids of duplicate detection."""
        for message in list(self._all()):
            _stop(message)
        self.ready = Line()
        for session in self.sessions or ():
            session.line, session.locked, session.state, session.state_set = Line(), {}, None, 0
            assert self.sessions is not None
            self.sessions.forget(session)
        self.locked.clear()
        self.deferred.clear()
        self.scheduled.clear()
        self._duplicates = Duplicates(int(self.config.duplicate_detection * 1000))
        if self.dead_letters is not None:
            self.dead_letters.clear()


def _stop(message: Message) -> None:
    if message.timer is not None:
        message.timer.cancel()
        message.timer = None
