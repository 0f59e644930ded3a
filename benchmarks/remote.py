"""Workers of an engine in another process: the SDK's own (`sdk`), and the bridge's (`direct`, `dispatch: direct`).

`VARIANT_worker_us` and `VARIANT_engine_us`: processor time for one orchestration with one activity, inputs of 1 KB,
through the port of `bridge engine`; `VARIANT_writer_us`: of the engine's writer alone. `VARIANT_per_commit`: operations
in one transaction. `floor_worker_us` and `floor_engine_us`: grpcio's share of one orchestration, with handlers that do
nothing: three messages of the stream, three calls. `ratio_*`: medians of the ratios within a round; the variants
alternate. BENCH_ROUNDS: number of rounds.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from durabletask.azuremanaged.client import AsyncDurableTaskSchedulerClient
from durabletask.internal import orchestrator_service_pb2 as pb
from durabletask.internal.orchestrator_service_pb2_grpc import TaskHubSidecarServiceStub

from benchmarks._remote import Child, child
from benchmarks.engine import quiet
from benchmarks.workers import PAYLOAD
from bridge.engines.remote.grpc_channel import worker_channel, worker_options

VARIANTS = ("sdk", "direct")
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
NUMBER = 1500
WARM = 200
CONCURRENT_STARTS = 64
MESSAGES = 3 * NUMBER
"""Messages and calls of the floor."""


async def start(port: str, number: int) -> None:
    """Start orchestrations, as many as CONCURRENT_STARTS at once."""
    client = AsyncDurableTaskSchedulerClient(
        host_address=f"127.0.0.1:{port}",
        taskhub="default",
        token_credential=None,
        secure_channel=False,
        logger=quiet(),
    )
    left = iter(range(number))

    async def caller() -> None:
        for _ in left:
            await client.schedule_new_orchestration("one_activity", input=PAYLOAD)

    await asyncio.gather(*(caller() for _ in range(CONCURRENT_STARTS)))
    await client.close()


def variant(kind: str) -> dict[str, float]:
    with (
        tempfile.TemporaryDirectory(dir=Path.cwd()) as directory,
        child("engine", directory) as engine,
        child("worker", kind, f"127.0.0.1:{engine.ready}") as worker,
    ):
        asyncio.run(start(engine.ready, WARM))
        before, worker_before = engine.ask(str(WARM)), worker.ask()
        began = time.perf_counter()
        asyncio.run(start(engine.ready, NUMBER))
        after, worker_after = engine.ask(str(WARM + NUMBER)), worker.ask()
        seconds = time.perf_counter() - began

    def used(figure: str) -> float:
        return float(after[figure] - before[figure])

    return {
        "per_second": NUMBER / seconds,
        "worker_us": (worker_after["cpu"] - worker_before["cpu"]) / NUMBER * 1e6,
        "engine_us": used("cpu") / NUMBER * 1e6,
        "writer_us": used("writer_cpu") / NUMBER * 1e6,
        "per_commit": used("operations") / used("commits"),
    }


def floor() -> dict[str, float]:
    """Processor time of grpcio for three calls and three messages of a stream, on either side."""
    with child("floor", str(MESSAGES)) as engine:
        return _floor(engine)


def _floor(engine: Child) -> dict[str, float]:
    channel = worker_channel(f"127.0.0.1:{engine.ready}", worker_options(-1, 1.0))
    make: Any = TaskHubSidecarServiceStub
    stub, sent = make(channel), []
    before, began = engine.ask(), time.process_time()
    for item in stub.GetWorkItems(pb.GetWorkItemsRequest()):
        response = pb.ActivityResponse(instanceId="x" * 32, completionToken=item.completionToken)
        response.result.value = item.activityRequest.input.value
        sent.append(stub.CompleteActivityTask.future(response))
    for call in sent:
        call.result()
    took = time.process_time() - began
    after = engine.ask()
    channel.close()
    return {"worker_us": took / NUMBER * 1e6, "engine_us": (after["cpu"] - before["cpu"]) / NUMBER * 1e6}


def run() -> dict[str, float]:
    rounds = [{kind: variant(kind) for kind in VARIANTS} | {"floor": floor()} for _ in range(ROUNDS)]
    figures = {
        f"{kind}_{figure}": statistics.median(each[kind][figure] for each in rounds)
        for kind in (*VARIANTS, "floor")
        for figure in rounds[0][kind]
    }
    for figure in ("worker_us", "engine_us", "writer_us", "per_second"):
        figures[f"ratio_{figure}_direct_to_sdk"] = statistics.median(
            each["direct"][figure] / each["sdk"][figure] for each in rounds
        )
    return figures
