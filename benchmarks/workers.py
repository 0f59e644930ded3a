"""Workflows in the daemon's process, in one worker process and in two; the variants alternate within each round.

`VARIANT_one_activity_per_second`, `VARIANT_five_activities_per_second`: completed orchestrations, inputs of 1 KB,
durable. `VARIANT_cpu_per_second`: activities of 10 ms of pure Python. `VARIANT_cpu_start_p99_ms`: meanwhile, the time
of a start call at 100 a second, as intake waits for it. `ratio_*`: medians of the ratios within a round.
BENCH_ROUNDS: number of rounds.
"""

from __future__ import annotations

import asyncio
import logging
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

from durabletask import task
from durabletask.client import AsyncTaskHubGrpcClient

from bridge.app.serve.worker_processes import MODULE
from bridge.app.worker_process import user_workflows
from bridge.config.model.engines import EmbeddedEngineConfig
from bridge.engines.embedded.engine import EmbeddedEngine
from bridge.engines.embedded.processes.settings import ProcessSettings
from bridge.engines.embedded.processes.supervisor import WorkerProcesses, default_command
from bridge.engines.worker.contained_worker import RunningWorker
from bridge.engines.workflows import load
from bridge.sqlite_engine.model.instance import Finish
from bridge.system.memory import tune_memory
from bridge.workflow import DataConverter

ROOT = Path(__file__).parent.parent
PAYLOAD = {"order": "o-1", "note": "x" * 990}
VARIANTS = (0, 1, 2)
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
CONCURRENT_STARTS = 64
COUNTS = {"one_activity": 4000, "five_activities": 1500, "cpu": 300}


def echo(ctx: task.ActivityContext, value: Any) -> Any:
    return value


def burn(ctx: task.ActivityContext, milliseconds: float) -> int:
    """Compute for this processor time, in pure Python."""
    end, steps = time.thread_time() + milliseconds / 1000, 0
    while time.thread_time() < end:
        steps += 1
    return steps


def one_activity(ctx: task.OrchestrationContext, value: Any) -> Generator[Any, Any, Any]:
    return (yield ctx.call_activity(echo, input=value))


def five_activities(ctx: task.OrchestrationContext, value: Any) -> Generator[Any, Any, Any]:
    for _ in range(5):
        value = yield ctx.call_activity(echo, input=value)
    return value


def cpu(ctx: task.OrchestrationContext, value: Any) -> Generator[Any, Any, Any]:
    return (yield ctx.call_activity(burn, input=10))


def name_of(variant: int) -> str:
    return f"{variant}_processes" if variant else "in_process"


class Ends:
    """Counts ended instances of one orchestration."""

    def __init__(self, name: str, number: int) -> None:
        self._name = name
        self._left = number
        self._lock = threading.Lock()
        self.done = threading.Event()

    def add(self, ends: Any) -> None:
        with self._lock:
            self._left -= sum(1 for end in ends if _name(end) == self._name)
            if self._left <= 0:
                self.done.set()


def _name(end: Finish) -> str:
    return end.name


async def _paced(client: AsyncTaskHubGrpcClient, done: threading.Event) -> list[float]:
    """Times of start calls at 100 a second, until `done`."""
    took = []
    while not done.is_set():
        began = time.perf_counter()
        await client.schedule_new_orchestration("nobody", input=PAYLOAD)
        took.append(time.perf_counter() - began)
        await asyncio.sleep(max(0.0, 0.01 - took[-1]))
    return took


async def measure(engine: EmbeddedEngine, orchestration: str) -> tuple[float, list[float]]:
    """Orchestrations per second, and times of start calls meanwhile."""
    number = COUNTS[orchestration]
    ends = Ends(orchestration, number)
    engine.watch_finishes(ends.add)
    client = engine.client._sdk
    left = iter(range(number))

    async def caller() -> None:
        for _ in left:
            await client.schedule_new_orchestration(orchestration, input=PAYLOAD)

    began = time.perf_counter()
    starting = asyncio.gather(*(caller() for _ in range(CONCURRENT_STARTS)))
    paced = asyncio.create_task(_paced(client, ends.done)) if orchestration == "cpu" else None
    await starting
    assert await asyncio.to_thread(ends.done.wait, 300)
    rate = number / (time.perf_counter() - began)
    return rate, [] if paced is None else await paced


async def variant(number: int, path: Path) -> dict[str, float]:
    config = EmbeddedEngineConfig.model_validate({"type": "embedded", "worker": {"processes": number}})
    engine = EmbeddedEngine("default", config, path, host=True)
    await engine.start()
    workflows = user_workflows(load(["benchmarks.workers"], ROOT))
    worker: RunningWorker
    if number:
        settings = ProcessSettings("default", ("benchmarks.workers",), str(ROOT))
        processes: WorkerProcesses = engine.worker_processes(number, settings, workflows, default_command(MODULE))
        processes.start()
        assert await asyncio.to_thread(processes.has_started.wait, 60)
        worker = processes
    else:
        worker = engine.worker(workflows, DataConverter())
        worker.start()
    figures: dict[str, float] = {}
    for orchestration in COUNTS:
        rate, took = await measure(engine, orchestration)
        figures[f"{orchestration}_per_second"] = rate
        if took:
            figures[f"{orchestration}_start_p99_ms"] = sorted(took)[int(len(took) * 0.99)] * 1000
    await asyncio.to_thread(worker.stop)
    await engine.stop()
    return figures


def run() -> dict[str, float]:
    logging.getLogger("bridge").setLevel(logging.ERROR)
    tune_memory()
    rounds: list[dict[int, dict[str, float]]] = []
    for _ in range(ROUNDS):
        found = {}
        for number in VARIANTS:
            with tempfile.TemporaryDirectory(dir=Path.cwd()) as directory:
                found[number] = asyncio.run(variant(number, Path(directory) / "engine"))
        rounds.append(found)
    figures = {
        f"{name_of(number)}_{figure}": statistics.median(each[number][figure] for each in rounds)
        for number in VARIANTS
        for figure in rounds[0][number]
    }

    def ratio(figure: str, one: int, other: int) -> float:
        return statistics.median(each[one][figure] / each[other][figure] for each in rounds)

    for figure in ("one_activity", "five_activities"):
        figures[f"ratio_{figure}_1_to_in_process"] = ratio(f"{figure}_per_second", 1, 0)
        figures[f"ratio_{figure}_2_to_in_process"] = ratio(f"{figure}_per_second", 2, 0)
    figures["ratio_cpu_2_to_1"] = ratio("cpu_per_second", 2, 1)
    return figures
