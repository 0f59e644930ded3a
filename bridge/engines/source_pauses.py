"""Pauses of sources on their engine: one entity per source, which all its daemons read."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from durabletask.client import EntityQuery
from durabletask.entities import EntityContext, EntityInstanceId

from bridge.core.system_names import SOURCE_PAUSE
from bridge.engines.base import Engine
from bridge.engines.entity_state import latest, processed

_WITHIN = 30.0
"""Seconds for a worker to process an operation: the engine detects a frozen worker and gives its work to another."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Pause of a source by a person.

    since: seconds since the Unix epoch.
    by: name or user id of the person.
    reason: text of the person; empty without one.
    """

    since: float
    by: str
    reason: str = ""


def pause_entity() -> Callable[[EntityContext, Any], None]:
    """Create the entity function that a worker registers under the name SOURCE_PAUSE."""

    def pause(ctx: EntityContext, value: Any) -> None:
        if ctx.operation == "pause":
            ctx.set_state(value)
        elif ctx.operation == "resume":
            ctx.set_state(None)

    pause.__name__ = SOURCE_PAUSE
    return pause


class SourcePauses:
    """Pauses of the sources whose state is on one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def load(self) -> dict[str, Pause]:
        """Load the pauses of all paused sources, by source. Raises: EngineError."""
        query = EntityQuery(instance_id_starts_with=f"@{SOURCE_PAUSE}@", include_state=True)
        found = await self._engine.client.get_all_entities(query, what="list the pauses of sources")
        read = {each.id.key: json.loads(each.get_state() or "null") for each in found}
        return {source: Pause(**state) for source, state in read.items() if state is not None}

    async def of(self, source: str) -> Pause | None:
        """Pause of a source; None if it is not paused. Raises: EngineError."""
        entity = EntityInstanceId(SOURCE_PAUSE, source)
        state, _ = await latest(self._engine.client, entity, f"read the pause of the source {source}")
        return None if state is None else Pause(**state)

    async def pause(self, source: str, pause: Pause) -> None:
        """Pause a source. Raises: EngineError; EngineUnavailable when no worker has stored the pause in time."""
        await self._send(source, "pause", asdict(pause))

    async def resume(self, source: str) -> None:
        """End the pause of a source. Raises: as `pause`."""
        await self._send(source, "resume", None)

    async def _send(self, source: str, operation: str, value: Any) -> None:
        entity, what = EntityInstanceId(SOURCE_PAUSE, source), f"{operation} the source {source}"
        await self._engine.client.signal_entity(entity, operation, value, what=what)
        late = f"{source}: the engine has the {operation}, but no worker has processed it; is one running?"
        await processed(self._engine.client, entity, what, _WITHIN, late)
