"""Embedded engine with worker processes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bridge.app.serve.worker_processes import MODULE
from bridge.app.worker_process import user_workflows
from bridge.config.model.engines import EmbeddedEngineConfig
from bridge.engines.commands.command_runner import CommandRunner
from bridge.engines.embedded.engine import EmbeddedEngine
from bridge.engines.embedded.processes.settings import ProcessSettings
from bridge.engines.embedded.processes.supervisor import ProcessView, WorkerProcesses, default_command
from bridge.engines.worker.setup import stop_worker
from bridge.engines.workflows import load
from tests.engines.contract import EngineFixture
from tests.kit.waiting import TIMEOUT, eventually

ROOT = Path(__file__).parents[3]
MODULES = ("tests.engines.processes.flows", "tests.engines.processes.deaths")


def pytest_itemcollected(item: pytest.Item) -> None:
    item.add_marker(pytest.mark.long)


@dataclass
class ProcessFixture(EngineFixture):
    """Engine whose workflows run in processes."""

    processes: WorkerProcesses

    def views(self) -> list[ProcessView]:
        return self.processes.views()

    def pids(self) -> list[int]:
        return [view.pid for view in self.views() if view.pid is not None]

    async def all_run(self) -> None:
        await eventually(lambda: all(view.runs for view in self.views()), lambda: str(self.views()))


Start = Callable[..., AbstractAsyncContextManager[ProcessFixture]]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Function that starts an engine with worker processes."""

    @asynccontextmanager
    async def started(number: int = 2, **settings: Any) -> AsyncIterator[ProcessFixture]:
        worker, trace_endpoint = settings.pop("worker", {}), settings.pop("trace_endpoint", None)
        threads = worker.get("threads", 16)
        config = EmbeddedEngineConfig.model_validate(
            {"type": "embedded", "worker": {"processes": number, **worker}, **settings}
        )
        engine = EmbeddedEngine("default", config, tmp_path / "engine", host=True)
        await engine.start()
        names = user_workflows(load(MODULES, ROOT))
        processes = engine.worker_processes(
            number,
            ProcessSettings(
                "default", MODULES, str(ROOT), threads=threads, trace_endpoint=trace_endpoint, trace_sample=1.0
            ),
            names,
            default_command(MODULE),
        )
        processes.start()
        try:
            fixture = ProcessFixture(engine, CommandRunner(engine), processes)
            await fixture.all_run()
            yield fixture
        finally:
            assert await stop_worker(processes, TIMEOUT)
            await engine.stop()

    return started
