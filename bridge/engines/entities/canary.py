"""Entity of the bridge with the record of one candidate, for all daemons."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from durabletask.entities import EntityContext, EntityInstanceId

from bridge.core.canary import CanaryRecord
from bridge.core.system_names import CANARY
from bridge.engines.base import Engine
from bridge.engines.entity_reads import latest, read_effect


def canary_entity() -> Callable[[EntityContext, Any], None]:
    """Create the entity function that a worker registers under the name CANARY."""

    def canary(ctx: EntityContext, value: Any) -> None:
        ctx.set_state(CanaryRecord.of(ctx.get_state()).applied(ctx.operation, value or {}).to_json())

    canary.__name__ = CANARY
    return canary


class CanaryStore:
    """Record of the candidate with one version."""

    def __init__(self, engine: Engine, version: str) -> None:
        self._engine = engine
        self._entity = EntityInstanceId(CANARY, version)

    async def read(self) -> CanaryRecord:
        """Read the record, an empty one before the first report. Raises: EngineError."""
        return await self.find() or CanaryRecord()

    async def find(self) -> CanaryRecord | None:
        """Record; None before the first report. Raises: EngineError."""
        state, _ = await latest(self._engine.client, self._entity, "read the record of the candidate")
        return None if state is None else CanaryRecord.of(state)

    async def count(self, value: Mapping[str, Any]) -> None:
        """Report the counts of a daemon; return when the engine has durably accepted them. Raises: EngineError."""
        await self._engine.client.signal_entity(self._entity, "count", dict(value), what="count for the candidate")

    async def change(self, operation: str, value: Mapping[str, Any]) -> CanaryRecord:
        """Abort or resume the candidate; return the record. Raises: EngineError, also if no worker answers in time."""
        what, before = f"{operation} the candidate", await self.read()

        def find(state: Any) -> CanaryRecord | None:
            record = CanaryRecord.of(state)
            is_done = record.fallback is not None if operation == "abort" else record.round > before.round
            return record if is_done else None

        await self._engine.client.signal_entity(self._entity, operation, dict(value), what=what)
        late = f"the engine has the {operation} of the candidate, but no worker has processed it; is one running?"
        return await read_effect(self._engine.client, self._entity, what, late, find)
