"""Workflows in the daemon's process and in others; the variants alternate within each round.

Variants: `in_process`; `1_processes` and `2_processes` of `worker.processes`; `joined`, a `bridge worker` over the
channel; `grpc`, the SDK's worker over the engine's socket. `ratio_*`: medians of the ratios within a round.

`VARIANT_one_activity_per_second`, `VARIANT_five_activities_per_second`: completed orchestrations, inputs of 1 KB,
durable. `..._daemon_us`, `..._worker_us`: processor time per orchestration, of the daemon and of all others together.
`VARIANT_cpu_per_second`: activities of 10 ms of pure Python. `VARIANT_cpu_beside_starts_per_second`: the same while 100
other orchestrations a second are started. `VARIANT_cpu_start_p99_ms`: the time of such a start, as intake waits for it
before it settles a message.
`machine_2_processes_to_1`: the same computation in two interpreters that do nothing else, compared with one: what the
two processors of the machine allow.
`kills_*`: 2 processes, one of which is killed each second; `kills_ratio`: orchestrations per second over undisturbed.
`latency_*`: see `python -m benchmarks latency`, which needs Java. `fsync_ms`: median of an fdatasync, before the loads.
BENCH_ROUNDS: number of rounds. BENCH_KILLED: number of orchestrations while processes are killed.
BENCH_PARTS: of `rates`, `kills`, `latency`, with commas between them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Generator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from durabletask import task
from durabletask.client import AsyncTaskHubGrpcClient

from benchmarks import _computing, latency
from benchmarks.engine import fsync_ms
from bridge.app.serve.worker_processes import MODULE
from bridge.app.worker_process import user_workflows
from bridge.config.model.engines import EmbeddedEngineConfig
from bridge.engines.embedded.engine import EmbeddedEngine
from bridge.engines.embedded.processes.settings import ProcessSettings
from bridge.engines.embedded.processes.supervisor import WorkerProcesses, default_command
from bridge.engines.worker.contained_worker import RunningWorker
from bridge.engines.workflows import load
from bridge.sqlite_engine.model.instance import COMPLETED, Finish
from bridge.system.memory import tune_memory
from bridge.workflow import DataConverter

ROOT = Path(__file__).parent.parent
WORKFLOWS = "benchmarks.workers"
PAYLOAD = {"order": "o-1", "note": "x" * 990}
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
PARTS = os.environ.get("BENCH_PARTS", "rates,kills,latency").split(",")
CONCURRENT_STARTS = 64
COUNTS = {"one_activity": 4000, "five_activities": 1500, "cpu": 1200}
BESIDE_STARTS = 300
"""Orchestrations that compute while others are started."""
COMPUTED = 300
"""Computations of an interpreter that does nothing else."""
KILLED = int(os.environ.get("BENCH_KILLED", "8000"))
"""Orchestrations of five activities while processes are killed."""
VARIANTS: dict[str, tuple[str, ...]] = {
    "in_process": ("one_activity", "five_activities", "cpu"),
    "1_processes": ("one_activity", "five_activities", "cpu"),
    "2_processes": ("one_activity", "five_activities", "cpu"),
    "joined": ("one_activity", "five_activities"),
    "grpc": ("one_activity",),
}
SLOW = {"grpc": 0.25}
"""Part of the number of orchestrations that a slow variant runs."""


def echo(ctx: task.ActivityContext, value: Any) -> Any:
    return value


def burn(ctx: task.ActivityContext, milliseconds: float) -> int:
    return _computing.burn(milliseconds)


def one_activity(ctx: task.OrchestrationContext, value: Any) -> Generator[Any, Any, Any]:
    return (yield ctx.call_activity(echo, input=value))


def five_activities(ctx: task.OrchestrationContext, value: Any) -> Generator[Any, Any, Any]:
    for _ in range(5):
        value = yield ctx.call_activity(echo, input=value)
    return value


def cpu(ctx: task.OrchestrationContext, value: Any) -> Generator[Any, Any, Any]:
    return (yield ctx.call_activity(burn, input=10))


@dataclass
class Ends:
    """Ends of the instances of one orchestration. `done` is set at the end of the last one."""

    name: str
    number: int
    seen: Counter[str] = field(default_factory=Counter)
    failed: int = 0
    done: threading.Event = field(default_factory=threading.Event)

    def add(self, ends: Iterable[Finish]) -> None:
        for end in ends:
            if end.name == self.name:
                self.seen[end.instance_id] += 1
                self.failed += end.status != COMPLETED
        if len(self.seen) >= self.number:
            self.done.set()


@dataclass
class Setting:
    """Engine with the worker of a variant. processes: supervised ones. pids: all processes but this one."""

    engine: EmbeddedEngine
    processes: WorkerProcesses | None
    pids: list[int]

    def seconds(self) -> tuple[float, float]:
        """Processor time of this process, and of all others."""
        others = (psutil.Process(pid).cpu_times() for pid in self.pids)
        return time.process_time(), sum(each.user + each.system for each in others)


@asynccontextmanager
async def setting(variant: str, path: Path) -> AsyncIterator[Setting]:
    number = int(variant[0]) if variant[0].isdigit() else 0
    config = EmbeddedEngineConfig.model_validate({"type": "embedded", "worker": {"processes": number}})
    engine = EmbeddedEngine("default", config, path, host=True)
    await engine.start()
    workflows = user_workflows(load([WORKFLOWS], ROOT))
    worker: RunningWorker | None = None
    joined: asyncio.subprocess.Process | None = None
    found = Setting(engine, None, [])
    if number:
        settings = ProcessSettings("default", (WORKFLOWS,), str(ROOT))
        worker = found.processes = engine.worker_processes(number, settings, workflows, default_command(MODULE))
        worker.start()
        assert await asyncio.to_thread(worker.has_started.wait, 60)
        found.pids = [view.pid for view in worker.views() if view.pid is not None]
    elif variant == "in_process":
        worker = engine.worker(workflows, DataConverter())
        worker.start()
    else:
        dispatch = "protocol" if variant == "grpc" else "direct"
        command = [sys.executable, "-m", "benchmarks._joined_worker", str(path), dispatch, WORKFLOWS]
        joined = await asyncio.create_subprocess_exec(*command, cwd=ROOT)
        found.pids = [joined.pid]
    try:
        await measure(found, "one_activity", 100)  # the worker runs, and everything is imported
        yield found
    finally:
        if joined is not None:
            joined.kill()
            await joined.wait()
        if worker is not None:
            await asyncio.to_thread(worker.stop)
        await engine.stop()


async def _paced(client: AsyncTaskHubGrpcClient, done: threading.Event) -> list[float]:
    """Times of start calls at 100 a second, until `done`."""
    took = []
    while not done.is_set():
        began = time.perf_counter()
        await client.schedule_new_orchestration("nobody", input=PAYLOAD)
        took.append(time.perf_counter() - began)
        await asyncio.sleep(max(0.0, 0.01 - took[-1]))
    return took


@dataclass
class Measured:
    """Figures of one load. daemon, worker: processor time per orchestration in microseconds. waits: of start calls."""

    rate: float
    daemon: float
    worker: float
    waits: list[float]
    ends: Ends


async def measure(given: Setting, orchestration: str, number: int, *, beside_starts: bool = False) -> Measured:
    ends = Ends(orchestration, number)
    given.engine.watch_finishes(ends.add)
    client = given.engine.client._sdk
    left = iter(range(number))

    async def caller() -> None:
        for _ in left:
            await client.schedule_new_orchestration(orchestration, input=PAYLOAD)

    daemon, worker = given.seconds()
    began = time.perf_counter()
    starting = asyncio.gather(*(caller() for _ in range(CONCURRENT_STARTS)))
    paced = asyncio.create_task(_paced(client, ends.done)) if beside_starts else None
    await starting
    assert await asyncio.to_thread(ends.done.wait, 300)
    rate = number / (time.perf_counter() - began)
    daemon_then, worker_then = given.seconds()
    per = 1e6 / number
    waits = [] if paced is None else await paced
    return Measured(rate, (daemon_then - daemon) * per, (worker_then - worker) * per, waits, ends)


async def rates_of(variant: str, path: Path) -> dict[str, float]:
    figures: dict[str, float] = {}
    async with setting(variant, path) as given:
        for orchestration in VARIANTS[variant]:
            found = await measure(given, orchestration, int(COUNTS[orchestration] * SLOW.get(variant, 1)))
            figures[f"{orchestration}_per_second"] = found.rate
            figures[f"{orchestration}_daemon_us"] = found.daemon
            figures[f"{orchestration}_worker_us"] = found.worker
            if orchestration == "cpu":
                found = await measure(given, orchestration, BESIDE_STARTS, beside_starts=True)
                figures["cpu_beside_starts_per_second"] = found.rate
                figures["cpu_start_p99_ms"] = sorted(found.waits)[int(len(found.waits) * 0.99)] * 1000
    return figures


def computed_per_second(interpreters: int) -> float:
    """Computations per second of interpreters that do nothing else, all together."""
    command = [sys.executable, "-m", "benchmarks._computing", str(COMPUTED)]
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) for _ in range(interpreters)
    ]
    for each in running:
        assert each.stdin is not None
        each.stdin.write(b"\n")
        each.stdin.flush()
    return sum(COMPUTED / float(each.communicate()[0]) for each in running)


async def killed(path: Path, *, kills: bool) -> tuple[Measured, int]:
    """Load on two processes, and number of kills. kills: kill one of them each second, in turn."""
    async with setting("2_processes", path) as given:
        processes = given.processes
        assert processes is not None
        given.pids = []  # they change
        over = threading.Event()

        def kill() -> None:
            turn = 0
            while not over.wait(1.0):
                views = processes.views()
                if all(view.runs for view in views):  # on a slow machine the one killed before may still start
                    turn += 1
                    pid = views[turn % len(views)].pid
                    assert pid is not None
                    os.kill(pid, signal.SIGKILL)

        killer = threading.Thread(target=kill)
        if kills:
            killer.start()
        try:
            found = await measure(given, "five_activities", KILLED)
        finally:
            over.set()
            if kills:
                killer.join()
        return found, sum(processes.ends.values())


def rates() -> dict[str, float]:
    rounds: list[dict[str, dict[str, float]]] = []
    for _ in range(ROUNDS):
        found = {}
        for variant in VARIANTS:
            with tempfile.TemporaryDirectory(dir=Path.cwd()) as directory:
                found[variant] = asyncio.run(rates_of(variant, Path(directory) / "engine"))
        found["machine"] = {"2_processes_to_1": computed_per_second(2) / computed_per_second(1)}
        rounds.append(found)
    figures = {
        f"{variant}_{figure}": statistics.median(each[variant][figure] for each in rounds)
        for variant in rounds[0]
        for figure in rounds[0][variant]
    }

    def ratio(figure: str, one: str, other: str) -> float:
        return statistics.median(each[one][figure] / each[other][figure] for each in rounds)

    for name in ("one_activity", "five_activities"):
        for one in ("1_processes", "2_processes", "joined"):
            figures[f"ratio_{name}_{one}_to_in_process"] = ratio(f"{name}_per_second", one, "in_process")
        cost = ratio(f"{name}_daemon_us", "1_processes", "in_process")
        figures[f"ratio_{name}_daemon_us_1_processes_to_in_process"] = cost
    figures["ratio_one_activity_joined_to_grpc"] = ratio("one_activity_per_second", "joined", "grpc")
    for name in ("cpu", "cpu_beside_starts"):
        figures[f"ratio_{name}_2_processes_to_1_processes"] = ratio(f"{name}_per_second", "2_processes", "1_processes")
    return figures


def kills() -> dict[str, float]:
    ratios, lost, doubled, failed, number = [], 0, 0, 0, 0
    for _ in range(ROUNDS):
        rate = {}
        for disturbed in (False, True):
            with tempfile.TemporaryDirectory(dir=Path.cwd()) as directory:
                found, ended = asyncio.run(killed(Path(directory) / "engine", kills=disturbed))
            rate[disturbed] = found.rate
            lost += found.ends.number - len(found.ends.seen)
            doubled += sum(found.ends.seen.values()) - len(found.ends.seen)
            failed += found.ends.failed
            number += ended
        ratios.append(rate[True] / rate[False])
    return {
        "kills_ratio": statistics.median(ratios),
        "kills_lost": lost,
        "kills_doubled": doubled,
        "kills_failed": failed,
        "kills_number": number,
    }


def run() -> dict[str, float]:
    logging.getLogger("bridge").setLevel(logging.CRITICAL)
    tune_memory()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as directory:
        figures = {"fsync_ms": fsync_ms(Path(directory))}
    if "rates" in PARTS:
        figures |= rates()
    if "kills" in PARTS:
        figures |= kills()
    if "latency" in PARTS and shutil.which("java"):
        figures |= {f"latency_{name}": value for name, value in latency.run().items()}
    return figures
