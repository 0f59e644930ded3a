"""Worker of another process that joins an engine, as `bridge worker` does: argument DIRECTORY."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from bridge.app.worker_process import user_workflows
from bridge.config.model.engines import EmbeddedEngineConfig
from bridge.engines.embedded.engine import EmbeddedEngine
from bridge.engines.workflows import load
from bridge.workflow import DataConverter


async def main() -> None:
    root = Path(__file__).parents[3]
    engine = EmbeddedEngine("default", EmbeddedEngineConfig(type="embedded"), Path(sys.argv[1]), host=False)
    await engine.start()
    engine.worker(user_workflows(load(["tests.engines.processes.flows"], root)), DataConverter()).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
