"""Connection of a command to a running engine."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from bridge.app.composition import build_engine, require
from bridge.config.source import Loaded
from bridge.core.origin import unwrap
from bridge.engines.base import Engine
from bridge.system.clock import stamp as stamp

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
    """Name of the chosen engine. None: `default`, or the only one. Raises: LookupError when unknown."""
    engines = loaded.config.engines
    if name is None:
        name = next(iter(engines)) if len(engines) == 1 else "default"
    require("engine", name, engines)
    return name


def payload(serialized: str | None) -> Any:
    """JSON value of a payload, without its message envelope; text that is not JSON is returned unchanged."""
    if not serialized:
        return None
    try:
        return unwrap(json.loads(serialized)).data
    except (ValueError, RecursionError):
        return serialized
