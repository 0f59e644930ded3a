"""Temporary limits of routes, applied to the routes of this daemon: read from the engines, and shared with others."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import structlog

from bridge.app.serve.decisions.pauses import READ_SECONDS, SOON_SECONDS
from bridge.app.serve.views.status import daemon_id
from bridge.config.model.routes import RouteConfig, RouteLimitsConfig
from bridge.config.source import Loaded
from bridge.core.errors import EngineError
from bridge.engines.base import Engine
from bridge.engines.entities.temporary_limits import TemporaryLimit, TemporaryLimits
from bridge.pipeline.limits.route_limits import TemporaryRouteLimit
from bridge.system.clock import time_of

log = structlog.get_logger("bridge.admission")

PRESENT_SECONDS = 10.0
"""Seconds between two sign-ins of a daemon at a limit with a rate."""
ABSENT_SECONDS = 30.0
"""Seconds after which a daemon that has not signed in again has no share of a rate."""
_LEAVE_SECONDS = 2.0
"""Seconds to sign out at the end of the daemon. A daemon that does not sign out is found to be absent."""


@dataclass(slots=True)
class _Sight:
    """Last sign-in of another daemon, as this daemon has seen it. changed: monotonic seconds."""

    at: float
    changed: float


class TemporaryLimitWatch:
    """Reader of the temporary limits. Signs in at those with a rate, and reports changes of this daemon's share.

    A daemon whose worker has processed a change applies it at once, others at their next read.
    Sign-ins are compared with earlier ones of the same daemon, never with this machine's clock. A limit that was read
    stays while its engine is away, until its time is over.
    """

    def __init__(
        self, engines: Mapping[str, Engine], current: Callable[[], Loaded], changed: Callable[[], Awaitable[None]]
    ) -> None:
        """Create the watch. current: returns the configuration in use. changed: applies what `limits` returns."""
        self._engines = engines
        self._stores: dict[str, TemporaryLimits] = {}
        self._current = current
        self._changed = changed
        self._daemon = daemon_id(os.getpid())
        self._found: dict[str, Mapping[str, TemporaryLimit]] = {}
        """Limits by engine and route, as last read."""
        self._seen: dict[tuple[str, str], _Sight] = {}
        """Other daemons by route and id."""
        self._present: dict[tuple[str, str], float] = {}
        """Monotonic times of this daemon's sign-ins by engine and route."""
        self._applied: Mapping[str, TemporaryRouteLimit] = {}
        self._decided = asyncio.Event()

    def read_soon(self) -> None:
        """Read again: a worker of this process has processed a change. Call in the event loop."""
        self._decided.set()

    def limits(self, loaded: Loaded) -> dict[str, TemporaryRouteLimit]:
        """Limits that hold now instead of those of the configuration, by route, with this daemon's share of rates."""
        return {
            route.name: TemporaryRouteLimit(_effective(route, limit, self._share(route.name, limit)), limit.until)
            for route, limit in self._active(loaded)
        }

    def document(self) -> list[dict[str, Any]]:
        """Limits that hold now, as JSON types of the status."""
        return [
            {
                "route": route.name,
                "engine": route.state_engine,
                "running": limit.running,
                "rate": limit.rate,
                "until": time_of(limit.until),
                "seconds_left": round(limit.until - time.time(), 1),
                "by": limit.by,
                "reason": limit.reason,
            }
            for route, limit in self._active(self._current())
        ]

    async def read(self) -> None:
        """Read all limits once, and apply changes."""
        await asyncio.gather(*map(self._read, {route.state_engine for route in self._current().config.routes}))
        await self._sign_in()
        wanted = self.limits(self._current())
        if wanted != self._applied:
            for name in wanted.keys() | self._applied.keys():
                self._log_change(name, wanted.get(name), self._applied.get(name))
            self._applied = wanted
            await self._changed()

    async def run(self) -> None:
        """Read again and again. Never returns."""
        pause = READ_SECONDS
        try:
            while True:
                ends = min((each.until - time.time() for each in self._applied.values()), default=READ_SECONDS)
                try:
                    async with asyncio.timeout(min(pause, max(SOON_SECONDS, ends))):
                        await self._decided.wait()
                except TimeoutError:
                    pause = min(READ_SECONDS, 2 * pause)
                else:
                    self._decided.clear()
                    pause = SOON_SECONDS
                await self.read()
        finally:
            with suppress(TimeoutError, EngineError):
                async with asyncio.timeout(_LEAVE_SECONDS):
                    for engine, route in self._present:
                        await self._stores[engine].report(route, "left", self._daemon, time.time())

    async def _read(self, engine: str) -> None:
        store = self._stores.setdefault(engine, TemporaryLimits(self._engines[engine]))
        with suppress(EngineError):  # what was read before stays
            found = await store.load()
            now = time.monotonic()
            for route, limit in found.items():
                for daemon, at in limit.daemons.items():
                    sight = self._seen.get((route, daemon))
                    if sight is None or sight.at != at:
                        self._seen[route, daemon] = _Sight(at, now)
            self._found[engine] = found

    async def _sign_in(self) -> None:
        """Sign in at limits with a rate, and remove limits that are over."""
        now, at = time.monotonic(), time.time()
        active = {(route.state_engine, route.name): limit for route, limit in self._active(self._current())}
        for engine, limits in self._found.items():
            for route, limit in limits.items():
                place = engine, route
                with suppress(EngineError):
                    if limit.until <= at:
                        await self._stores[engine].report(route, "end", self._daemon, at)
                    elif place in active and limit.rate is not None:
                        last = self._present.get(place)
                        if last is None or now - last >= PRESENT_SECONDS or self._daemon not in limit.daemons:
                            await self._stores[engine].report(route, "present", self._daemon, at)
                            self._present[place] = now
        self._present = {place: when for place, when in self._present.items() if place in active}
        known = {
            (route, daemon) for each in self._found.values() for route, it in each.items() for daemon in it.daemons
        }
        self._seen = {place: sight for place, sight in self._seen.items() if place in known}

    def _active(self, loaded: Loaded) -> list[tuple[RouteConfig, TemporaryLimit]]:
        now = time.time()
        found = []
        for route in loaded.config.routes:
            limit = self._found.get(route.state_engine, {}).get(route.name)
            if limit is not None and limit.until > now:
                found.append((route, limit))
        return found

    def _share(self, route: str, limit: TemporaryLimit) -> float | None:
        """Commands per second of this daemon: the rate, divided by the daemons that have signed in lately."""
        if limit.rate is None:
            return None
        now = time.monotonic()
        others = sum(
            now - sight.changed < ABSENT_SECONDS
            for (of, daemon), sight in self._seen.items()
            if of == route and daemon != self._daemon
        )
        return limit.rate / (others + 1)

    def _log_change(self, route: str, wanted: TemporaryRouteLimit | None, before: TemporaryRouteLimit | None) -> None:
        if wanted is None:
            log.info(f"the temporary limit of route {route} has ended", action="limit", route=route)
            return
        config = wanted.config
        write = log.warning if before is None else log.info
        write(
            f"route {route} is limited until {time_of(wanted.until)}. Next: bridge limits list",
            action="limit",
            route=route,
            running=config.running,
            rate=config.rate,
        )


def _effective(route: RouteConfig, limit: TemporaryLimit, share: float | None) -> RouteLimitsConfig:
    """Limits of a route while a temporary one holds. share: commands per second of this daemon."""
    changes: dict[str, Any] = {}
    if limit.running is not None and (route.schedule is not None or route.start_or_raise is not None):
        changes["running"] = limit.running
    if share is not None:
        changes |= {"rate": share, "burst": 1}
    if route.limits is not None:
        return route.limits.model_copy(update=changes)
    return RouteLimitsConfig.model_construct(**{"running": None, "rate": None, "burst": 1, "per": None, **changes})
