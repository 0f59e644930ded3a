"""Shared parts of the commands on a running engine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bridge.cli.shared.options import config_options

if TYPE_CHECKING:
    from bridge.app.operations.entities import Entities
    from bridge.app.operations.instances import Instances
    from bridge.config.source import Loaded

T = TypeVar("T")
M = TypeVar("M")
F = TypeVar("F", bound=Callable[..., Any])

EXITS = {
    0: "done",
    1: "the engine has no such instance, or the state of the instance does not allow the operation",
    3: "the configuration is not valid, or the engine does not answer (is the daemon running?)",
}


def engine_options(function: F) -> F:
    """Add the options `config`, `overlay` and `engine`."""
    engine = click.option("--engine", metavar="NAME", help="Name of an engine of `engines`.  [default: default]")
    return engine(config_options(function))


def operate(options: dict[str, Any], *calls: tuple[str, dict[str, Any]]) -> list[Any]:
    """Run operations of `bridge.app.operations.operations`, in the daemon where one runs, and return their results.

    calls: names and parameters.
    options: values of `engine_options`.
    """
    from bridge.app.composition import load_config
    from bridge.app.serve.control import operate as run

    return asyncio.run(run(load_config(options["config"], options["overlay"]), options["engine"], calls))


def operate_each(options: dict[str, Any], calls: Sequence[tuple[str, dict[str, Any]]]) -> list[Any]:
    """Run operations as `operate` does; return their results or errors. An outage ends the list."""
    from bridge.app.composition import load_config
    from bridge.app.serve.control import operate_each as run

    return asyncio.run(run(load_config(options["config"], options["overlay"]), options["engine"], calls))


def on_instances(options: dict[str, Any], operation: Callable[[Instances], Awaitable[T]]) -> T:
    """Run an operation on orchestrations and return its result. options: values of `engine_options`."""
    from bridge.app.operations.instances import Instances

    return _run(options, Instances, operation)


def on_entities(options: dict[str, Any], operation: Callable[[Entities], Awaitable[T]]) -> T:
    """Run an operation on entities and return its result. options: values of `engine_options`."""
    from bridge.app.operations.entities import Entities

    return _run(options, Entities, operation)


def on_engine(options: dict[str, Any], make: Callable[[Any], M], operation: Callable[[M], Awaitable[T]]) -> T:
    """Run an operation on the object that `make` creates for the running engine, and return its result.

    options: values of `engine_options`.
    """
    return _run(options, make, operation)


def source_states(options: dict[str, Any]) -> list[dict[str, Any]]:
    """States of all configured sources, in the form of `bridge.app.operations.limits.states`.

    options: values of `config_options`.
    """
    from bridge.app.operations.limits import states_of_all

    return asyncio.run(states_of_all(_loaded(options)))


def engine_of_source(options: dict[str, Any], action: str, source: str, reason: str | None) -> str:
    """Name of the engine that stores the limits of a source. Raises: LookupError if no such source is configured.

    action, reason: for the audit line of that failure.
    """
    from bridge.app.audit import refused
    from bridge.app.operations.limits import engine_name

    loaded = _loaded(options)
    with refused(loaded, action, source, reason):
        return engine_name(loaded, source)


def engine_of_route(options: dict[str, Any], action: str, route: str, reason: str | None) -> str:
    """Name of the engine of a route. Raises: LookupError if no such route is configured.

    action, reason: for the audit line of that failure.
    """
    from bridge.app.audit import refused
    from bridge.app.operations.route_limits import route_of

    loaded = _loaded(options)
    with refused(loaded, action, route, reason):
        return route_of(loaded, route).engine


def operate_on_each_engine(options: dict[str, Any], call: tuple[str, dict[str, Any]]) -> list[Any]:
    """Run an operation for each engine that routes use; return the results.

    options: values of `config_options`.
    """
    from bridge.app.serve.control import operate as run

    loaded = _loaded(options)
    engines = dict.fromkeys(route.engine for route in loaded.config.routes)

    async def all_of_them() -> list[Any]:
        return [result for engine in engines for result in await run(loaded, engine, [call])]

    return asyncio.run(all_of_them())


def _loaded(options: dict[str, Any]) -> Loaded:
    from bridge.app.composition import load_config

    return load_config(options["config"], options["overlay"])


def _run(options: dict[str, Any], make: Callable[[Any], Any], operation: Callable[[Any], Awaitable[T]]) -> T:
    from bridge.app.connection import attached

    name: str | None = options["engine"]
    loaded = _loaded(options)

    async def visit() -> T:
        async with attached(loaded, name) as engine:
            return await operation(make(engine))

    return asyncio.run(visit())
