"""Time from a record on a Kafka topic to the first line of its orchestration. Needs Java and Maven, or KAFKA_HOME.

1 KB messages, 4 partitions, one broker, a publisher in a process of its own.
`VARIANT_RATE_p50_ms`, `VARIANT_RATE_p99_ms`: at 100, 600 and 1,200 messages a second, as medians of rounds. Variants:
`unpaced`, every record at the end of a log fetched at once; `in_process`, paced fetches; `1_processes`, the same with
the workflows in a worker process. `ratio_*`: medians of the ratios to `unpaced` within a round.
BENCH_ROUNDS: number of rounds.
"""

from __future__ import annotations

import asyncio
import functools
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop
from durabletask.task import OrchestrationContext

from benchmarks.kafka import START, bridged, fill, setting
from benchmarks.pipeline import message
from bridge.app.serve.worker_processes import MODULE
from bridge.app.worker_process import user_workflows
from bridge.brokers.kafka import fetch_pace
from bridge.engines.embedded.engine import EmbeddedEngine
from bridge.engines.embedded.processes.settings import ProcessSettings
from bridge.engines.embedded.processes.supervisor import default_command
from bridge.engines.worker.contained_worker import RunningWorker
from bridge.engines.worker.setup import stop_worker
from bridge.engines.workflows import load
from bridge.system.memory import tune_memory
from bridge.workflow import DataConverter
from tests.kafka.node import Node

ROOT = Path(__file__).parent.parent
WORKFLOWS = "benchmarks.latency"
SEEN = "BENCH_SEEN"
"""Variable with the path of the file to which orchestrations write their first line's time."""
RATES = (100, 600, 1200)
SECONDS = 6
WARM = 0.2
"""Part of the messages that does not count."""
VARIANTS = ("unpaced", "in_process", "1_processes")
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))


@functools.cache
def _file(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def order(ctx: OrchestrationContext, given: Any) -> str:
    os.write(_file(os.environ[SEEN]), f"{ctx.instance_id} {time.time()}\n".encode())
    return "done"


def _read(path: Path) -> dict[str, float]:
    lines = (line.split() for line in path.read_text().splitlines())
    return {name: float(moment) for name, moment in lines}


async def _worker(engine: EmbeddedEngine, variant: str) -> RunningWorker:
    workflows = user_workflows(load([WORKFLOWS], ROOT))
    if variant != "1_processes":
        worker = engine.worker(workflows, DataConverter())
        worker.start()
        return worker
    settings = ProcessSettings("default", (WORKFLOWS,), str(ROOT))
    processes = engine.worker_processes(1, settings, workflows, default_command(MODULE))
    processes.start()
    assert await asyncio.to_thread(processes.has_started.wait, 60)
    return processes


async def measured(bootstrap: str, variant: str, rate: int, group: str, directory: Path) -> tuple[float, float]:
    """Median and 99th percentile, in milliseconds."""
    topic, seen, sent, count = f"latency-{group}", directory / "seen", directory / "sent", rate * SECONDS
    os.environ[SEEN] = str(seen)
    fetch_pace.PAUSE = 0.0 if variant == "unpaced" else 0.003
    await fill(bootstrap, topic, 1, message)
    async with setting(bootstrap, "embedded", topic, group, START) as (loaded, engine):
        assert isinstance(engine, EmbeddedEngine)
        worker = await _worker(engine, variant)
        async with bridged(loaded, engine):
            arguments = [bootstrap, topic, str(rate), str(count), str(sent)]
            publisher = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "benchmarks._paced_publisher", *arguments, cwd=ROOT
            )
            assert await publisher.wait() == 0
            wanted = {f"{group}-o-{number}" for number in range(count)}
            while not wanted <= _read(seen).keys():  # noqa: ASYNC110 -- written by another process
                await asyncio.sleep(0.1)
        await stop_worker(worker, 10)
    began, acknowledged = _read(seen), _read(sent)
    late = [number for number in range(int(count * WARM), count) if str(number) in acknowledged]
    took = sorted(max(0.0, began[f"{group}-o-{number}"] - acknowledged[str(number)]) * 1000 for number in late)
    return took[len(took) // 2], took[len(took) * 99 // 100]


async def measure() -> dict[str, float]:
    found: dict[tuple[str, int], list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as directory:
        node = Node(Path(directory) / "node")
        node.start()
        try:
            for number in range(ROUNDS):
                for rate in RATES:
                    for variant in VARIANTS:
                        group = f"{variant}-{rate}-{number}"
                        place = Path(directory) / group
                        place.mkdir()
                        figures = await measured(node.bootstrap, variant, rate, group, place)
                        found.setdefault((variant, rate), []).append(figures)
        finally:
            node.kill()
    result: dict[str, float] = {}
    for (variant, rate), rounds in found.items():
        for at, name in enumerate(("p50", "p99")):
            result[f"{variant}_{rate}_{name}_ms"] = statistics.median(each[at] for each in rounds)
            if variant != "unpaced":
                ratios = [one[at] / other[at] for one, other in zip(rounds, found["unpaced", rate], strict=True)]
                result[f"ratio_{variant}_{rate}_{name}"] = statistics.median(ratios)
    return result


def run() -> dict[str, float]:
    tune_memory()  # for all variants alike
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(measure())
