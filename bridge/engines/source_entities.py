"""Entities of the bridge that hold the state of a source for all its daemons: pace of dead letters, and pause."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from durabletask.client import EntityQuery
from durabletask.entities import EntityContext, EntityInstanceId

from bridge.core.errors import EngineUnavailable
from bridge.core.pace import Paces
from bridge.core.system_names import DEAD_LETTER_PACE, SOURCE_PAUSE
from bridge.engines.base import Engine
from bridge.engines.client import EngineClient

_POLL_SECONDS = 0.002, 0.05
"""Seconds between two reads of an entity with operations: the first, and the longest."""


async def latest(client: EngineClient, entity: EntityInstanceId, what: str) -> tuple[Any, bool]:
    """Read the JSON state of an entity, None without one, with True when operations wait. Raises: EngineError."""
    found = await client.find_entity(entity, what=what)
    if found is None:
        return None, False
    return json.loads(found.get_state() or "null"), bool(found.backlog_queue_size)


async def processed(
    client: EngineClient,
    entity: EntityInstanceId,
    what: str,
    within: float,
    otherwise: str,
    applied: Callable[[Any], bool] | None = None,
) -> Any:
    """Read the JSON state of an entity after an operation.

    within: seconds for workers to process the operation.
    otherwise: text of the error when none has processed it in time.
    applied: True of a state that has the effect of the operation. Some engines do not count the operations that a
    worker is processing: without `applied`, a read on such an engine may come before their effect.
    Raises: EngineError; EngineUnavailable.
    """
    end = time.monotonic() + within
    pause, longest = _POLL_SECONDS
    while True:
        state, pending = await latest(client, entity, what)
        if applied(state) if applied is not None else not pending:
            return state
        if time.monotonic() > end:
            raise EngineUnavailable(otherwise)
        await asyncio.sleep(pause)
        pause = min(longest, 1.5 * pause)


_PACE_SECONDS = 5.0
"""Seconds for a worker to process an operation of a pace."""


def pace_entity() -> Callable[[EntityContext, Any], None]:
    """Create the entity function that a worker registers under the name DEAD_LETTER_PACE."""

    def pace(ctx: EntityContext, value: Any) -> None:
        paces = Paces(ctx.get_state())
        _apply_to_paces(paces, ctx.operation, value or {})
        ctx.set_state(paces.to_json())

    pace.__name__ = DEAD_LETTER_PACE
    return pace


def _apply_to_paces(paces: Paces, operation: str, value: dict[str, Any]) -> None:
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

    async def load(self, within: float = _PACE_SECONDS) -> Paces:
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


_PAUSE_SECONDS = 30.0
"""Seconds for a worker to process a pause or its end: the engine gives the work of a frozen worker to another one."""


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
        await self._send(source, "pause", asdict(pause), lambda state: bool(state) and state["since"] >= pause.since)

    async def resume(self, source: str) -> None:
        """End the pause of a source. Raises: as `pause`."""
        sent = time.time()
        await self._send(source, "resume", None, lambda state: not state or state["since"] >= sent)

    async def _send(self, source: str, operation: str, value: Any, applied: Callable[[Any], bool]) -> None:
        entity, what = EntityInstanceId(SOURCE_PAUSE, source), f"{operation} the source {source}"
        await self._engine.client.signal_entity(entity, operation, value, what=what)
        late = f"{source}: the engine has the {operation}, but no worker has processed it; is one running?"
        await processed(self._engine.client, entity, what, _PAUSE_SECONDS, late, applied)
