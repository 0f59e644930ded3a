"""Pages of the ops port with 100,000 instances in the engine: processor time of the daemon's process for one page.

The instances are rows that the engine's own writer makes: most are completed, one of 500 is a saga that could not be
compensated, one of 1,000 is open. `{page}_cpu_ms` is the median of the processor time, `{page}_ms` that of the time on
the clock, and `{page}_kilobytes` the size of the page.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import tempfile
import time
from contextlib import closing
from pathlib import Path

import aiohttp
from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.app.composition import load_config
from bridge.app.serve.daemon import Daemon
from bridge.engines.embedded.address import FILE
from bridge.engines.embedded.host_rules import BridgeRules
from bridge.sqlite_engine.hub.hub import TaskHub
from bridge.sqlite_engine.model import event as events
from bridge.sqlite_engine.model.instance import COMPLETED, FAILED
from bridge.sqlite_engine.model.values import StringValue
from bridge.sqlite_engine.options import DatabaseOptions
from bridge.sqlite_engine.storage.schema import connect, prepare
from bridge.sqlite_engine.storage.store import Store

INSTANCES = 100_000
REQUESTS = 15
PAYLOAD = {"order": "o-1", "note": "x" * 490}
LOST = json.dumps(
    {
        "saga": "purchase", "status": "compensation_failed",
        "steps": {"stock": "compensation_failed", "pay": "refused"}, "reason": "refused", "step": "pay",
        "failed_compensations": [{"step": "stock", "error": "failed: locked"}],
    }
)  # fmt: skip
CONFIG = """
engine: {type: embedded, path: ENGINE}
workflows: []
brokers: {local: {type: local}}
sources: {orders: {broker: local, topics: [orders], codec: json, no_match: ignore}}
routes: [{name: nothing, from: orders, ignore: {reason: a benchmark}}]
ops: {http: {port: 0}}
"""
PAGES = {
    "overview": "/",
    "instances": "/instances",
    "failed": "/instances?status=FAILED",
    "open": "/instances?status=PENDING",
    "prefix": "/instances?prefix=order-99",
    "later": "/instances?cursor=50000",
    "instance": "/instances/order-7",
    "sagas": "/sagas",
    "lost": "/sagas?outcome=compensation_failed&step=pay",
}


def run() -> dict[str, float]:
    """Figures of the pages. Their names contain the units."""
    count = int(os.environ.get("PAGE_INSTANCES", INSTANCES))
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        directory = Path(name)
        _fill(directory / "engine" / FILE, count)
        (directory / "bridge.yaml").write_text(CONFIG.replace("ENGINE", str(directory / "engine")))
        return {"instances": float(count)} | asyncio.run(_pages(directory / "bridge.yaml"))


def _fill(path: Path, count: int) -> None:
    path.parent.mkdir()
    with closing(connect(path)) as connection:
        prepare(connection, path)
        connection.execute("PRAGMA synchronous=OFF")
        hub = TaskHub(Store(connection), DatabaseOptions(rules=BridgeRules()))
        hub.load()
        for first in range(0, count, 1000):
            hub.begin()
            for number in range(first, min(count, first + 1000)):
                _instance(hub, number)
            hub.tx.commit()
            hub.forget()
            hub.instances.clear()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()


def _instance(hub: TaskHub, number: int) -> None:
    given = StringValue(value=json.dumps(PAYLOAD))
    request = pb.CreateInstanceRequest(instanceId=f"order-{number}", name="purchase", input=given)
    instance = hub.create(f"order-{number}", request)
    if number % 1000 == 1:
        return
    scheduled = events.new_event(hub.now, 1)
    scheduled.taskScheduled.name = "pay"
    hub.append(instance, [instance.start, scheduled, events.task_completed(hub.now, 1, None)])
    lost = number % 500 == 7
    if lost:
        instance.custom_status = LOST
    hub.finish(instance, FAILED if lost else COMPLETED, None, None)


async def _pages(config: Path) -> dict[str, float]:
    daemon = Daemon(load_config([config]))
    await daemon.start()
    figures: dict[str, float] = {}
    try:
        async with aiohttp.ClientSession() as http:
            for name, path in PAGES.items():
                clock, processor, size = [], [], 0
                for _ in range(REQUESTS):
                    began, used = time.perf_counter(), time.process_time()
                    async with http.get(daemon.url + path) as response:
                        assert response.status == 200, (path, response.status)
                        size = len(await response.read())
                    clock.append(time.perf_counter() - began)
                    processor.append(time.process_time() - used)
                figures[f"{name}_cpu_ms"] = 1000 * statistics.median(processor)
                figures[f"{name}_ms"] = 1000 * statistics.median(clock)
                figures[f"{name}_kilobytes"] = size / 1000
    finally:
        await daemon.stop(20.0)
    return figures
