"""Moves of the positions of sources on their engine: one entity per source, which all its daemons read and answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from durabletask.client import EntityQuery
from durabletask.entities import EntityContext, EntityInstanceId

from bridge.core.system_names import SOURCE_PAUSE, SOURCE_RELOAD, SOURCE_SEEK
from bridge.engines.base import Engine
from bridge.engines.entities.reload_requests import State, as_state
from bridge.engines.entities.source_entities import Pause
from bridge.engines.entity_reads import change, latest

Seeks = Mapping[str, Mapping[str, Any]]
"""State of the entity: by partition (`orders/0`) an object with `to` (offset), `stamp`, `by`, `at` (seconds since the
Unix epoch) and `reason`. An applied move also has `moved`: an object with `from` (offset or null), `by` (daemon) and
`at`.
"""


@dataclass(frozen=True, slots=True)
class Decisions:
    """Decisions of people about the sources of an engine: pauses and moves by source, and reloads of all daemons."""

    pauses: Mapping[str, Pause]
    seeks: Mapping[str, Seeks]
    reloads: State


def apply(state: dict[str, Any] | None, operation: str, value: Any) -> dict[str, Any] | None:
    """State after one operation. Pure. Unknown operations of later versions change nothing.

    `seek`: new moves replace those of the same partitions, and applied ones are removed. `moved`: partitions are
    marked, where their move has the same stamp. `cancel`: moves that are not applied are removed.
    """
    found = dict(state or {})
    if operation == "seek":
        found = {name: each for name, each in found.items() if "moved" not in each} | value
    elif operation == "moved":
        for name, moved in value.items():
            each = found.get(name)
            if each is not None and each["stamp"] == moved["stamp"] and "moved" not in each:
                found[name] = {**each, "moved": {"from": moved["from"], "by": moved["by"], "at": moved["at"]}}
    elif operation == "cancel":
        found = {name: each for name, each in found.items() if "moved" in each}
    return found or None


def seek_entity(changed: Callable[[], None] = lambda: None) -> Callable[[EntityContext, Any], None]:
    """Create the entity function that a worker registers under the name SOURCE_SEEK.

    changed: as of `bridge.engines.entities.source_entities.pause_entity`, for operations of people.
    """

    def seek(ctx: EntityContext, value: Any) -> None:
        ctx.set_state(apply(ctx.get_state(), ctx.operation, value))
        if ctx.operation != "moved":
            changed()

    seek.__name__ = SOURCE_SEEK
    return seek


def pending(seeks: Seeks) -> dict[str, Mapping[str, Any]]:
    """Moves that are not applied, by partition."""
    return {name: each for name, each in seeks.items() if "moved" not in each}


class SourceSeeks:
    """Moves of the sources whose state is on one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def decisions(self) -> Decisions:
        """Load the pauses, the moves that are not applied, and the reloads, in one query. Raises: EngineError."""
        common = SOURCE_PAUSE.rpartition("_")[0]
        query = EntityQuery(instance_id_starts_with=f"@{common}_", include_state=True)
        found = await self._engine.client.get_all_entities(query, what="list the pauses and moves of sources")
        pauses: dict[str, Pause] = {}
        seeks: dict[str, Seeks] = {}
        reloads: State | None = None
        for each in found:
            state = json.loads(each.get_state() or "null")
            if state is None:
                continue
            if each.id.entity == SOURCE_PAUSE:
                pauses[each.id.key] = Pause(**state)
            elif each.id.entity == SOURCE_SEEK and (left := pending(state)):
                seeks[each.id.key] = left
            elif each.id.entity == SOURCE_RELOAD:
                reloads = state
        return Decisions(pauses, seeks, as_state(reloads))

    async def of(self, source: str) -> Seeks:
        """Moves of a source, also applied ones of its last seek. Raises: EngineError."""
        state, _ = await latest(self._engine.client, EntityInstanceId(SOURCE_SEEK, source), f"read moves of {source}")
        return state or {}

    async def seek(self, source: str, moves: Seeks) -> None:
        """Store moves. Raises: EngineError; EngineUnavailable when no worker has stored them in time."""
        await self._send(source, "seek", moves, lambda state: moves.items() <= state.items())

    async def cancel(self, source: str) -> None:
        """Remove moves that are not applied. Raises: as `seek`."""
        await self._send(source, "cancel", None, lambda state: not pending(state))

    async def moved(self, source: str, found: Mapping[str, Mapping[str, Any]]) -> None:
        """Report applied moves; return when the engine has durably accepted the report. Raises: EngineError.

        found: by partition an object with `stamp`, `from`, `by` and `at`.
        """
        entity, what = EntityInstanceId(SOURCE_SEEK, source), f"report moves of {source}"
        await self._engine.client.signal_entity(entity, "moved", dict(found), what=what)

    async def _send(self, source: str, operation: str, value: Any, is_stored: Callable[[Seeks], bool]) -> None:
        entity, what = EntityInstanceId(SOURCE_SEEK, source), f"{operation} of the source {source}"
        late = f"{source}: the engine has the {operation}, but no worker has processed it; is one running?"
        await change(self._engine.client, entity, operation, value, what, late, lambda state: is_stored(state or {}))
