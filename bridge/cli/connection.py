"""What the commands on a running engine have in common."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bridge.cli.options import config_options

if TYPE_CHECKING:
    from bridge.app.entities import Entities
    from bridge.app.instances import Instances
    from bridge.app.parked import ParkedMessages
    from bridge.config.source import Loaded

T = TypeVar("T")
M = TypeVar("M")
F = TypeVar("F", bound=Callable[..., Any])

EXITS = {
    0: "done",
    1: "the engine has no such instance, or it is in no state for this",
    3: "the configuration is broken, or the engine does not answer (is the daemon running?)",
}


def engine_options(function: F) -> F:
    """Adds `config`, `overlay` and `engine`."""
    engine = click.option("--engine", metavar="NAME", help="Engine, from `engines`.  [default: default]")
    return engine(config_options(function))


def operate(options: dict[str, Any], *calls: tuple[str, dict[str, Any]]) -> list[Any]:
    """The results of operations of `bridge.app.operations`, by the daemon where one runs.

    calls: names and parameters. options: what `engine_options` gave.
    """
    from bridge.app.composition import load_config
    from bridge.app.control import operate as run

    return asyncio.run(run(load_config(options["config"], options["overlay"]), options["engine"], calls))


def on_instances(options: dict[str, Any], operation: Callable[[Instances], Awaitable[T]]) -> T:
    """The result of an operation on orchestrations. options: what `engine_options` gave."""
    from bridge.app.instances import Instances

    return _run(options, Instances, operation)


def on_entities(options: dict[str, Any], operation: Callable[[Entities], Awaitable[T]]) -> T:
    """The result of an operation on entities. options: what `engine_options` gave."""
    from bridge.app.entities import Entities

    return _run(options, Entities, operation)


def on_engine(options: dict[str, Any], make: Callable[[Any], M], operation: Callable[[M], Awaitable[T]]) -> T:
    """The result of an operation on what `make` makes of the running engine. options: what `engine_options` gave."""
    return _run(options, make, operation)


def on_parked(options: dict[str, Any], operation: Callable[[ParkedMessages], Awaitable[T]]) -> T:
    """The result of an operation on messages that wait. options: what `engine_options` gave."""
    from bridge.app.parked import ParkedMessages

    return _run(options, ParkedMessages, operation)


def source_states(options: dict[str, Any]) -> list[dict[str, Any]]:
    """State of every configured source, as `bridge.app.limits.states` has it. options: of `config_options`."""
    from bridge.app.limits import states_of_all

    return asyncio.run(states_of_all(_loaded(options)))


def engine_of_source(options: dict[str, Any], action: str, source: str, reason: str | None) -> str:
    """Name of the engine with the limits of a source. Raises: LookupError when no such source is configured.

    action, reason: of the audit line that is left then.
    """
    from bridge.app.audit import refused
    from bridge.app.limits import engine_name

    loaded = _loaded(options)
    with refused(loaded, action, source, reason):
        return engine_name(loaded, source)


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
