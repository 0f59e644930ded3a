"""Pace of a source's dead letters on its engine: one entity per source, shared by all its daemons."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

from durabletask.client import EntityQuery
from durabletask.entities import EntityContext, EntityInstanceId

from bridge.core.pace import Paces
from bridge.core.system_names import DEAD_LETTER_PACE
from bridge.engines.base import Engine
from bridge.engines.entity_state import latest, processed

T = TypeVar("T")

_TIMEOUT = 5.0


def pace_entity() -> Callable[[EntityContext, Any], None]:
    """Create the entity function that a worker registers under the name DEAD_LETTER_PACE."""

    def pace(ctx: EntityContext, value: Any) -> None:
        paces = Paces(ctx.get_state())
        apply(paces, ctx.operation, value or {})
        ctx.set_state(paces.to_json())

    pace.__name__ = DEAD_LETTER_PACE
    return pace


def apply(paces: Paces, operation: str, value: dict[str, Any]) -> None:
    """Apply one operation of the entity. Unknown operations of later versions change nothing."""
    route, now = value.get("route"), value.get("now", 0.0)
    if operation == "resume":
        paces.resume(route)
    elif route is None:
        return
    elif operation == "limit":
        paces.limit(route, now, value.get("resumes"))
    elif operation == "claim":
        paces.claim(route, value["by"], now)
    elif operation == "wrote":
        paces.wrote(route, now)
    elif operation == "ease":
        paces.ease(route, now)


class EnginePaces:
    """Paces of one source: `bridge.pipeline.dead_letter_limit.PaceStore` over an engine's client."""

    def __init__(self, engine: Engine, source: str) -> None:
        self._engine = engine
        self._entity = EntityInstanceId(DEAD_LETTER_PACE, source)

    async def load(self, within: float = _TIMEOUT) -> Paces:
        """Load the paces after all operations sent so far.

        within: seconds for workers to process the operations.
        Raises: EngineError; EngineUnavailable when none has processed them in time.
        """
        what, late = "read the dead-letter pace", "no worker has processed the dead-letter pace; is one running?"
        return Paces(await processed(self._engine.client, self._entity, what, within, late))

    async def latest(self) -> tuple[Paces, bool]:
        """Load the current paces, with True when operations wait to be processed. Raises: EngineError."""
        state, pending = await latest(self._engine.client, self._entity, "read the dead-letter pace")
        return Paces(state), pending

    async def send(self, operation: str, value: dict[str, Any]) -> None:
        """Send an operation; return when the engine has durably accepted it. Raises: EngineError."""
        what = f"dead-letter pace: {operation}"
        await self._engine.client.signal_entity(self._entity, operation, value, what=what)


async def limited_sources(engine: Engine) -> dict[str, Paces]:
    """Paces of every source of an engine that has a limited route, by source. Raises: EngineError."""
    query = EntityQuery(instance_id_starts_with=f"@{DEAD_LETTER_PACE}@", include_state=True)
    found = await engine.client.get_all_entities(query, what="list the dead-letter paces")
    read = {each.id.key: Paces(json.loads(each.get_state() or "null")) for each in found}
    return {source: paces for source, paces in read.items() if len(paces)}
