"""Cost of the workflow kit: a saga of five steps against the same five activities called directly. Also of the lint.

`saga_ratio`: processor time of a saga over that of a plain orchestration, in alternating batches, with client,
embedded engine and worker included; the median of the pairs.
`saga_ms` and `plain_ms` are on the clock.
`lint_seconds`: `bridge lint` on 10,000 lines of orchestrators.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from durabletask import task

from bridge.app.composition import create_engine
from bridge.config.model.engines import EmbeddedEngineConfig
from bridge.engines.client import EngineClient
from bridge.engines.worker.setup import stop_worker
from bridge.engines.workflows import Workflows
from bridge.lint import examine
from bridge.workflow import CompensationInput, DataConverter, Saga, Step, StepInput

BATCH = 60
ROUNDS = 40
LINES = 10_000
ORDER = {"id": "1001", "customer": "c-7", "lines": [{"sku": "tea", "quantity": 2}] * 3, "total": 25.0}


def work(ctx: task.ActivityContext, call: StepInput) -> dict[str, Any]:
    return {"done": True}


def undo(ctx: task.ActivityContext, call: CompensationInput) -> None:
    return None


def hand_written(ctx: task.OrchestrationContext, order: dict[str, Any]) -> Any:
    for number in range(5):
        yield ctx.call_activity(work, input={"key": f"{ctx.instance_id}/{number}", "input": order})  # type: ignore[arg-type]  # wider than its annotation, on purpose
    return "done"


def with_saga(ctx: task.OrchestrationContext, order: dict[str, Any]) -> Any:
    saga = Saga(ctx, "measured")

    def body() -> Any:
        for number in range(5):
            yield from saga.step(Step(f"step{number}", work, order, compensation=undo))
        return "done"

    return (yield from saga.run(body()))


@dataclass(frozen=True)
class Cost:
    """Processor time and clock time of a batch, in seconds."""

    processor: float
    clock: float


async def batch(client: EngineClient, name: str) -> Cost:
    """Cost of BATCH concurrent orchestrations."""
    began, started = time.process_time(), time.perf_counter()
    ids = await asyncio.gather(*(client.schedule_new_orchestration(name, input=ORDER) for _ in range(BATCH)))
    states = await asyncio.gather(*(client.wait_for_orchestration_completion(one, timeout=120) for one in ids))
    cost = Cost(time.process_time() - began, time.perf_counter() - started)
    assert all(state is not None and state.runtime_status.name == "COMPLETED" for state in states)
    return cost


async def compare() -> list[tuple[Cost, Cost]]:
    """Costs of batches with direct calls and with sagas, in pairs."""
    with tempfile.TemporaryDirectory() as directory:
        engine = create_engine("default", EmbeddedEngineConfig(type="embedded"), Path(directory), host=True)
        await engine.start()
        orchestrators = {"hand_written": hand_written, "with_saga": with_saga}
        worker = engine.worker(Workflows(orchestrators, {"work": work, "undo": undo}), DataConverter())
        worker.start()
        pairs = []
        try:
            for name in orchestrators:
                await batch(engine.client, name)  # warm-up
            for number in range(ROUNDS):
                # The second batch of a pair runs with more existing instances, so the order alternates
                cost = {
                    name: await batch(engine.client, name) for name in sorted(orchestrators, reverse=number % 2 > 0)
                }
                pairs.append((cost["hand_written"], cost["with_saga"]))
        finally:
            await stop_worker(worker, 10.0)
            await engine.stop()
    return pairs


def lint_seconds() -> float:
    """Seconds for LINES lines in ten files."""
    flow = (
        "def flow{n}(ctx: task.OrchestrationContext, value):\n"
        "    a = ctx.call_activity('a', input=value)\n"
        "    b = ctx.create_timer(ctx.current_utc_datetime)\n"
        "    winner = yield task.when_any([a, b])\n"
        "    if winner is a:\n"
        "        return a.get_result()\n"
        "    for one in sorted(value):\n"
        "        yield ctx.call_activity('b', input=one)\n"
        "    return None\n\n"
    )
    with tempfile.TemporaryDirectory() as directory:
        for number in range(10):
            text = "".join(flow.replace("{n}", str(n)) for n in range(LINES // 100))
            (Path(directory) / f"flows{number}.py").write_text("from durabletask import task\n" + text)
        started = time.perf_counter()
        assert examine([Path(directory)]).findings == []
        return time.perf_counter() - started


def run() -> dict[str, float]:
    pairs = asyncio.run(compare())
    return {
        "saga_ratio": statistics.median(saga.processor / plain.processor for plain, saga in pairs),
        "plain_ms": statistics.median(plain.clock for plain, _ in pairs) / BATCH * 1000,
        "saga_ms": statistics.median(saga.clock for _, saga in pairs) / BATCH * 1000,
        "lint_seconds": lint_seconds(),
    }
