"""Saving by orchestrations kept in memory between their turns, on the embedded engine in this process.

`steps_N_ratio`: processor time of orchestrations of N activities in sequence, kept over replayed at every turn; the
median of pairs.
`steps_N_kept_ms` and `_replayed_ms` are on the clock, per orchestration.
"""

from __future__ import annotations

import asyncio
import logging
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from durabletask import task
from durabletask.client import AsyncTaskHubGrpcClient

from bridge.engines.embedded.inprocess import AioChannel
from bridge.engines.embedded.worker import DirectWorker
from bridge.sqlite_engine.database import Database
from bridge.sqlite_engine.protocol.service import AioSidecarService

BATCHES = {1: 60, 5: 40, 20: 16, 100: 6}
"""Concurrent orchestrations, by their number of steps."""
ROUNDS = 5


def echo(ctx: task.ActivityContext, value: Any) -> Any:
    return value


def chain(ctx: task.OrchestrationContext, steps: int) -> Any:
    for number in range(steps):
        yield ctx.call_activity(echo, input={"id": number, "lines": ["tea", "coffee"] * 4})
    return "done"


def quiet() -> logging.Logger:
    logger = logging.getLogger("benchmarks.sessions")
    logger.setLevel(logging.CRITICAL)
    return logger


async def batch(client: AsyncTaskHubGrpcClient, steps: int, count: int) -> tuple[float, float]:
    """Processor time and clock time, in seconds."""
    began, started = time.process_time(), time.perf_counter()
    ids = await asyncio.gather(*(client.schedule_new_orchestration(chain, input=steps) for _ in range(count)))
    states = await asyncio.gather(*(client.wait_for_orchestration_completion(one, timeout=120) for one in ids))
    assert all(state is not None and state.runtime_status.name == "COMPLETED" for state in states)
    return time.process_time() - began, time.perf_counter() - started


async def compare(steps: int, count: int) -> dict[str, float]:
    costs: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    with tempfile.TemporaryDirectory() as directory:
        database = Database(Path(directory) / "hub.db")
        database.start()
        client = AsyncTaskHubGrpcClient(channel=AioChannel(AioSidecarService(database)), logger=quiet())
        for number in range(2 * (ROUNDS + 1)):
            kept = number % 2 > 0
            worker = DirectWorker(database, logger=quiet(), sessions=1000 if kept else 0)
            worker.add_orchestrator(chain)
            worker.add_activity(echo)
            worker.start()
            costs[kept].append(await batch(client, steps, count))
            worker.stop()
        await client.close()
        database.stop()
    kept_costs, replayed = costs[True][1:], costs[False][1:]
    return {
        f"steps_{steps}_ratio": statistics.median(a[0] / b[0] for a, b in zip(kept_costs, replayed, strict=True)),
        f"steps_{steps}_kept_ms": statistics.median(clock for _, clock in kept_costs) / count * 1000,
        f"steps_{steps}_replayed_ms": statistics.median(clock for _, clock in replayed) / count * 1000,
    }


def run() -> dict[str, float]:
    figures: dict[str, float] = {}
    for steps, count in BATCHES.items():
        figures |= asyncio.run(compare(steps, count))
    return figures
