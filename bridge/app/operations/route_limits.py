"""Operations on temporary limits of routes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field
from typing_extensions import TypedDict

from bridge.app.composition import require
from bridge.app.operations.operation import Operation, Parameters, Scene
from bridge.config.model.routes import RouteConfig
from bridge.config.source import Loaded
from bridge.core.errors import InstanceNotFound, InvalidCommand
from bridge.engines.entities.temporary_limits import TemporaryLimit, TemporaryLimits
from bridge.system.clock import time_of

LONGEST = 30 * 86400.0
"""Longest time of a temporary limit in seconds. What shall hold longer belongs into the configuration."""
_REASON_LIMIT = 500


class SetLimit(Parameters):
    """Temporary limit of a route.

    running: most running orchestrations. rate: commands per second of all daemons. At least one of the two is set.
    seconds: time for which it holds.
    """

    route: str
    running: Annotated[int, Field(ge=1)] | None = None
    rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    seconds: Annotated[float, Field(gt=0, le=LONGEST)]


class OneRoute(Parameters):
    route: str


class Configured(TypedDict):
    running: int | None
    rate: float | None


class RouteLimitInfo(TypedDict):
    route: str
    running: int | None
    rate: float | None
    until: str
    since: str
    by: str
    reason: str


class RouteLimitLine(RouteLimitInfo):
    engine: str
    daemons: list[str]
    configured: Configured


class ClearedLimit(TypedDict):
    route: str


def route_of(loaded: Loaded, name: str) -> RouteConfig:
    """Route of a configuration. Raises: LookupError when no such route is configured."""
    routes = {route.name: route for route in loaded.config.routes}
    require("route", name, routes)
    return routes[name]


async def _set(scene: Scene, given: SetLimit) -> Any:
    store = await _store(scene, given.route)
    route = route_of(scene.loaded, given.route)
    if given.running is None and given.rate is None:
        raise InvalidCommand("set `running`, `rate` or both")
    if given.running is not None and route.schedule is None and route.start_or_raise is None:
        raise InvalidCommand(f"route {route.name} starts no orchestrations, so `running` cannot limit it; use `rate`")
    per = None if route.limits is None or route.limits.per is None else route.limits.per.running
    if given.running is not None and per is not None and per > given.running:
        raise InvalidCommand(f"`limits.per.running` of route {route.name} is {per}, more than {given.running}")
    now = time.time()
    until = now + given.seconds
    limit = {
        "running": given.running,
        "rate": given.rate,
        "until": until,
        "since": now,
        "by": scene.actor.name,
        "reason": (given.reason or "")[:_REASON_LIMIT],
    }
    await store.set(given.route, limit)
    return {"route": given.route, **limit, "until": time_of(until), "since": time_of(now)}


async def _clear(scene: Scene, given: OneRoute) -> Any:
    store = await _store(scene, given.route)
    limit = await store.of(given.route)
    if limit is None or limit.until <= time.time():
        raise InstanceNotFound(f"route {given.route} has no temporary limit. Next: bridge limits list")
    await store.clear(given.route)
    return {"route": given.route}


async def _list(scene: Scene, given: Parameters) -> Any:
    engine = await scene.engine()
    now = time.time()
    found = await TemporaryLimits(engine).load()
    return [_line(scene.loaded, engine.name, route, limit) for route, limit in found.items() if limit.until > now]


def _place(loaded: Loaded, given: Mapping[str, Any]) -> str | None:
    """Engine of the route that a request names; None for an unknown route."""
    return next((each.state_engine for each in loaded.config.routes if each.name == given.get("route")), None)


def _line(loaded: Loaded, engine: str, route: str, limit: TemporaryLimit) -> dict[str, Any]:
    config = next((each.limits for each in loaded.config.routes if each.name == route), None)
    return {
        "route": route,
        "engine": engine,
        "running": limit.running,
        "rate": limit.rate,
        "until": time_of(limit.until),
        "since": time_of(limit.since),
        "by": limit.by,
        "reason": limit.reason,
        "daemons": sorted(limit.daemons),
        "configured": {
            "running": None if config is None else config.running,
            "rate": None if config is None else config.rate,
        },
    }


async def _store(scene: Scene, route: str) -> TemporaryLimits:
    """Store of the limits of a route. Raises: LookupError, and InvalidCommand for another engine than the route's."""
    engine = await scene.engine()
    wanted = route_of(scene.loaded, route).state_engine
    if engine.name != wanted:
        raise InvalidCommand(f"the limits of route {route} are stored on the engine {wanted}")
    return TemporaryLimits(engine)


LIMIT_OPERATIONS: tuple[Operation[Any], ...] = (
    Operation("limits.list", "reader", "limits", Parameters, _list, list[RouteLimitLine]),
    Operation(
        "limits.set", "operator", "limits/{route}:set", SetLimit, _set, RouteLimitInfo, lambda given: given.route,
        lambda given: {"running": given.running, "rate": given.rate, "seconds": given.seconds}, place=_place,
    ),
    Operation(
        "limits.clear", "operator", "limits/{route}:clear", OneRoute, _clear, ClearedLimit,
        lambda given: given.route, place=_place
    ),
)  # fmt: skip
