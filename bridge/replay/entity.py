"""Entity that keeps one replay queue, as the SDK runs it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from durabletask.entities import EntityContext

from bridge.core.stored_message import OperationResult
from bridge.core.system_names import REPLAY
from bridge.replay.state_machine import ReplayQueue
from bridge.waiting.dead_letters import start_dead_letters
from bridge.waiting.replays import report


class ReplayEntities:
    """Replay queues that this process runs for one engine."""

    def __init__(self, engine: str, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """Create the entities. engine: name of the engine."""
        self._engine = engine
        self._now = now
        self._lock = threading.Lock()
        self.events: Counter[str] = Counter()
        """Number of messages by event: `stored`, `repeated`, and the results of executed ones."""

    def function(self) -> Callable[[EntityContext, Any], None]:
        """Entity function to register with a worker, under the name REPLAY."""

        def replay(ctx: EntityContext, value: Any) -> None:
            self._operate(ctx, value or {})

        replay.__name__ = REPLAY
        return replay

    def _operate(self, ctx: EntityContext, value: dict[str, Any]) -> None:
        queue = ReplayQueue(ctx.get_state())
        result = self._apply(queue, ctx.operation, value)
        ctx.set_state(queue.to_json())
        start_dead_letters(ctx, result.undelivered)
        report(ctx, self._engine, result)
        if result.wake is not None:
            ctx.signal_entity(ctx.entity_id, "tick", {"at": result.wake}, datetime.fromtimestamp(result.wake, UTC))
        with self._lock:
            self.events.update(result.events)

    def _apply(self, queue: ReplayQueue, operation: str, value: dict[str, Any]) -> OperationResult:
        now = self._now().timestamp()
        if operation == "add":
            return queue.add(value, now)
        if operation == "done":
            return queue.settle(value["results"], now)
        if operation == "claim":
            return queue.claim(value["owner"], now)
        if operation == "unclaim":
            return queue.unclaim(value["owner"])
        if operation == "tick":
            return queue.tick(value["at"], now)
        return OperationResult()
