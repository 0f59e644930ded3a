"""Temporary limits of routes on their engine: one entity per route, which all its daemons read and sign in at."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from durabletask.client import EntityQuery
from durabletask.entities import EntityContext, EntityInstanceId

from bridge.core.system_names import ROUTE_LIMIT
from bridge.engines.base import Engine
from bridge.engines.entity_reads import change, latest

MOST_DAEMONS = 1000
"""Most daemons that sign in at one limit. Further ones take their share without being counted."""
FORGET_SECONDS = 600.0
"""Seconds after which a daemon that did not sign in again is removed from the state."""


@dataclass(frozen=True, slots=True)
class TemporaryLimit:
    """Temporary limit of a route. Times are in seconds since the Unix epoch.

    running: most running orchestrations; None: as configured.
    rate: commands per second of all daemons together; None: as configured.
    until: end of the limit.
    since, by, reason: the decision of a person.
    daemons: last sign-in of each daemon that shares the rate.
    """

    running: int | None
    rate: float | None
    until: float
    since: float
    by: str
    reason: str = ""
    daemons: Mapping[str, float] = field(default_factory=dict)


def apply(state: dict[str, Any] | None, operation: str, value: Any) -> dict[str, Any] | None:
    """State after one operation. Pure. Unknown operations of later versions change nothing.

    `set`: the value is the new limit; daemons stay signed in. `clear`: there is none. `present`: a daemon signs in.
    `left`: it signs out. `end`: the limit is removed if its time is over.
    """
    if operation == "set":
        return {**value, "daemons": (state or {}).get("daemons", {})}
    if operation == "clear" or state is None:
        return None
    daemons: dict[str, float] = dict(state.get("daemons", {}))
    if operation == "present":
        daemons = {name: at for name, at in daemons.items() if at > value["at"] - FORGET_SECONDS}
        if len(daemons) < MOST_DAEMONS or value["daemon"] in daemons:
            daemons[value["daemon"]] = value["at"]
    elif operation == "left":
        daemons.pop(value["daemon"], None)
    elif operation == "end" and value["at"] >= state["until"]:
        return None
    return {**state, "daemons": daemons}


def limit_entity(changed: Callable[[], None] = lambda: None) -> Callable[[EntityContext, Any], None]:
    """Create the entity function that a worker registers under the name ROUTE_LIMIT.

    changed: called in the worker's thread after a decision of a person, before the engine has stored its effect.
    """

    def limit(ctx: EntityContext, value: Any) -> None:
        ctx.set_state(apply(ctx.get_state(), ctx.operation, value))
        if ctx.operation in ("set", "clear"):
            changed()

    limit.__name__ = ROUTE_LIMIT
    return limit


class TemporaryLimits:
    """Temporary limits of the routes of one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def load(self) -> dict[str, TemporaryLimit]:
        """Load all limits, also ended ones that no daemon has removed yet, by route. Raises: EngineError."""
        query = EntityQuery(instance_id_starts_with=f"@{ROUTE_LIMIT}@", include_state=True)
        found = await self._engine.client.get_all_entities(query, what="list the temporary limits of routes")
        read = {each.id.key: json.loads(each.get_state() or "null") for each in found}
        return {route: TemporaryLimit(**state) for route, state in read.items() if state is not None}

    async def of(self, route: str) -> TemporaryLimit | None:
        """Limit of a route; None without one. Raises: EngineError."""
        entity = EntityInstanceId(ROUTE_LIMIT, route)
        state, _ = await latest(self._engine.client, entity, f"read the temporary limit of the route {route}")
        return None if state is None else TemporaryLimit(**state)

    async def set(self, route: str, limit: Mapping[str, Any]) -> None:
        """Store a limit, without `daemons`.

        Raises: EngineError; EngineUnavailable when no worker has stored it in time.
        """
        await self._change(
            route, "set", dict(limit), lambda state: state is not None and limit.items() <= state.items()
        )

    async def clear(self, route: str) -> None:
        """Remove a limit. Raises: as `set`."""
        await self._change(route, "clear", None, lambda state: state is None)

    async def report(self, route: str, operation: str, daemon: str, at: float) -> None:
        """Send `present`, `left` or `end`; return when the engine has durably accepted it. Raises: EngineError."""
        entity, what = EntityInstanceId(ROUTE_LIMIT, route), f"report to the temporary limit of the route {route}"
        await self._engine.client.signal_entity(entity, operation, {"daemon": daemon, "at": at}, what=what)

    async def _change(self, route: str, operation: str, value: Any, is_stored: Callable[[Any], bool]) -> None:
        entity, what = EntityInstanceId(ROUTE_LIMIT, route), f"{operation} the temporary limit of the route {route}"
        late = f"{route}: the engine has the change of the limit, but no worker has processed it; is one running?"
        await change(self._engine.client, entity, operation, value, what, late, is_stored)
