"""Entities of an embedded engine as its file has them.

The module imports neither gRPC nor the SDK's client: a command that only reads starts faster without them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from bridge.engines.embedded.address import FILE
from bridge.engines.keyrings import Keys
from bridge.sqlite_engine.maintenance.inspection import read_states


class StoredFile:
    """File of an embedded engine, which another process may host. Implements `bridge.engines.base.StoredEntities`."""

    def __init__(self, directory: Path, keys: Keys) -> None:
        """Create the reader; read nothing. directory: of the engine. keys: keys of the file's encryption."""
        self._file = directory / FILE
        self._keys = keys

    async def entity_states(self, prefix: str) -> Mapping[str, str]:
        """See `StoredEntities.entity_states`."""
        return await asyncio.to_thread(self._read, prefix)

    def _read(self, prefix: str) -> Mapping[str, str]:
        return read_states(self._file, self._keys(), prefix) if self._file.exists() else {}
