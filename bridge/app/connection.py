"""Connection of a command to a running engine."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from bridge.app.composition import build_engine, require
from bridge.config.source import Loaded
from bridge.core.commands import Suspend
from bridge.core.origin import unwrap
from bridge.engines.base import Engine

T = TypeVar("T")


@asynccontextmanager
async def attached(loaded: Loaded, name: str | None = None) -> AsyncIterator[Engine]:
    """Connect to the engine of this name, which must be running. None: `default`, or the only one.

    Raises: LookupError for an unknown name, ConfigError, EngineOutage when the engine does not answer.
    """
    name = chosen(loaded, name)
    engine = build_engine(loaded, name, host=False)
    await engine.start()
    try:
        await engine.probe()
        yield engine
    finally:
        await engine.stop()


def chosen(loaded: Loaded, name: str | None) -> str:
    """Name of the chosen engine. None: `default`, or the only one, or the one where all routes start instances.

    Raises: LookupError when unknown.
    """
    engines = loaded.config.engines
    if name is None:
        starts = {route.engine for route in loaded.config.routes if route.others} & engines.keys()
        if len(engines) == 1:
            name = next(iter(engines))
        else:
            name = next(iter(starts)) if "default" not in engines and len(starts) == 1 else "default"
    require("engine", name, engines)
    return name


def searched(loaded: Loaded, name: str | None) -> Sequence[str]:
    """Names of the engines to search for a message. None: the chosen one, and those between which instances move.

    Raises: LookupError when unknown.
    """
    from bridge.routing.moves import MovingRoutes  # the library of CEL takes its time

    moving = MovingRoutes(loaded.config.routes).moving if name is None else frozenset[str]()
    first = chosen(loaded, name)
    return [first, *(each for each in loaded.config.engines if each in moving and each != first)]


async def located(
    loaded: Loaded, name: str | None, instance_id: object, opened: Callable[[str | None], Awaitable[Engine]]
) -> Engine:
    """Running engine of a request. None: the one that has its instance, see `MovingRoutes`, else the chosen one.

    instance_id: of the request, not validated; None when it names none.
    Raises: LookupError when the name is unknown, EngineError.
    """
    from bridge.routing.moves import MovingRoutes  # the library of CEL takes its time

    engines = MovingRoutes(loaded.config.routes).of_instance(instance_id) if isinstance(instance_id, str) else None
    if name is not None or engines is None:
        return await opened(name)
    from bridge.engines.commands.command_runner import CommandRunner
    from bridge.engines.commands.moving import find

    running = {each: await opened(each) for each in (engines.start, *engines.others)}
    runners = {each: CommandRunner(engine) for each, engine in running.items()}
    command = Suspend(str(instance_id))
    return running[await find(command, engines.start, engines.others, runners.__getitem__)]


def payload(serialized: str | None) -> Any:
    """JSON value of a payload, without its message envelope; text that is not JSON is returned unchanged."""
    if not serialized:
        return None
    try:
        return unwrap(json.loads(serialized)).data
    except (ValueError, RecursionError):
        return serialized
