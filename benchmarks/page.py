"""All pages of one daemon with 100,000 instances in its engine and 10,000 dead letters in its broker, over HTTP.

`PAGE_INSTANCES` and `DEAD_LETTERS` set other numbers. The instances are rows that the engine's own writer makes: most
are completed sagas; of 1,000 there are 10 open ones (one of them compensates), 10 that were compensated, 5 that failed
without, and 2 whose compensation failed.

`{page}_cpu_ms`: median of the processor time of the daemon's process for one page; this process is also the client.
`{page}_ms`: median of the time on the clock. `{page}_kilobytes`: size of the page, and of style sheet and script with
it for `first_paint`. `dead_letters_first_ms`: the first request, which fills the cache of rows. `slowest_cpu_ms`: of
the page that takes the most. `PAGE_PROFILE=PAGE` prints where the time of one page goes.
"""

from __future__ import annotations

import asyncio
import cProfile
import json
import os
import pstats
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import aiohttp
from durabletask.internal import orchestrator_service_pb2 as pb

from benchmarks.dead_letters import dead_letter_message
from bridge.app.composition import load_config
from bridge.app.page.pages import PAGES
from bridge.app.serve.daemon import Daemon
from bridge.engines.embedded.address import FILE
from bridge.engines.embedded.host_rules import BridgeRules
from bridge.sqlite_engine.hub.hub import TaskHub
from bridge.sqlite_engine.model import event as events
from bridge.sqlite_engine.model.instance import COMPLETED, FAILED, RUNNING
from bridge.sqlite_engine.model.values import StringValue
from bridge.sqlite_engine.options import DatabaseOptions
from bridge.sqlite_engine.storage.schema import connect, prepare
from bridge.sqlite_engine.storage.store import Store

INSTANCES = 100_000
DEAD_LETTERS = 10_000
REQUESTS = 15
PAYLOAD = {"order": "o-1", "note": "x" * 490}
CONFIG = """
engine: {type: embedded, path: ENGINE}
workflows: {external: [purchase]}
brokers: {broker: {type: local, partitions: 4}}
sources: {orders: {broker: broker, topics: [orders], codec: json, no_match: dead_letter}}
routes: [{name: start, from: orders, schedule: {orchestration: purchase, instance_id: "{{ payload.id }}"}}]
ops: {http: {port: 0, access: {rate: 10000, burst: 100000}}}
"""
_CURSOR = re.compile(r'href="([^"]+)" rel="next"')
_NO_PAGE_OF_READERS = {"/audit"}
"""Pages that need more than the role of this client."""


def run() -> dict[str, float]:
    """Figures of the pages. Their names contain the units."""
    instances = int(os.environ.get("PAGE_INSTANCES", INSTANCES))
    dead_letters = int(os.environ.get("DEAD_LETTERS", DEAD_LETTERS))
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        directory = Path(name)
        _fill(directory / "engine" / FILE, instances)
        (directory / "bridge.yaml").write_text(CONFIG.replace("ENGINE", str(directory / "engine")))
        figures = {"instances": float(instances), "letters": float(dead_letters)}
        return figures | asyncio.run(_measured(directory / "bridge.yaml", dead_letters))


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
    place = number % 1000
    scheduled = events.new_event(hub.now, 1)
    scheduled.taskScheduled.name = "pay"
    if place < 10:  # no worker takes them: their workflow is external
        instance.status = RUNNING
        instance.custom_status = _saga("compensating" if place == 1 else "running", place == 1)
        hub.append(instance, [instance.start, scheduled])
        return
    hub.append(instance, [instance.start, scheduled, events.task_completed(hub.now, 1, None)])
    outcome = "compensated" if place < 20 else "failed" if place < 25 else "compensation_failed" if place < 27 else ""
    instance.custom_status = _saga(outcome or "completed", bool(outcome))
    hub.finish(instance, FAILED if outcome else COMPLETED, None, None)


def _saga(status: str, is_failure: bool) -> str:
    document: dict[str, object] = {
        "saga": "purchase", "status": status,
        "steps": {"stock": status if is_failure else "completed", "pay": "refused" if is_failure else "completed"},
    }  # fmt: skip
    if is_failure:
        document |= {"reason": "refused", "step": "pay"}
    if status == "compensation_failed":
        document["failed_compensations"] = [{"step": "stock", "error": "failed: locked"}]
    return json.dumps(document)


