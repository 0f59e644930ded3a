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

from bridge.config.model.engines import EarlyMessagesConfig
from bridge.core.commands import Command
from bridge.core.errors import EngineTimeout, EngineUnavailable
from bridge.core.origin import MessageOrigin
from bridge.core.settlement import RetryPolicy
from bridge.core.stored_message import OperationResult
from bridge.core.system_names import EARLY_MESSAGES
from bridge.early_messages.executor import Executor
from bridge.early_messages.state_machine import (
    STARTED,
    Deliver,
    EarlyMessageQueue,
    RetryLater,
    WaitingCommand,
)
from bridge.engines.message_sealer import MessageSealer
from bridge.system.clock import ahead_seconds
from bridge.waiting.dead_letters import start_dead_letters
from bridge.waiting.replays import report
from bridge.waiting.totals import WaitingTotals

TIMEOUT = 60.0
"""Seconds within which one delivery must complete. A command needs a few calls, each with a shorter deadline."""

_LATER = 0.1
"""Average seconds until an entity that found no free slot tries again."""


_SKEW = 1.0
"""Seconds by which a timer may arrive early, because the clocks of two machines differ."""


class EarlyMessageEntities:
    """Early-message entities that this process runs for one engine.

    An operation delivers messages itself, on its own thread. Entities may do I/O, because they are not replayed. An
    entity runs one operation at a time, which keeps the order of messages. An operation that did not finish is
    repeated.

    poll: seconds between two checks for a missing instance.
    slots: number of concurrent deliveries. In the SDK's own worker, entities share threads with orchestrators. An event
    may wait for a turn that waits for a thread; deliveries must therefore not occupy all threads.
    messages: decrypts encrypted messages.
    """

    def __init__(
        self,
        executor: Executor,
        loop: asyncio.AbstractEventLoop,
        limits: EarlyMessagesConfig,
        poll: float,
        policy: RetryPolicy,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        slots: int = 4,
        ahead: Callable[[], float] = ahead_seconds,
        totals: WaitingTotals | None = None,
        messages: MessageSealer | None = None,
        engine: str = "",
    ) -> None:
        self._engine = engine
        self._totals = totals
        self._messages = messages or MessageSealer()
        self._executor = executor
        self._loop = loop
        self._limits = limits
        self._poll = poll
        self._policy = policy
        self._now = now
        self._ahead = ahead
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(slots)
        self.events: Counter[str] = Counter()
        """Number of messages by event.

        Events are `stored`, `delivered`, `ignored`, `repeated`, `expired`, `refused`, `full` and `dropped`.
        """

    def limit(self, limits: EarlyMessagesConfig, poll: float) -> None:
        """Change the limits and `poll`. Messages that wait already stay."""
        self._limits = limits
        self._poll = poll

    def function(self) -> Callable[[EntityContext, Any], None]:
        """Entity function to register with a worker, under the name EARLY_MESSAGES."""

        def early_messages(ctx: EntityContext, value: Any) -> None:
            self._operate(ctx, value)

        early_messages.__name__ = EARLY_MESSAGES
        return early_messages

    def _operate(self, ctx: EntityContext, value: Any) -> None:
        # While the wall clock runs ahead, no message expires by it.
        ahead = self._ahead()
        now = self._now().timestamp() - ahead
        # The timer arrived early: the engine's clock runs ahead too. The next timer is set by that clock.
        early = ahead > 0 and ctx.operation == "tick" and now < value["at"] - _SKEW
        state = ctx.get_state() or {}
        queue = EarlyMessageQueue(
            self._limits,
            self._poll,
            self._policy,
            state,
            lambda item: WaitingCommand.from_json(self._messages.open(item)),
        )
        target = state.get("target")
        before = (len(queue.items), queue.size)
        result = self._apply(queue, ctx.operation, value or {}, now, early=early)
        if self._totals is not None:
            # The store that kept the message has counted it already
            counted = (1, value["size"]) if ctx.operation == "park" else (0, 0)
            self._totals.changed(len(queue.items) - before[0] - counted[0], queue.size - before[1] - counted[1])
        document = queue.to_json()
        if document is not None:
            document["target"] = target or (value or {}).get("target")
        ctx.set_state(document)
        start_dead_letters(ctx, result.undelivered)
        report(ctx, self._engine, result)
        if result.wake is not None:
            due = datetime.fromtimestamp(result.wake + ahead if early else result.wake, UTC)
            ctx.signal_entity(ctx.entity_id, "tick", {"at": result.wake}, due)
        with self._lock:
            self.events.update(result.events)

    def _apply(
        self, queue: EarlyMessageQueue, operation: str, value: dict[str, Any], now: float, early: bool
    ) -> OperationResult:
        deliver: Deliver = self._deliver
        if operation == "park":
            item = {name: part for name, part in value.items() if name not in ("target", "size")}
            return queue.store(item, value["size"], deliver, now)
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
        what = "deliver an early message"
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
