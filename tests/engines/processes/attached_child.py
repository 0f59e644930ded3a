"""Worker of another process that joins an engine, as `bridge worker` does: arguments DIRECTORY [MODULE [BYTES]].

BYTES: limit of the memory of the process.
"""

from __future__ import annotations

import asyncio
import resource
import sys
from pathlib import Path

from bridge.app.worker_process import user_workflows
from bridge.config.model.engines import EmbeddedEngineConfig
from bridge.engines.embedded.engine import EmbeddedEngine
from bridge.engines.workflows import load
from bridge.workflow import DataConverter


async def main(directory: str, module: str = "tests.engines.processes.flows", memory: str = "") -> None:
    if memory:
        resource.setrlimit(resource.RLIMIT_DATA, (int(memory), int(memory)))
    engine = EmbeddedEngine("default", EmbeddedEngineConfig(type="embedded"), Path(directory), host=False)
    await engine.start()
    workflows = load(module.split(","), Path(__file__).parents[3])
    engine.worker(user_workflows(workflows), DataConverter()).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
