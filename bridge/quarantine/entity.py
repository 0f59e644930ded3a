"""Entity that keeps the messages of one quarantined key, as the SDK runs it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from durabletask.entities import EntityContext

from bridge.config.model.sources import QuarantineConfig
from bridge.core.stored_message import OperationResult
from bridge.core.system_names import QUARANTINE
from bridge.quarantine.state_machine import ADDS, KeyQuarantine
from bridge.waiting.dead_letters import start_dead_letters
from bridge.waiting.replays import report
from bridge.waiting.totals import WaitingTotals


class QuarantineEntities:
    """Quarantine entities that this process runs for one engine."""

    def __init__(
        self,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        totals: WaitingTotals | None = None,
        engine: str = "",
    ) -> None:
        self._engine = engine
        self._totals = totals
        self._now = now
        self._lock = threading.Lock()
        self.events: Counter[str] = Counter()
        """Number of messages by event: `stored`, `repeated`, `full`, `resumed` and `dropped`."""

    def function(self) -> Callable[[EntityContext, Any], None]:
        """Entity function to register with a worker, under the name QUARANTINE."""

        def quarantine(ctx: EntityContext, value: Any) -> None:
            self._operate(ctx, value or {})

        quarantine.__name__ = QUARANTINE
        return quarantine

    def _operate(self, ctx: EntityContext, value: dict[str, Any]) -> None:
        # The limits travel with each message: they belong to the source, whose configuration this worker may not have
        bounds = value.get("bounds")
        limits = QuarantineConfig() if bounds is None else QuarantineConfig(max_messages=bounds[0], max_bytes=bounds[1])
        quarantine = KeyQuarantine(limits, ctx.get_state())
        before = (len(quarantine.held), quarantine.size)
        result = self._apply(quarantine, ctx.operation, value)
        if self._totals is not None:
            # The store that added the message has counted it already
            counted = (1, value["item"]["size"]) if ctx.operation in ADDS else (0, 0)
            self._totals.changed(
                len(quarantine.held) - before[0] - counted[0], quarantine.size - before[1] - counted[1]
            )
        ctx.set_state(quarantine.to_json())
        start_dead_letters(ctx, result.undelivered)
        report(ctx, self._engine, result)
        with self._lock:
            self.events.update(result.events)

    def _apply(self, quarantine: KeyQuarantine, operation: str, value: dict[str, Any]) -> OperationResult:
        if operation == "hold":
            return quarantine.hold(value)
        if operation == "follow":
            return quarantine.append(value)
        if operation == "done":
            return quarantine.done(value["mark"])
        if operation == "again":
            return quarantine.requeue(
                value["mark"], value["cause"], value.get("until"), value["attempts"], value.get("executed", ())
            )
        if operation == "release":
            return quarantine.release()
        if operation == "drop":
            return quarantine.drop(value.get("marks"), value.get("forget", False), self._now().timestamp())
        if operation == "claim":
            return quarantine.claim(value["owner"], self._now().timestamp())
        if operation == "unclaim":
            return quarantine.unclaim(value["owner"])
        return OperationResult()
