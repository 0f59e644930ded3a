"""Fault injection: faults that strike at a step, and conditions of the whole server.

Every call is also available to other processes; see control.py.
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
    """Step at which a fault strikes.

    A step in the present tense comes before the server acts. A step in the past tense comes after the server acted,
    before it answers.
    """

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
    ECHOED = "echoed"  # the confirmation of a settlement is on its way
    SEND = "send"
    STORED = "stored"
    MANAGE = "manage"
    MANAGED = "managed"
    DETACH = "detach"
    CLOSE = "close"


class Action(StrEnum):
    """Effect of a fault.

    DROP: reset the connection. CUT: reset the connection in the middle of the last written frame. CLOSE: close the
    connection with the condition. DETACH: detach the link with the condition. REJECT: refuse the step with the
    condition. SWALLOW: skip the step, or after the act: never answer. FREEZE: stop reading and writing on the
    connection for `seconds`. LOSE: expire the message locks first.
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
    """Fault at a step.

    entity: path at which the fault waits, in any case; None: any path. operation: of $management, such as `renew-lock`.
    skip: number of passes before the first strike. times: number of strikes; -1: no limit. hits: number of strikes so
    far.
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
    """Operations on the open connections."""

    def drop(self, entity: str | None) -> int: ...

    def freeze(self, seconds: float | None) -> None: ...

    def thaw(self) -> None: ...

    def close(self, condition: str | None, description: str) -> int: ...


class Faults:
    """Faults and conditions of a server.

    round_trip: seconds added between client and server. bytes_per_second: 0: no limit.
    """

    def __init__(self, namespace: Namespace, connections: Connections, set_skew: Callable[[float], None]) -> None:
        self._namespace, self._connections, self._set_skew = namespace, connections, set_skew
        self.waiting: list[Fault] = []
        self.round_trip = 0.0
        self.bytes_per_second = 0.0
        self._busy: dict[str | None, float] = {}
        self.frozen_until: float | None = None

    # Faults at a step

    def add(self, step: Step | str, action: Action | str, **details: Any) -> Fault:
        """Add a fault; see Fault for the details. Faults of one step strike one after the other."""
        fault = Fault(Step(step), Action(action), **details)
        self.waiting.append(fault)
        return fault

    def take(self, step: Step, path: str, operation: str | None = None) -> Fault | None:
        """Return the fault that strikes at this step now; None when there is none."""
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
        """Remove all faults and conditions: busy, freeze, delays, skew."""
        self.waiting.clear()
        self._busy.clear()
        self.round_trip = self.bytes_per_second = 0.0
        self._set_skew(0.0)
        self.thaw()

    # Lasting conditions

    def busy(self, seconds: float, entity: str | None = None) -> None:
        """Refuse attaches, sends, settlements and management with server-busy for `seconds`; detach receivers with
        it."""
        self._busy[entity.lower() if entity else None] = time.monotonic() + seconds
        self.detach(server_busy().condition, server_busy().description, entity)

    def check_busy(self, key: str) -> None:
        """Raises: server-busy while the entity is busy. key: a path in lower case."""
        if self._busy:
            now = time.monotonic()
            if any(until > now and name in (None, key) for name, until in self._busy.items()):
                raise server_busy()

    def freeze(self, seconds: float | None = None) -> None:
        """Stop reading and writing on all connections for `seconds`; None: until `thaw`. Locks continue to expire."""
        self.frozen_until = float("inf") if seconds is None else time.monotonic() + seconds
        self._connections.freeze(seconds)

    def thaw(self) -> None:
        self.frozen_until = None
        self._connections.thaw()

    def frozen_for(self) -> float:
        """Return the seconds for which new connections stay frozen; infinity without an end; 0: not frozen."""
        return 0.0 if self.frozen_until is None else max(0.0, self.frozen_until - time.monotonic())

    def skew(self, seconds: float) -> None:
        """Set the server's clock `seconds` ahead of the machine's clock."""
        self._set_skew(seconds)

    def slow(self, round_trip: float = 0.0, bytes_per_second: float = 0.0) -> None:
        """Slow down all later reads and writes. round_trip: seconds."""
        self.round_trip, self.bytes_per_second = round_trip, bytes_per_second

    # Immediate faults

    def drop(self, entity: str | None = None) -> int:
        """Reset the connections with a link to the entity, or all. Returns their number."""
        return self._connections.drop(entity.lower() if entity else None)

    def close(self, condition: str | None = "amqp:connection:forced", description: str = "Closed by a fault.") -> int:
        """Close all connections with an AMQP close. Returns their number."""
        return self._connections.close(condition, description)

    def detach(self, condition: str, description: str = "Detached by a fault.", entity: str | None = None) -> int:
        """Detach the receivers of the entity, or all. Returns their number."""
        why = refusal(condition, description)
        return sum(queue.detach_all(why) for queue in self._queues(entity))

    def mute(self, entity: str | None = None) -> int:
        """Make the present receivers of the entity, or all, stop silently. Returns their number.

        Their links stay attached, but receive no more messages and no more answers. Later receivers are not affected.
        """
        return sum(queue.mute_all() for queue in self._queues(entity))

    def lose_locks(self, entity: str | None = None) -> int:
        """Expire all message and session locks now. Returns the number of affected messages."""
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
