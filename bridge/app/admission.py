"""The limits of routes, from a configuration and live engines."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress

from durabletask.client import OrchestrationQuery, OrchestrationStatus

from bridge.config.source import Loaded
from bridge.engines.base import Engine
from bridge.engines.errors import translate
from bridge.pipeline.admission import NO_LIMITS, Admission, Rate, RouteLimit
from bridge.pipeline.population import Count, Population
from bridge.routing.template import constant_prefix

_RUNNING = [OrchestrationStatus.PENDING, OrchestrationStatus.RUNNING, OrchestrationStatus.SUSPENDED]
_PAGE = 1000


def build_admission(loaded: Loaded, engines: Mapping[str, Engine]) -> Admission:
    """The limits of all routes, not started. Routes with the same engine and prefix share a count.

    Start it when the engines are started; the configuration must be one that `check` passes.
    """
    limits: dict[str, RouteLimit] = {}
    populations: dict[tuple[str, str], Population] = {}
    for route in loaded.config.routes:
        if route.limits is None:
            continue
        population = None
        verb = route.schedule or route.start_or_raise
        if route.limits.running is not None and verb is not None:
            prefix = constant_prefix(verb.instance_id)
            population = populations.setdefault(
                (route.engine, prefix), Population(route.engine, prefix, count(engines[route.engine], prefix))
            )
        rate = None if route.limits.rate is None else Rate(route.limits.rate, route.limits.burst)
        limits[route.name] = RouteLimit(route.name, route.limits.running, population, rate)
    return Admission(limits, tuple(populations.values())) if limits else NO_LIMITS


def listen(admission: Admission, engines: Mapping[str, Engine]) -> None:
    """Let the engines that can tell the populations what starts and finishes. On the event loop, engines started."""
    loop = asyncio.get_running_loop()
    for name, engine in engines.items():
        mine = [population for population in admission.populations if population.engine == name]

        def tell(finished: Sequence[str], started: Sequence[str], mine: Sequence[Population] = mine) -> None:
            prefixes = tuple(population.prefix for population in mine)
            finished, started = _with(prefixes, finished), _with(prefixes, started)
            if finished or started:
                with suppress(RuntimeError):  # the loop has ended, and with it who would want to know
                    loop.call_soon_threadsafe(_told, mine, finished, started)

        if mine and engine.watch_runs(tell):
            for population in mine:
                population.told = True


def _with(prefixes: tuple[str, ...], ids: Sequence[str]) -> Sequence[str]:
    return [instance_id for instance_id in ids if instance_id.startswith(prefixes)]


def _told(populations: Sequence[Population], finished: Sequence[str], started: Sequence[str]) -> None:
    for population in populations:
        population.leave(finished)
        population.started(started)


def count(engine: Engine, prefix: str) -> Count:
    """Asks the engine for the ids of the instances with a prefix that have not finished."""

    async def asked() -> Collection[str]:
        query = OrchestrationQuery(runtime_status=_RUNNING, instance_id_prefix=prefix, max_instance_count=_PAGE)
        try:
            states = await engine.client.get_all_orchestration_states(query)
        except Exception as error:
            raise translate(error, what=f"count the running instances {prefix!r}") from error
        # An engine may know less of filters than it is asked for
        return [
            state.instance_id
            for state in states
            if state.instance_id.startswith(prefix) and state.runtime_status in _RUNNING
        ]

    return asked
