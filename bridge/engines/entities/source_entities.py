"""Entities of the bridge that hold the state of a source for all its daemons: pace of dead letters, and pause."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from typing import Any

from durabletask.client import EntityQuery
from durabletask.entities import EntityContext, EntityInstanceId

from bridge.core.pace import Paces
from bridge.core.system_names import DEAD_LETTER_PACE, SOURCE_PAUSE
from bridge.engines.base import Engine
from bridge.engines.entity_reads import change, latest, read_effect

_PACE_SECONDS = 5.0
"""Seconds for a worker to process the limit of a route."""


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
    """Paces of one source: `bridge.pipeline.limits.dead_letter_limit.PaceStore` over an engine's client."""

    def __init__(self, engine: Engine, source: str) -> None:
        self._engine = engine
        self._entity = EntityInstanceId(DEAD_LETTER_PACE, source)
        self._limits: dict[str, int] = {}
        """Limits that were sent and not read since: count of ended limits by route."""

    async def load(self) -> Paces:
        """Load the paces, with the limits that were sent through this object.

        Without its own limit a daemon would count dead letters from zero. The effects of other operations may follow:
        a repeated claim has the same result, and a pause that is not doubled yet does not admit another dead letter.
        Raises: EngineError; EngineUnavailable when no worker has processed a limit in time; the next call does not
        wait for it.
        """
        sent, self._limits = self._limits, {}

        def find(state: Any) -> Paces | None:
            paces = Paces(state)
            known = all(route in paces or paces.resumes.get(route, 0) > count for route, count in sent.items())
            return paces if known else None

        what, late = "read the dead-letter pace", "no worker has processed the dead-letter pace; is one running?"
        return await read_effect(self._engine.client, self._entity, what, late, find, _PACE_SECONDS)

    async def latest(self) -> tuple[Paces, bool]:
        """Load the current paces, with True when operations wait to be processed. Raises: EngineError."""
        state, pending = await latest(self._engine.client, self._entity, "read the dead-letter pace")
        return Paces(state), pending

    async def resume(self, route: str | None, limited: Collection[str], before: Paces) -> None:
        """End the limit of a route, or of all with None.

        limited: routes that are limited now. before: the paces with them.
        Raises: EngineError; EngineUnavailable when no worker has ended the limits in time.
        """
        await self.send("resume", {"route": route})

        def find(state: Any) -> Paces | None:
            paces, counts = Paces(state), before.resumes
            # A daemon may limit a route again at once
            ended = all(each not in paces or paces.resumes.get(each, 0) > counts.get(each, 0) for each in limited)
            return paces if ended else None

        source = self._entity.key
        late = f"{source}: the engine has the resume, but no worker has processed it; is one running?"
        await read_effect(self._engine.client, self._entity, f"resume the source {source}", late, find)

    async def send(self, operation: str, value: dict[str, Any]) -> None:
        """Send an operation; return when the engine has durably accepted it. Raises: EngineError."""
        what = f"dead-letter pace: {operation}"
        await self._engine.client.signal_entity(self._entity, operation, value, what=what)
        if operation == "limit":
            self._limits[value["route"]] = value.get("resumes", 0)


async def limited_sources(engine: Engine) -> dict[str, Paces]:
    """Paces of every source of an engine that has a limited route, by source. Raises: EngineError."""
    query = EntityQuery(instance_id_starts_with=f"@{DEAD_LETTER_PACE}@", include_state=True)
    found = await engine.client.get_all_entities(query, what="list the dead-letter paces")
    read = {each.id.key: Paces(json.loads(each.get_state() or "null")) for each in found}
    return {source: paces for source, paces in read.items() if len(paces)}


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


def pause_entity(changed: Callable[[], None] = lambda: None) -> Callable[[EntityContext, Any], None]:
    """Create the entity function that a worker registers under the name SOURCE_PAUSE.

    changed: called in the worker's thread after an operation, before the engine has stored its effect.
    """

    def pause(ctx: EntityContext, value: Any) -> None:
        if ctx.operation == "pause":
            ctx.set_state(value)
        elif ctx.operation == "resume":
            ctx.set_state(None)
        changed()

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
        given = asdict(pause)
        await self._send(source, "pause", given, lambda state: state == given)

    async def resume(self, source: str) -> None:
        """End the pause of a source. Raises: as `pause`."""
        await self._send(source, "resume", None, lambda state: state is None)

    async def _send(self, source: str, operation: str, value: Any, is_stored: Callable[[Any], bool]) -> None:
        entity, what = EntityInstanceId(SOURCE_PAUSE, source), f"{operation} the source {source}"
        late = f"{source}: the engine has the {operation}, but no worker has processed it; is one running?"
        await change(self._engine.client, entity, operation, value, what, late, is_stored)
