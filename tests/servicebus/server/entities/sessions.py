"""Sessions of a queue: their holders, and receivers that wait for a session."""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import Callable, Iterator

from tests.servicebus.server.clock import Clock, is_due
from tests.servicebus.server.counters import Counters
from tests.servicebus.server.entities.consumer import Consumer
from tests.servicebus.server.entities.line import Line
from tests.servicebus.server.errors import refusal, session_lock_lost
from tests.servicebus.server.message import Message


class MessageSession:
    """Message session.

    locked: messages that its holder has locked. state_set: last change of its state, in milliseconds; 0: never.
    """

    __slots__ = ("id", "line", "locked", "locked_until", "owner", "state", "state_set", "timer")

    def __init__(self, id_: str) -> None:
        self.id = id_
        self.line = Line()
        self.locked: dict[uuid.UUID, Message] = {}
        self.state: bytes | None = None
        self.state_set = 0
        self.owner: Consumer | None = None
        self.locked_until = 0
        self.timer: asyncio.TimerHandle | None = None


class Sessions:
    """Sessions of one queue.

    give_back: called with each message of a released session, and whether the delivery counts.
    """

    def __init__(
        self,
        key: str,
        lock_duration: float,
        clock: Clock,
        counters: Counters,
        give_back: Callable[[Message, bool], None],
    ) -> None:
        self._key, self._duration = key, int(lock_duration * 1000)
        self._clock, self._counters, self._requeue = clock, counters, give_back
        self._by_id: dict[str, MessageSession] = {}
        self._waiting: deque[Consumer] = deque()
        self._available: dict[str, MessageSession] = {}
        """Free sessions with messages, the longest free first; sessions are therefore granted in turn."""

    def __iter__(self) -> Iterator[MessageSession]:
        return iter(list(self._by_id.values()))

    def get(self, id_: str) -> MessageSession:
        """Return the session; create a missing one."""
        session = self._by_id.get(id_)
        if session is None:
            session = self._by_id[id_] = MessageSession(id_)
        return session

    def held(self, id_: str) -> MessageSession:
        """Return a held session. Raises: session-lock-lost when no receiver holds the session."""
        session = self._by_id.get(id_)
        if session is not None and session.timer is not None and is_due(session.timer):
            self.expire(session)
        if session is None or session.owner is None:
            raise session_lock_lost()
        return session

    def set_state(self, session: MessageSession, state: bytes | None) -> None:
        session.state, session.state_set = state, self._clock.now()

    def ids(self, state_set_after: int | None = None) -> list[str]:
        """Return the ids of sessions with messages or a state.

        state_set_after: only sessions whose state was set after this moment, in milliseconds.
        """
        if state_set_after is not None:
            return sorted(s.id for s in self._by_id.values() if s.state_set > state_set_after)
        return sorted(s.id for s in self._by_id.values() if s.line or s.locked or s.state is not None)

    def offer(self, session: MessageSession) -> None:
        """Mark a session with messages as available when no receiver holds it."""
        if session.owner is None and session.line:
            self._available.setdefault(session.id, session)
            self._assign_sessions()

    def accept(self, id_: str, consumer: Consumer) -> None:
        """Lock a session for a receiver. Raises: session-cannot-be-locked."""
        session = self.get(id_)
        if session.owner is not None:
            raise refusal(
                "com.microsoft:session-cannot-be-locked",
                f"The requested session '{id_}' cannot be accepted. It may be locked by another receiver.",
            )
        self._lock(session, consumer)

    def wait(self, consumer: Consumer) -> None:
        """Queue a receiver for the next free session; `granted` is called at once when a session is free."""
        self._waiting.append(consumer)
        self._assign_sessions()

    def leave(self, consumer: Consumer) -> None:
        """End a receiver's wait, or release its session; the messages return with unchanged delivery count."""
        if consumer in self._waiting:
            self._waiting.remove(consumer)
        session, consumer.session_lock = consumer.session_lock, None
        if session is not None and session.owner is consumer:
            self._release(session, counted=False)

    def renew(self, session: MessageSession) -> int:
        """Renew the lock of a session. Returns its new end in milliseconds."""
        if session.timer is not None:
            session.timer.cancel()
        session.locked_until = self._clock.now() + self._duration
        session.timer = self._clock.at(session.locked_until, self.expire, session)
        for message in session.locked.values():
            message.locked_until = session.locked_until
        return session.locked_until

    def expire(self, session: MessageSession) -> None:
        """Expire the lock of a session and detach its holder."""
        owner = session.owner
        if owner is None:
            return
        self._counters.expired_session_locks[self._key] += 1
        owner.session_lock = None
        self._release(session, counted=True)
        owner.detach(session_lock_lost())

    def forget(self, session: MessageSession) -> None:
        """Drop a session without holder, messages and state."""
        if session.owner is None and not session.line and not session.locked and session.state is None:
            self._by_id.pop(session.id, None)

    def _assign_sessions(self) -> None:
        while self._waiting and self._available:
            session = self._available.pop(next(iter(self._available)))
            if session.owner is None and session.line:
                consumer = self._waiting.popleft()
                self._lock(session, consumer)
                consumer.granted(session)

    def _lock(self, session: MessageSession, consumer: Consumer) -> None:
        self._available.pop(session.id, None)
        session.owner, consumer.session_lock = consumer, session
        self._counters.granted_sessions[self._key] += 1
        self.renew(session)

    def _release(self, session: MessageSession, *, counted: bool) -> None:
        session.owner = None
        if session.timer is not None:
            session.timer.cancel()
        held, session.locked = list(session.locked.values()), {}
        for message in held:
            self._requeue(message, counted)
        self.offer(session)
        self.forget(session)