async def _measured(config: Path, dead_letters: int) -> dict[str, float]:
    daemon = Daemon(load_config([config]))
    await daemon.start()
    try:
        broker = daemon.brokers["broker"]
        for start in range(0, dead_letters, 2000):
            part = range(start, min(start + 2000, dead_letters))
            await broker.publish("orders.dlq", [dead_letter_message(number) for number in part])
        async with aiohttp.ClientSession(daemon.url) as http:
            began = time.perf_counter()
            await _body(http, "/dead-letters")
            figures = {"dead_letters_first_ms": (time.perf_counter() - began) * 1000}
            paths = await _paths(http)
            _check_all_are_measured(paths)
            for name, path in paths.items():
                figures |= await _figures(http, name, path)
            figures["first_paint_kilobytes"] = await _first_paint(http, paths)
    finally:
        await daemon.stop(20.0)
    slowest = max((value, name) for name, value in figures.items() if name.endswith("_cpu_ms"))
    print(f"slowest: {slowest[1]} {slowest[0]:.1f}", file=sys.stderr)
    return figures | {"slowest_cpu_ms": slowest[0]}


async def _paths(http: aiohttp.ClientSession) -> Mapping[str, str]:
    """Addresses by name: each page, and the filters that cost the most."""
    async with http.get("/api/v1/dead-letter-groups") as response:
        group = (await response.json())["groups"][0]
    of_group = f"/dead-letters?group={group['group']}"
    return {
        "overview": "/",
        "messages": "/messages",
        "message": "/messages/order-7",
        "message_dead": f"/messages/{quote(group['example'], safe='')}",
        "dead_letters": "/dead-letters",
        "group": of_group,
        "group_next": await _next(http, of_group),
        "group_since": f"{of_group}&since=30d",
        "dead_letter": f"/dead-letters/{quote(group['example'], safe='')}",
        "instances": "/instances",
        "instances_failed": "/instances?status=FAILED",
        "instances_completed": "/instances?status=COMPLETED",
        "instances_open": "/instances?status=RUNNING",
        "instances_by_id": "/instances?prefix=order-99",
        "instances_by_absent_id": "/instances?prefix=none",
        "instances_old": "/instances?to=2001-01-01T00:00",
        "instances_undone": "/instances?outcome=compensation_failed",
        "instances_next": await _next(http, "/instances"),
        "instance": "/instances/order-7",
        "sagas": "/sagas",
        "sagas_undone": "/sagas?outcome=compensation_failed&step=pay",
        "sagas_at_absent_step": "/sagas?step=none",
        "sagas_compensating": "/sagas?outcome=compensating",
        "waiting": "/waiting",
        "jobs": "/jobs",
        "entities": "/entities",
        "config": "/config",
        "config_problems": "/config?view=problems",
        "config_history": "/config?view=history",
        "config_candidate": "/config?view=candidate",
    }


def _check_all_are_measured(paths: Mapping[str, str]) -> None:
    measured = {path.partition("?")[0] for path in paths.values()}
    for page in PAGES:
        if page.template and "{" not in page.path and page.path not in _NO_PAGE_OF_READERS:
            assert page.path in measured, f"no figure for {page.path}"


async def _next(http: aiohttp.ClientSession, path: str) -> str:
    found = _CURSOR.search((await _body(http, path)).decode())
    assert found, f"{path} has no next part"
    return found[1].replace("&amp;", "&")


async def _first_paint(http: aiohttp.ClientSession, paths: Mapping[str, str]) -> float:
    """Kilobytes of the largest page without parameters, with its style sheet, script and picture."""
    most = 0
    for path in paths.values():
        if "?" not in path:
            body = await _body(http, path)
            assets = re.findall(r'"(/assets/[^"]+)"', body.decode())
            most = max(most, len(body) + sum([len(await _body(http, each)) for each in assets]))
    return most / 1000


async def _figures(http: aiohttp.ClientSession, name: str, path: str) -> dict[str, float]:
    clock, processor, size = [], [], 0
    profile = cProfile.Profile() if os.environ.get("PAGE_PROFILE") == name else None
    for _ in range(REQUESTS):
        began, used = time.perf_counter(), time.process_time()
        if profile is not None:
            profile.enable()
        size = len(await _body(http, path))
        if profile is not None:
            profile.disable()
        clock.append(time.perf_counter() - began)
        processor.append(time.process_time() - used)
    if profile is not None:
        pstats.Stats(profile, stream=sys.stderr).sort_stats("cumulative").print_stats(60)
    return {
        f"{name}_cpu_ms": 1000 * statistics.median(processor),
        f"{name}_ms": 1000 * statistics.median(clock),
        f"{name}_kilobytes": size / 1000,
    }


async def _body(http: aiohttp.ClientSession, path: str) -> bytes:
    async with http.get(path) as response:
        assert response.status == 200, f"{path}: {response.status}"
        return await response.read()
