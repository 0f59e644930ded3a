"""Engines that may have an instance, by the routes of a configuration."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bridge.config.model.routes import RouteConfig
from bridge.routing.cel.template import constant_prefix


@dataclass(frozen=True, slots=True)
class Engines:
    """Engines of an instance. start: where it starts. others: further ones that may have it."""

    start: str
    others: tuple[str, ...] = ()


class MovingRoutes:
    """Routes of a configuration, as messages and instances of them are found.

    The constant prefix of `instance_id` tells routes apart: the longest one that fits an id decides.
    """

    def __init__(self, routes: Iterable[RouteConfig]) -> None:
        self._by_name = {route.name: route for route in routes}
        found = [(_prefix(route), route) for route in self._by_name.values()]
        self._by_prefix = sorted(
            ((prefix, route) for prefix, route in found if prefix is not None), key=lambda each: -len(each[0])
        )

    @property
    def moving(self) -> frozenset[str]:
        """Names of the engines between which instances move."""
        return frozenset(name for route in self._by_name.values() if route.others for name in route.find)

    def of_message(self, route: str, instance_id: str, engine: str) -> Engines:
        """Engines of the instance for which a message of a route waits. engine: where it waits."""
        known = self._by_name.get(route)
        if known is None or engine not in known.find:
            # The route has another name or engine since the message was stored
            known = next(
                (each for prefix, each in self._by_prefix if instance_id.startswith(prefix) and engine in each.find),
                None,
            )
        return Engines(engine) if known is None else Engines(known.engine, known.others)

    def of_instance(self, instance_id: str) -> Engines | None:
        """Engines of an instance; None when no route has a fitting prefix, or its instances do not move."""
        found = next((each for prefix, each in self._by_prefix if instance_id.startswith(prefix)), None)
        return None if found is None or not found.others else Engines(found.engine, found.others)


def _prefix(route: RouteConfig) -> str | None:
    return None if route.instance_id is None else constant_prefix(route.instance_id)
