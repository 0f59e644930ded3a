"""Shared parts of the commands on a running engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bridge.cli.shared.options import config_options
from bridge.cli.shared.remote import remote_options

if TYPE_CHECKING:
    from bridge.app.operations.client import Call
    from bridge.config.source import Loaded

F = TypeVar("F", bound=Callable[..., Any])

_TABLE_WITH_CURSORS = 5
"""First table of operations whose long lists have cursors."""

EXITS = {
    0: "done",
    1: "the engine has no such instance, or the state of the instance does not allow the operation",
    3: "the configuration is not valid, or the engine does not answer (is the daemon running?)",
}


def local_engine_options(function: F) -> F:
    """Add the options `config`, `overlay` and `engine`."""
    engine = click.option("--engine", metavar="NAME", help="Name of an engine of `engines`.  [default: default]")
    return engine(config_options(function))


def engine_options(function: F) -> F:
    """Add the options `config`, `overlay`, `engine` and `remote`."""
    return remote_options(local_engine_options(function))


def operate(options: dict[str, Any], *calls: Call) -> list[Any]:
    """Run operations of `bridge.app.operations.table`, in the daemon where one runs, and return their results.

    calls: names and parameters.
    options: values of `engine_options`.
    """
    if options.get("remote") is not None:
        from bridge.app import remote

        return asyncio.run(remote.operate(options["remote"], options["engine"], calls))
    from bridge.app.serve.control import operate as run

    return asyncio.run(run(_loaded(options), options["engine"], calls))


def operate_each(options: dict[str, Any], calls: Sequence[Call]) -> list[Any]:
    """Run operations as `operate` does; return their results or errors. An outage ends the list."""
    if options.get("remote") is not None:
        from bridge.app import remote

        return asyncio.run(remote.operate_each(options["remote"], options["engine"], calls))
    from bridge.app.serve.control import operate_each as run

    return asyncio.run(run(_loaded(options), options["engine"], calls))


def lists_in_parts(options: dict[str, Any]) -> bool:
    """True if the daemon reads long lists in parts: an earlier one does not know cursors."""
    return table_of(options) >= _TABLE_WITH_CURSORS


def table_of(options: dict[str, Any]) -> int:
    """Number of the daemon's table of operations; see `bridge.app.operations.operation.TABLE`."""
    [found] = operate(options | {"engine": None}, ("engines.list", {}))
    return max((int(each.get("table", 0)) for each in found), default=0)


def require_table(options: dict[str, Any], table: int, command: str) -> None:
    """Check that a remote daemon knows the operations of a command. Raises: InvalidCommand for an earlier version."""
    if table_of(options) < table:
        from bridge.core.errors import InvalidCommand

        raise InvalidCommand(
            f"{options['remote'].url}: the daemon has an earlier version, without what `{command}` needs. Next: update "
            "the daemon, or run the command on its machine"
        )


def in_parts(options: dict[str, Any], call: Call, member: str, limit: int | None) -> list[Any]:
    """Entries of a list, read in parts. member: of a part, with its entries. limit: most entries; None for all."""
    from bridge.app.operations.cursors import MOST_OF_PART, START

    name, given = call
    found: list[Any] = []
    cursor: str | None = START
    while cursor is not None and (limit is None or len(found) < limit):
        size = MOST_OF_PART if limit is None else min(MOST_OF_PART, limit - len(found))
        [part] = operate(options, (name, {**given, "cursor": cursor, "limit": size}))
        found += part[member]
        cursor = part["next"]
    return found


def engine_names(options: dict[str, Any]) -> list[str]:
    """Names of all engines. options: values of `engine_options`."""
    if options.get("remote") is not None:
        [found] = operate(options | {"engine": None}, ("engines.list", {}))
        return [each["name"] for each in found]
    return list(_loaded(options).config.engines)


def source_names(options: dict[str, Any]) -> list[str]:
    """Names of all sources, in order. options: values of `engine_options`."""
    if options.get("remote") is not None:
        [found] = operate(options | {"engine": None}, ("sources.list", {}))
        return sorted({each["source"] for each in found})
    return sorted(_loaded(options).config.sources)


def engine_of_source(options: dict[str, Any], action: str, source: str, reason: str | None) -> str | None:
    """Name of the engine that stores the limits of a source. Raises: LookupError if no such source is configured.

    None for a remote daemon, which finds it.
    action, reason: for the audit line of that failure.
    """

    def find(loaded: Loaded) -> str:
        from bridge.app.operations.sources.states import engine_name

        return engine_name(loaded, source)

    return _engine_of(options, action, source, reason, find)


def engine_of_route(options: dict[str, Any], action: str, route: str, reason: str | None) -> str | None:
    """Name of the engine of a route. Raises: LookupError if no such route is configured.

    None for a remote daemon, which finds it.
    action, reason: for the audit line of that failure.
    """

    def find(loaded: Loaded) -> str:
        from bridge.app.operations.route_limits import route_of

        return route_of(loaded, route).state_engine

    return _engine_of(options, action, route, reason, find)


def _engine_of(
    options: dict[str, Any], action: str, target: str, reason: str | None, find: Callable[[Loaded], str]
) -> str | None:
    if options["remote"] is not None:
        return None
    from bridge.app.audit import refused

    loaded = _loaded(options)
    with refused(loaded, action, target, reason):
        return find(loaded)


def operate_on_each_engine(options: dict[str, Any], call: tuple[str, dict[str, Any]]) -> list[Any]:
    """Run an operation for each engine that routes use; return the results. A remote daemon is asked for all engines.

    options: values of `config_options` and `remote_options`.
    """
    if options["remote"] is not None:
        return [operate(options | {"engine": name}, call)[0] for name in engine_names(options)]
    from bridge.app.serve.control import operate as run

    loaded = _loaded(options)
    engines = dict.fromkeys(route.state_engine for route in loaded.config.routes)

    async def all_of_them() -> list[Any]:
        return [result for engine in engines for result in await run(loaded, engine, [call])]

    return asyncio.run(all_of_them())


def _loaded(options: dict[str, Any]) -> Loaded:
    from bridge.app.composition import load_config

    return load_config(options["config"], options["overlay"])
