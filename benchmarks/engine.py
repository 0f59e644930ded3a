"""Embedded engine against the SDK's in-memory backend over loopback gRPC, each in one process with its worker."""

from __future__ import annotations

import asyncio
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Generator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
from durabletask import task
from durabletask.client import AsyncTaskHubGrpcClient
from durabletask.internal import orchestrator_service_pb2_grpc as stubs
from durabletask.testing.in_memory_backend import InMemoryOrchestrationBackend
from durabletask.worker import TaskHubGrpcWorker

from bridge.engines.embedded.inprocess import AioChannel
from bridge.engines.embedded.worker import DirectWorker
from bridge.sqlite_engine.database import Database
from bridge.sqlite_engine.protocol.service import AioSidecarService

PAYLOAD = {"order": "o-1", "note": "x" * 990}
CONCURRENCY = 64
IN_FLIGHT = 256


def echo(ctx: task.ActivityContext, value: Any) -> Any:
    return value


def one_activity(ctx: task.OrchestrationContext, value: Any) -> Generator[Any, Any, Any]:
    return (yield ctx.call_activity(echo, input=value))


def quiet() -> logging.Logger:
    logger = logging.getLogger("benchmarks.engine")
    logger.setLevel(logging.ERROR)
    return logger


def run() -> dict[str, float]:
    """Figures of the engine, all with inputs of 1 KB. Their names contain the units."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as directory:
        path = Path(directory)
        figures = {"fsync_ms": fsync_ms(path)}
        figures |= asyncio.run(_accepted(path / "accepted.db"))
        figures |= asyncio.run(_latency(path / "latency.db"))
        durable, memory = [], []
        for turn in range(3):
            memory.append(asyncio.run(_memory(300)))
            durable.append(asyncio.run(_durable(path / f"completed-{turn}.db", 3000)))
        figures["completions_per_second"] = statistics.median(durable)
        figures["inmemory_grpc_per_second"] = statistics.median(memory)
        figures["completed_ratio_to_inmemory_grpc"] = statistics.median(durable) / statistics.median(memory)
        return figures


def fsync_ms(path: Path) -> float:
    """Median duration of one fdatasync after a write of one page, in milliseconds."""
    times = []
    with (path / "fsync").open("wb", buffering=0) as file:
        for _ in range(100):
            file.write(b"x" * 4096)
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - began)
    return statistics.median(times) * 1000


async def _many(calls: int, concurrency: int, call: Callable[[], Awaitable[Any]]) -> float:
    """Number of calls per second."""
    left = iter(range(calls))

    async def caller() -> None:
        for _ in left:
            await call()

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(concurrency)))
    return calls / (time.perf_counter() - began)


def _client(database: Database) -> AsyncTaskHubGrpcClient:
    return AsyncTaskHubGrpcClient(channel=AioChannel(AioSidecarService(database)), logger=quiet())


async def _accepted(path: Path) -> dict[str, float]:
    database = Database(path)
    database.start()
    client = _client(database)
    try:
        await _many(1000, CONCURRENCY, lambda: client.schedule_new_orchestration("nobody", input=PAYLOAD))
        rate = await _many(20_000, CONCURRENCY, lambda: client.schedule_new_orchestration("nobody", input=PAYLOAD))
        return {"schedules_per_second": rate}
    finally:
        database.stop()


async def _latency(path: Path) -> dict[str, float]:
    """Latency from schedule to the orchestrator's first line, at 100 a second."""
    began: dict[str, float] = {}
    took: list[float] = []

    def first_line(ctx: task.OrchestrationContext, _: Any) -> int:
        took.append(time.perf_counter() - began[ctx.instance_id])
        return 0

    database = Database(path)
    database.start()
    worker = DirectWorker(database, logger=quiet())
    worker.add_orchestrator(first_line)
    worker.start()
    client = _client(database)
    try:
        for number in range(500):
            instance_id = f"latency-{number}"
            began[instance_id] = time.perf_counter()
            await client.schedule_new_orchestration("first_line", input=PAYLOAD, instance_id=instance_id)
            await asyncio.sleep(max(0.0, 0.01 - (time.perf_counter() - began[instance_id])))
        await client.wait_for_orchestration_completion("latency-499", timeout=30)
    finally:
        worker.stop()
        database.stop()
    cuts = statistics.quantiles(took, n=100)
    return {"start_latency_p50_ms": cuts[49] * 1000, "start_latency_p99_ms": cuts[98] * 1000}


async def _completed(client: AsyncTaskHubGrpcClient, number: int) -> float:
    async def one() -> None:
        instance_id = await client.schedule_new_orchestration("one_activity", input=PAYLOAD)
        state = await client.wait_for_orchestration_completion(instance_id, timeout=60)
        assert state is not None
        assert state.runtime_status.name == "COMPLETED"

    await _many(min(number, 200), IN_FLIGHT, one)
    return await _many(number, IN_FLIGHT, one)


async def _durable(path: Path, number: int) -> float:
    database = Database(path)
    database.start()
    worker = DirectWorker(database, logger=quiet())
    worker.add_orchestrator(one_activity)
    worker.add_activity(echo)
    worker.start()
    try:
        return await _completed(_client(database), number)
    finally:
        worker.stop()
        database.stop()


async def _memory(number: int) -> float:
    backend = InMemoryOrchestrationBackend()
    server = grpc.server(futures.ThreadPoolExecutor(IN_FLIGHT + 32))
    stubs.add_TaskHubSidecarServiceServicer_to_server(backend, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    worker = TaskHubGrpcWorker(host_address=address, logger=quiet())
    worker.add_orchestrator(one_activity)
    worker.add_activity(echo)
    logging.getLogger("durabletask").setLevel(logging.ERROR)
    worker.start()
    client = AsyncTaskHubGrpcClient(host_address=address, logger=quiet())
    try:
        return await _completed(client, number)
    finally:
        await client.close()
        await asyncio.to_thread(worker.stop)
        backend.stop()
        server.stop(0).wait()
