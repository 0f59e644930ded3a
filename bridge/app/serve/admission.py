"""Construction of the limits of routes from a configuration and live engines."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial

from durabletask.client import OrchestrationQuery, OrchestrationStatus

from bridge.app.check.cost import cost
from bridge.config.model.routes import RouteConfig
from bridge.config.source import Loaded
from bridge.engines.base import Engine
from bridge.pipeline.limits.action_budget import ActionBudget
from bridge.pipeline.limits.per_value import ValueAccounts
from bridge.pipeline.limits.route_limits import Admission, RouteLimit, TemporaryRouteLimit, TokenBucket
from bridge.pipeline.limits.running_instances import CountRunning, RunningInstances
from bridge.routing.cel.template import constant_prefix
from bridge.routing.per import SHARED, TAG

_RUNNING = [OrchestrationStatus.PENDING, OrchestrationStatus.RUNNING, OrchestrationStatus.SUSPENDED]
_PAGE = 1000


def build_admission(
    loaded: Loaded,
    engines: Mapping[str, Engine],
    former: Admission | None = None,
    temporary: Mapping[str, TemporaryRouteLimit] | None = None,
) -> Admission:
    """Create the limits of all routes, not started. Routes with the same engine and prefix share a count.

    Start the admission after the engines. The configuration must pass `check`.
    former: limits of the earlier configuration. Their counts are taken over, and their commands that wait try again.
    temporary: limits by route that hold instead of those of the configuration.
    """
    limits: dict[str, RouteLimit] = {}
    temporary = temporary or {}
    routes = [
        route.model_copy(update={"limits": temporary[route.name].config}) if route.name in temporary else route
        for route in loaded.config.routes
    ]
    configs = {route.name: route.limits for route in routes if route.limits is not None}
    kept = {} if former is None else {(each.engine, each.prefix): each for each in former.running_instances}
    counted: dict[tuple[str, str], RunningInstances] = {}
    for route in routes:
        if route.limits is None:
            continue
        running, key = None, _counted(route)
        if key is not None:
            running = counted.get(key)
            if running is None:
                most = _most_values(routes, key)
                running = kept.get(key)
                if running is None or running.max_values != most:
                    asked = count(engines[route.engine], key[1], values=most is not None)
                    running = RunningInstances(*key, asked, most)
                counted[key] = running
        rate = None if route.limits.rate is None else TokenBucket(route.limits.rate, route.limits.burst)
        per = route.limits.per
        each_running = None if per is None else per.running
        each_rate = None
        if per is not None and per.rate is not None:
            each_rate = ValueAccounts(per.max_values, partial(TokenBucket, per.rate, per.burst))
        limit = None if former is None else former.limits.get(route.name)
        if limit is None or limit.running_instances is not running:
            limit = RouteLimit(
                route.name, route.limits.running, running, rate, each_running=each_running, each_rate=each_rate
            )
        elif former is not None and former.configs.get(route.name) != route.limits:
            limit.change(route.limits.running, rate, each_running, each_rate)
        limit.end_at(temporary[route.name].until if route.name in temporary else None)
        limits[route.name] = limit
    for name, ended in former.limits.items() if former is not None else ():
        if limits.get(name) is not ended:
            ended.change(None, None, None, None)
    return Admission(limits, tuple(counted.values()), configs, set() if former is None else former.listening)


def build_budgets(loaded: Loaded) -> tuple[dict[str, ActionBudget], dict[str, int]]:
    """Create the budgets of the engines with `max_actions_per_minute`; return also the actions of each route."""
    budgets = {
        name: ActionBudget(name, engine.max_actions_per_minute)
        for name, engine in loaded.config.engines.items()
        if engine.max_actions_per_minute is not None
    }
    return budgets, action_costs(loaded) if budgets else {}


def action_costs(loaded: Loaded) -> dict[str, int]:
    """Actions of each route."""
    return {each.route: each.actions for each in cost(loaded).routes}


def _counted(route: RouteConfig) -> tuple[str, str] | None:
    """Engine and prefix of the running orchestrations that limit a route; None where it has no such limit."""
    command = route.schedule or route.start_or_raise
    if command is None or route.limits is None:
        return None
    per = route.limits.per
    if route.limits.running is None and (per is None or per.running is None):
        return None
    return route.engine, constant_prefix(command.instance_id)


def _most_values(routes: Sequence[RouteConfig], key: tuple[str, str]) -> int | None:
    """Most values counted separately among orchestrations that several routes may start; None: not counted by value."""
    wanted = [
        route.limits.per.max_values
        for route in routes
        if route.limits is not None and route.limits.per is not None and route.limits.per.running is not None
        if _counted(route) == key
    ]
    return max(wanted, default=None)


def listen(admission: Admission, engines: Mapping[str, Engine]) -> None:
    """Subscribe the running instances to engines that report starts and ends.

    Call it on the event loop, after the start of the engines, and again when there are others.
    """
    loop = asyncio.get_running_loop()
    for name, engine in engines.items():
        mine = [each for each in admission.running_instances if each.engine == name]
        if not mine:
            continue
        if name not in admission.listening:

            def update(finished: Sequence[str], started: Sequence[str], name: str = name) -> None:
                prefixes = tuple({each.prefix for each in admission.running_instances if each.engine == name})
                finished, started = _with(prefixes, finished), _with(prefixes, started)
                if finished or started:
                    mine = [each for each in admission.running_instances if each.engine == name]
                    with suppress(RuntimeError):  # the loop has ended, and its listeners with it
                        loop.call_soon_threadsafe(_apply, mine, finished, started)

            if not engine.watch_runs(update):
                continue
            admission.listening.add(name)
        for each in mine:
            each.rely_on_notices()


def _with(prefixes: tuple[str, ...], ids: Sequence[str]) -> Sequence[str]:
    return [instance_id for instance_id in ids if instance_id.startswith(prefixes)]


def _apply(running_instances: Sequence[RunningInstances], finished: Sequence[str], started: Sequence[str]) -> None:
    for each in running_instances:
        each.leave(finished)
        each.started(started)


def count(engine: Engine, prefix: str, *, values: bool = False) -> CountRunning:
    """Return a function that reads the ids of unfinished instances with a prefix. values: with their values."""

    async def asked() -> Collection[str]:
        what = f"count the running instances {prefix!r}"
        if values:
            found = await engine.client.get_all_tags(_RUNNING, prefix, _PAGE, what=what)
        else:
            query = OrchestrationQuery(runtime_status=_RUNNING, instance_id_prefix=prefix, max_instance_count=_PAGE)
            states = await engine.client.get_all_orchestration_states(query, what=what)
            found = [(state.instance_id, state.runtime_status, {}) for state in states]
        # An engine may ignore a part of the filter
        return {
            instance_id: tags.get(TAG, SHARED)
            for instance_id, status, tags in found
            if instance_id.startswith(prefix) and status in _RUNNING
        }

    return asked
