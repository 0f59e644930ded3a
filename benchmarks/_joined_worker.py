"""Worker in a process of its own that joins the engine of a benchmark: arguments DIRECTORY DISPATCH MODULE."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from bridge.app.worker_process import user_workflows
from bridge.config.model.engines import EmbeddedEngineConfig
from bridge.engines.embedded.engine import EmbeddedEngine
from bridge.engines.workflows import load
from bridge.system.memory import tune_memory
from bridge.workflow import DataConverter


async def main() -> None:
    directory, dispatch, module = sys.argv[1:]
    config = EmbeddedEngineConfig.model_validate({"type": "embedded", "dispatch": dispatch})
    engine = EmbeddedEngine("default", config, Path(directory), host=False)
    await engine.start()
    engine.worker(user_workflows(load([module], Path(__file__).parent.parent)), DataConverter()).start()
    tune_memory()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
