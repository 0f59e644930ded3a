"""From configuration to engine."""

from __future__ import annotations

from pathlib import Path

from bridge.config.engines import EmbeddedEngineConfig, SchedulerEngineConfig
from bridge.engines.base import Engine
from bridge.engines.embedded.engine import EmbeddedEngine
from bridge.engines.keyrings import Keys, no_keys


def create(
    name: str, config: EmbeddedEngineConfig | SchedulerEngineConfig, base: Path, host: bool, keys: Keys = no_keys
) -> Engine:
    """The engine, not started.

    base: directory of the configuration file; relative paths resolve there. host: whether this process may host an
        embedded engine; a remote one reads its keys at the start then. keys: of its encryption.
    Raises: ValueError when the endpoint is not one.
    """
    if isinstance(config, EmbeddedEngineConfig):
        return EmbeddedEngine(name, config, base / config.path, host, keys)
    # Imported when asked for: the Azure libraries take a quarter of a second, which every command would pay
    from bridge.engines.scheduler import SchedulerEngine

    return SchedulerEngine(name, config, keys, intake=host)
