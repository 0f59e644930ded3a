"""Lineage index: searches both ways among a million instances, and its cost per completed orchestration.

The instances of the search are rows that the engine's own writer makes. The cost is measured in turns, with and without
the index, in one process. On a busy machine `cost_of_completed` is steadier than the ratios: the processor time that
the index takes of the writer's thread, as a part of the processor time of a completed orchestration.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import Any

from durabletask import task
from durabletask.client import AsyncTaskHubGrpcClient
from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.app.operations.lineage.lineage import SearchScope
from bridge.app.operations.lineage.trace import EngineTracer
from bridge.config.model.engines import EmbeddedEngineConfig
from bridge.core.answers import PUBLISH_ACTIVITY
from bridge.core.origin import MessageOrigin, wrap_payload
from bridge.engines.embedded.engine import EmbeddedEngine
from bridge.engines.embedded.host_rules import BridgeRules
from bridge.engines.embedded.inprocess import AioChannel
from bridge.engines.embedded.worker import DirectWorker
from bridge.sqlite_engine.database import Database
from bridge.sqlite_engine.hub.hub import TaskHub
from bridge.sqlite_engine.model import event as events
from bridge.sqlite_engine.model.instance import COMPLETED
from bridge.sqlite_engine.model.values import StringValue
from bridge.sqlite_engine.options import DatabaseOptions
from bridge.sqlite_engine.protocol.service import AioSidecarService
from bridge.sqlite_engine.storage.schema import connect, prepare
from bridge.sqlite_engine.storage.store import Store

INSTANCES = 1_000_000
SEARCHES = 200
CONCURRENCY = 64
COMPLETIONS = 2000
TURNS = 11
GROUP = 16
PAYLOAD = {"order": "o-1", "note": "x" * 990}


def run() -> dict[str, float]:
    """Figures of the index. Their names contain the units."""
    count = int(os.environ.get("LINEAGE_INSTANCES", INSTANCES))
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as directory:
        path = Path(directory)
        figures = asyncio.run(_cost(path)) | _writer(path)
        figures["cost_of_completed"] = figures["writer_us_of_index"] / figures["cpu_us_without"]
        figures |= _fill(path / "many" / "engine.db", count)
        figures |= asyncio.run(_searches(path / "many", count))
        return figures


# Searches


def _origin(number: int) -> MessageOrigin:
    return MessageOrigin(f"/shop m-{number}", "start-order", position=f"cluster/orders/{number % 12}@{number // 12}")


def _fill(path: Path, count: int) -> dict[str, float]:
    """Write finished instances that were started by a message and have published one, by the engine's own writer."""
    path.parent.mkdir()
    options = DatabaseOptions(rules=BridgeRules(), index=True)
    with closing(connect(path)) as connection:
        prepare(connection, path)
        connection.execute("PRAGMA synchronous=OFF")
        hub = TaskHub(Store(connection), options)
        hub.load()
        began = time.perf_counter()
        for first in range(0, count, 1000):
            hub.begin()
            for number in range(first, min(count, first + 1000)):
                _instance(hub, number)
            hub.tx.commit()
            hub.forget()
            hub.instances.clear()
        took = time.perf_counter() - began
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT count(*) FROM lineage").fetchone()[0]
        size = path.stat().st_size
    return {"instances": float(count), "rows": float(rows), "file_bytes_per_instance": size / count, "fill_s": took}


def _instance(hub: TaskHub, number: int) -> None:
    given = StringValue(value=json.dumps(wrap_payload({"id": number}, _origin(number))))
    request = pb.CreateInstanceRequest(instanceId=f"order-{number}", name="order", input=given)
    instance = hub.create(f"order-{number}", request)
    published = json.dumps({"target": "t", "id": f"p-{number}", "type": "order.done"})
    scheduled = events.new_event(hub.now, 1)
    scheduled.taskScheduled.name = PUBLISH_ACTIVITY
    scheduled.taskScheduled.input.value = published
    hub.index.called(instance, PUBLISH_ACTIVITY, published)
    hub.append(instance, [instance.start, scheduled, events.task_completed(hub.now, 1, None)])
    hub.finish(instance, COMPLETED, None, None)


async def _searches(directory: Path, count: int) -> dict[str, float]:
    engine = EmbeddedEngine("default", EmbeddedEngineConfig(type="embedded"), directory, host=True, lineage_records=1)
    await engine.start()
    tracer = EngineTracer(engine)
    chosen = random.Random(7).sample(range(count), min(count, SEARCHES))
    figures: dict[str, float] = {}
    try:
        ways: dict[str, Callable[[int], str]] = {
            "message": lambda number: f"/shop m-{number}",
            "event": lambda number: f"m-{number}",
            "position": lambda number: f"orders/{number % 12}@{number // 12}",
            "published": lambda number: f"p-{number}",
            "instance": lambda number: f"order-{number}",
        }
        for name, wanted in ways.items():
            times = []
            for number in chosen:
                began = time.perf_counter()
                found = await tracer.find(wanted(number), SearchScope())
                times.append(time.perf_counter() - began)
                assert [one.instance_id for one in found.instances] == [f"order-{number}"]
            figures |= _times(name, times)
        times = []
        for number in chosen:
            began = time.perf_counter()
            assert (await tracer.find(f"none-{number}", SearchScope())).by == "nothing"
            times.append(time.perf_counter() - began)
        return figures | _times("nothing", times)
    finally:
        await engine.stop()


