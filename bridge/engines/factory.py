"""Creation of engines from their configuration."""

from __future__ import annotations

from pathlib import Path

from bridge.config.model.engines import EmbeddedEngineConfig, SchedulerEngineConfig
from bridge.engines.base import Engine
from bridge.engines.embedded.engine import EmbeddedEngine
from bridge.engines.keyrings import Keys, no_keys


def create(
    name: str, config: EmbeddedEngineConfig | SchedulerEngineConfig, base: Path, host: bool, keys: Keys = no_keys
) -> Engine:
    """Create an engine without starting it.

    base: directory of the configuration file, to which relative paths are resolved.
    host: True when this process may host an embedded engine. A remote engine then reads its keys at the start.
    keys: keys of the engine's encryption.
    Raises: ValueError when the endpoint is invalid.
    """
    if isinstance(config, EmbeddedEngineConfig):
        return EmbeddedEngine(name, config, base / config.path, host, keys)
    # Imported on demand: the Azure libraries take a quarter of a second, which every command would otherwise pay
    from bridge.engines.scheduler import SchedulerEngine

    return SchedulerEngine(name, config, keys, intake=host)
