"""Engine modes by worker: direct dispatch, the SDK's worker beside the engine, attached, remote."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

from bridge.config.model.engines import EmbeddedEngineConfig, SchedulerEngineConfig
from bridge.engines.base import Engine
from bridge.engines.embedded.engine import EmbeddedEngine
from bridge.engines.scheduler import SchedulerEngine

MODES = ("direct", "protocol", "attached", "remote")


@contextlib.asynccontextmanager
async def engine_of(way: str, directory: Path, **worker: int | str) -> AsyncIterator[Engine]:
    """Yield an engine whose worker runs in this mode. Every mode ends at an embedded engine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        listen = "{}:{}".format(*probe.getsockname())
    config = EmbeddedEngineConfig(
        type="embedded", dispatch="protocol" if way == "protocol" else "direct", listen=listen, worker=worker
    )
    async with contextlib.AsyncExitStack() as closing:
        host = EmbeddedEngine("host", config, directory, host=True)
        await host.start()
        closing.push_async_callback(host.stop)
        engine: Engine = host
        if way == "attached":
            engine = EmbeddedEngine("attached", config, directory, host=False)
        elif way == "remote":
            engine = SchedulerEngine(
                "remote", SchedulerEngineConfig(type="scheduler", endpoint=f"http://{listen}", worker=worker)
            )
        if engine is not host:
            await engine.start()
            closing.push_async_callback(engine.stop)
        yield engine
