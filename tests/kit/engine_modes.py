"""Engine modes by worker: beside the engine, attached to its socket, on its port; the loop of the bridge or the SDK."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

from bridge.config.model.engines import EmbeddedEngineConfig, SchedulerEngineConfig
from bridge.engines.base import Engine
from bridge.engines.embedded.engine import EmbeddedEngine
from bridge.engines.scheduler import SchedulerEngine
from tests.kit.ports import free_address

MODES = ("direct", "protocol", "attached", "remote", "remote_protocol")


@contextlib.asynccontextmanager
async def engine_of(way: str, directory: Path, **worker: int | str) -> AsyncIterator[Engine]:
    """Yield an engine whose worker runs in this mode. Every mode ends at an embedded engine."""
    listen = free_address()
    dispatch: Literal["direct", "protocol"] = "protocol" if way.endswith("protocol") else "direct"
    config = EmbeddedEngineConfig(type="embedded", dispatch=dispatch, listen=listen, worker=worker)
    async with contextlib.AsyncExitStack() as closing:
        host = EmbeddedEngine("host", config, directory, host=True)
        await host.start()
        closing.push_async_callback(host.stop)
        engine: Engine = host
        if way == "attached":
            engine = EmbeddedEngine("attached", config, directory, host=False)
        elif way.startswith("remote"):
            remote = SchedulerEngineConfig(
                type="scheduler", endpoint=f"http://{listen}", dispatch=dispatch, worker=worker
            )
            engine = SchedulerEngine("remote", remote)
        if engine is not host:
            await engine.start()
            closing.push_async_callback(engine.stop)
        yield engine