def _times(name: str, times: list[float]) -> dict[str, float]:
    return {
        f"{name}_first_ms": times[0] * 1000,
        f"{name}_p50_ms": statistics.median(times) * 1000,
        f"{name}_max_ms": max(times) * 1000,
    }


# Cost


def echo(ctx: task.ActivityContext, value: Any) -> Any:
    return value


def one_activity(ctx: task.OrchestrationContext, value: Any) -> Generator[Any, Any, Any]:
    return (yield ctx.call_activity(echo, input=1))


async def _cost(path: Path) -> dict[str, float]:
    """Rates with and without the index, in turns. Times of the processor are steadier than those of the clock."""
    rates: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    for turn in range(TURNS):
        for index in (True, False) if turn % 2 else (False, True):
            rates[index].append(await _completed(path / f"{turn}-{index}.db", index=index))
    turns = list(zip(rates[True], rates[False], strict=True))
    return {
        "completed_per_second_with_index": statistics.median(rate for rate, _ in rates[True]),
        "completed_per_second_without": statistics.median(rate for rate, _ in rates[False]),
        "completed_ratio": statistics.median(with_[0] / without[0] for with_, without in turns),
        "cpu_us_with_index": statistics.median(cpu for _, cpu in rates[True]) * 1e6,
        "cpu_us_without": statistics.median(cpu for _, cpu in rates[False]) * 1e6,
        "cpu_ratio": statistics.median(without[1] / with_[1] for with_, without in turns),
    }


def _writer(path: Path) -> dict[str, float]:
    """Processor time of the writer's thread for a start, with and without the index, in groups of GROUP starts."""
    with_, without = [], []
    for turn in range(2 * TURNS):
        with_.append(_starts(path / f"writer-{turn}-with.db", index=True))
        without.append(_starts(path / f"writer-{turn}-without.db", index=False))
    return {
        "writer_us_of_start_with_index": statistics.median(with_) * 1e6,
        "writer_us_of_start_without": statistics.median(without) * 1e6,
        "writer_us_of_index": statistics.median(one - other for one, other in zip(with_, without, strict=True)) * 1e6,
    }


def _starts(path: Path, *, index: bool) -> float:
    """Seconds of this thread for one start."""
    with closing(connect(path)) as connection:
        prepare(connection, path)
        hub = TaskHub(Store(connection), DatabaseOptions(rules=BridgeRules(), index=index))
        hub.load()
        requests = [
            pb.CreateInstanceRequest(
                instanceId=f"order-{number}",
                name="order",
                input=StringValue(value=json.dumps(wrap_payload(PAYLOAD, _origin(number)))),
            )
            for number in range(COMPLETIONS)
        ]
        began = time.thread_time()
        for first in range(0, COMPLETIONS, GROUP):
            hub.begin()
            for request in requests[first : first + GROUP]:
                hub.create(request.instanceId, request)
            hub.tx.commit()
            hub.forget()
            hub.instances.clear()
        return (time.thread_time() - began) / COMPLETIONS


async def _completed(path: Path, *, index: bool) -> tuple[float, float]:
    """Orchestrations per second that a message starts, with one activity each, and processor seconds of one."""
    database = Database(path, DatabaseOptions(rules=BridgeRules(), index=index))
    database.start()
    logger = logging.getLogger("benchmarks.lineage")
    logger.setLevel(logging.ERROR)
    worker = DirectWorker(database, logger=logger)
    worker.add_orchestrator(one_activity)
    worker.add_activity(echo)
    worker.start()
    client = AsyncTaskHubGrpcClient(channel=AioChannel(AioSidecarService(database)), logger=logger)
    left = iter(range(COMPLETIONS))

    async def caller() -> None:
        for number in left:
            given = wrap_payload(PAYLOAD, _origin(number))
            await client.schedule_new_orchestration("one_activity", input=given, instance_id=f"order-{number}")
            await client.wait_for_orchestration_completion(f"order-{number}", timeout=60)

    try:
        began, busy = time.perf_counter(), time.process_time()
        await asyncio.gather(*(caller() for _ in range(CONCURRENCY)))
        return COMPLETIONS / (time.perf_counter() - began), (time.process_time() - busy) / COMPLETIONS
    finally:
        worker.stop()
        database.stop()
