"""Entity that keeps the early messages of one instance, as the SDK runs it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import random
import threading
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from durabletask.entities import EntityContext

from bridge.core.commands import Command
from bridge.core.errors import EngineTimeout, EngineUnavailable
from bridge.core.origin import MessageOrigin
from bridge.core.settlement import RetryPolicy
from bridge.engines.parking.dead_letter_workflow import send
from bridge.engines.parking.executor import STARTED, Executor
from bridge.engines.parking.totals import WaitingTotals
from bridge.parking.early_message_queue import (
    Deliver,
    EarlyMessageLimits,
    EarlyMessageQueue,
    OperationResult,
    RetryLater,
)
from bridge.parking.names import PARKING
from bridge.parking.sealed import MessageSealer
from bridge.parking.waiting_command import WaitingCommand
from bridge.system.clock import ahead_seconds

TIMEOUT = 60.0
"""Seconds within which one delivery must complete. A command needs a few calls, each with a shorter deadline."""

_LATER = 0.1
"""Average seconds until an entity that found no free slot tries again."""


_SKEW = 1.0
"""Seconds by which a timer may arrive early, because the clocks of two machines differ."""


class ParkingEntities:
    """Early-message entities that this process runs for one engine.

    An operation delivers messages itself, on its own thread. Entities may do I/O, because they are not replayed. An
    entity runs one operation at a time, which keeps the order of messages. An operation that did not finish is
    repeated.

    slots: number of concurrent deliveries. In the SDK's own worker, entities share threads with orchestrators. An event
    may wait for a turn that waits for a thread; deliveries must therefore not occupy all threads.
    messages: decrypts encrypted messages.
    """

    def __init__(
        self,
        executor: Executor,
        loop: asyncio.AbstractEventLoop,
        bounds: EarlyMessageLimits,
        policy: RetryPolicy,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        slots: int = 4,
        ahead: Callable[[], float] = ahead_seconds,
        totals: WaitingTotals | None = None,
        messages: MessageSealer | None = None,
    ) -> None:
        self._totals = totals
        self._messages = messages or MessageSealer()
        self._executor = executor
        self._loop = loop
        self._bounds = bounds
        self._policy = policy
        self._now = now
        self._ahead = ahead
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(slots)
        self.events: Counter[str] = Counter()
        """Number of messages by event.

        Events are `stored`, `delivered`, `ignored`, `repeated`, `expired`, `refused`, `full` and `dropped`.
        """

    def function(self) -> Callable[[EntityContext, Any], None]:
        """Entity function to register with a worker, under the name PARKING."""

        def parking(ctx: EntityContext, value: Any) -> None:
            self._operate(ctx, value)

        parking.__name__ = PARKING
        return parking

    def _operate(self, ctx: EntityContext, value: Any) -> None:
        # While the wall clock runs ahead, no message expires by it.
        ahead = self._ahead()
        now = self._now().timestamp() - ahead
        # The timer arrived early: the engine's clock runs ahead too. The next timer is set by that clock.
        early = ahead > 0 and ctx.operation == "tick" and now < value["at"] - _SKEW
        state = ctx.get_state() or {}
        queue = EarlyMessageQueue(
            self._bounds, self._policy, state, lambda item: WaitingCommand.from_json(self._messages.open(item))
        )
        target = state.get("target")
        before = (len(queue.items), queue.size)
        turn = self._turn(queue, ctx.operation, value or {}, now, early=early)
        if self._totals is not None:
            # The executor that stored the message has counted it already
            counted = (1, value["size"]) if ctx.operation == "park" else (0, 0)
            self._totals.changed(len(queue.items) - before[0] - counted[0], queue.size - before[1] - counted[1])
        told = queue.to_json()
        if told is not None:
            told["target"] = target or (value or {}).get("target")
        ctx.set_state(told)
        send(ctx, turn.undelivered)
        if turn.wake is not None:
            due = datetime.fromtimestamp(turn.wake + ahead if early else turn.wake, UTC)
            ctx.signal_entity(ctx.entity_id, "tick", {"at": turn.wake}, due)
        with self._lock:
            self.events.update(turn.events)

    def _turn(
        self, queue: EarlyMessageQueue, operation: str, value: dict[str, Any], now: float, early: bool
    ) -> OperationResult:
        deliver: Deliver = self._deliver
        if operation == "park":
            item = {name: part for name, part in value.items() if name not in ("target", "size")}
            return queue.park(item, value["size"], deliver, now)
        if operation in (STARTED, "release"):
            return queue.deliver_now(deliver, now)
        if operation == "tick":
            return queue.on_timer(value["at"], deliver, now, early=early)
        if operation == "drop":
            return queue.drop(value.get("marks"), value.get("forget", False), now)
        return OperationResult()

    def _deliver(self, command: Command, origin: MessageOrigin) -> None:
        """Deliver one message. Raises: EngineError, RetryLater."""
        if not self._slots.acquire(blocking=False):
            raise RetryLater(_LATER * (0.5 + random.random()))  # noqa: S311 -- jitter, not a secret
        try:
            self._call(command, origin)
        finally:
            self._slots.release()

    def _call(self, command: Command, origin: MessageOrigin) -> None:
        what = "deliver a parked message"
        try:
            done = asyncio.run_coroutine_threadsafe(_awaited(self._executor, command, origin), self._loop)
        except RuntimeError as error:
            raise EngineUnavailable(f"{what}: this process is stopping") from error
        try:
            done.result(TIMEOUT)
        except concurrent.futures.TimeoutError as error:
            done.cancel()
            raise EngineTimeout(f"{what}: no answer within {TIMEOUT:.0f} s") from error
        except concurrent.futures.CancelledError as error:
            raise EngineUnavailable(f"{what}: this process is stopping") from error
        finally:
            # The future holds the error, whose traceback holds this frame
            del done


async def _awaited(executor: Executor, command: Command, origin: MessageOrigin) -> None:
    await executor.execute(command, origin)
