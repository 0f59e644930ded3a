"""What goes wrong on purpose: faults that wait at a step, and conditions of the whole server.

Every call here is also reachable from another process (see control.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from tests.servicebus.server.entities.namespace import Namespace
from tests.servicebus.server.entities.queue import Queue
from tests.servicebus.server.errors import Refusal, refusal, server_busy


class Step(StrEnum):
    """Where it strikes: each is before the server acts; those in the past tense after it acted, before it says so."""

    CONNECT = "connect"
    SASL = "sasl"
    OPEN = "open"
    BEGIN = "begin"
    CLAIM = "claim"
    ATTACH = "attach"
    ATTACHED = "attached"
    FLOW = "flow"
    DELIVER = "deliver"
    DELIVERED = "delivered"  # the message is on its way to the client
    SETTLE = "settle"
    SETTLED = "settled"
    ECHOED = "echoed"  # the answer to a settlement is on its way
    SEND = "send"
    STORED = "stored"
    MANAGE = "manage"
    MANAGED = "managed"
    DETACH = "detach"
    CLOSE = "close"


class Action(StrEnum):
    """DROP: the connection is gone. CUT: it is gone in the middle of the last frame that was written. CLOSE: it is
    closed with the condition. DETACH: the link is detached with it. REJECT: the step is refused with it. SWALLOW: the
    step is not done, or after the act: never answered. FREEZE: nothing is read or written on the connection for
    `seconds`. LOSE: the message's lock is lost first.
    """

    DROP = "drop"
    CUT = "cut"
    CLOSE = "close"
    DETACH = "detach"
    REJECT = "reject"
    SWALLOW = "swallow"
    FREEZE = "freeze"
    LOSE = "lose"


@dataclass
class Fault:
    """entity: the path it waits at, in whatever case; None: at all. operation: of $management, such as `renew-lock`.

    skip: how often the step passes before. times: how often it strikes; -1: for ever. hits: how often it did.
    """

    step: Step
    action: Action
    entity: str | None = None
    condition: str | None = None
    description: str = "A fault was injected."
    seconds: float = 0.0
    skip: int = 0
    times: int = 1
    operation: str | None = None
    hits: int = 0

    def refusal(self) -> Refusal:
        return refusal(self.condition or "amqp:internal-error", self.description)


class Connections(Protocol):
    """What faults can do to the connections of the moment."""

    def drop(self, entity: str | None) -> int: ...

    def freeze(self, seconds: float | None) -> None: ...

    def thaw(self) -> None: ...

    def close(self, condition: str | None, description: str) -> int: ...


class Faults:
    """round_trip: seconds added between client and server. bytes_per_second: 0: as fast as it goes."""

    def __init__(self, namespace: Namespace, connections: Connections, set_skew: Callable[[float], None]) -> None:
        self._namespace, self._connections, self._set_skew = namespace, connections, set_skew
        self.waiting: list[Fault] = []
        self.round_trip = 0.0
        self.bytes_per_second = 0.0
        self._busy: dict[str | None, float] = {}
        self.frozen_until: float | None = None

    # Faults at a step

    def add(self, step: Step | str, action: Action | str, **details: Any) -> Fault:
        """See Fault for the details. Faults of one step strike one after the other."""
        fault = Fault(Step(step), Action(action), **details)
        self.waiting.append(fault)
        return fault

    def take(self, step: Step, path: str, operation: str | None = None) -> Fault | None:
        """The fault that strikes now."""
        for fault in self.waiting:
            if fault.step is not step or (fault.entity is not None and fault.entity.lower() != path.lower()):
                continue
            if fault.operation is not None and fault.operation != operation:
                continue
            if fault.skip > 0:
                fault.skip -= 1
                continue
            fault.hits += 1
            if fault.hits == fault.times:
                self.waiting.remove(fault)
            return fault
        return None

    def clear(self) -> None:
        """No faults, not busy, not frozen, no delays, no skew."""
        self.waiting.clear()
        self._busy.clear()
        self.round_trip = self.bytes_per_second = 0.0
        self._set_skew(0.0)
        self.thaw()

    # Conditions that last

    def busy(self, seconds: float, entity: str | None = None) -> None:
        """Attaches, sends, settlements and management are refused with server-busy, receivers are detached with it."""
        self._busy[entity.lower() if entity else None] = time.monotonic() + seconds
        self.detach(server_busy().condition, server_busy().description, entity)

    def check_busy(self, key: str) -> None:
        """Raises server-busy."""
        if self._busy:
            now = time.monotonic()
            if any(until > now and name in (None, key) for name, until in self._busy.items()):
                raise server_busy()

    def freeze(self, seconds: float | None = None) -> None:
        """The server neither reads nor writes, on any connection, until then or `thaw`. Its locks go on to expire."""
        self.frozen_until = float("inf") if seconds is None else time.monotonic() + seconds
        self._connections.freeze(seconds)

    def thaw(self) -> None:
        self.frozen_until = None
        self._connections.thaw()

    def frozen_for(self) -> float:
        """Seconds that new connections are still frozen; infinite; 0: they are not."""
        return 0.0 if self.frozen_until is None else max(0.0, self.frozen_until - time.monotonic())

    def skew(self, seconds: float) -> None:
        """The server's clock is so far ahead of the machine's, from now on."""
        self._set_skew(seconds)

    def slow(self, round_trip: float = 0.0, bytes_per_second: float = 0.0) -> None:
        """For what is read and written from now on."""
        self.round_trip, self.bytes_per_second = round_trip, bytes_per_second

    # Strikes at once

    def drop(self, entity: str | None = None) -> int:
        """Reset the connections that have a link to the entity, or all. Returns how many."""
        return self._connections.drop(entity.lower() if entity else None)

    def close(self, condition: str | None = "amqp:connection:forced", description: str = "Closed by a fault.") -> int:
        """Close all connections in AMQP's way. Returns how many."""
        return self._connections.close(condition, description)

    def detach(self, condition: str, description: str = "Detached by a fault.", entity: str | None = None) -> int:
        """Detach the receivers of the entity, or all. Returns how many."""
        why = refusal(condition, description)
        return sum(queue.detach_all(why) for queue in self._queues(entity))

    def mute(self, entity: str | None = None) -> int:
        """Let the present receivers of the entity, or all, die silently. Returns their number.

        Their links stay attached; nothing comes on them any more, no answer either. Later receivers are not affected.
        """
        return sum(queue.mute_all() for queue in self._queues(entity))

    def lose_locks(self, entity: str | None = None) -> int:
        """All locks end now, as if their time were over; sessions too. Returns how many messages that were."""
        lost = 0
        for queue in self._queues(entity):
            lost += len(queue.locked)
            if queue.sessions is not None:
                for session in queue.sessions:
                    queue.sessions.expire(session)
            for message in list(queue.locked.values()):
                queue.expire_lock(message)
        return lost

    def _queues(self, entity: str | None) -> list[Queue]:
        if entity is not None:
            return [self._namespace.queue(entity)]
        queues = [queue for queue in self._namespace if isinstance(queue, Queue)]
        return queues + [queue.dead_letters for queue in queues if queue.dead_letters is not None]
