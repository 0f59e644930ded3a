"""Host of an embedded engine in a process: arguments DIRECTORY."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from bridge.config.model.engines import EmbeddedEngineConfig
from bridge.engines.embedded.engine import EmbeddedEngine


async def main() -> None:
    engine = EmbeddedEngine("default", EmbeddedEngineConfig(type="embedded"), Path(sys.argv[1]), host=True)
    await engine.start()
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
