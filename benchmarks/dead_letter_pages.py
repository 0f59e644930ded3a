"""Pages of a daemon with 10,000 dead letters (`DEAD_LETTERS` sets another number), over HTTP.

`*_ms`: median of the time from the request to the last byte. `*_cpu_ms`: processor time of the process, which is also
the client. `*_kb`: size. `dead_letters`: groups with trends. `group`: one group with its newest dead letters.
`group_next`: the part after them. `one`: one dead letter with its dry run. `message`: life of a dead-lettered message.
`*_first_ms`: the first request, which fills the cache of rows.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import aiohttp

from benchmarks.dead_letters import dead_letter_message
from bridge.app.composition import load_config
from bridge.app.serve.daemon import Daemon

DEAD_LETTERS = 10_000
ROUNDS = 15
CONFIG = """
engine: {type: embedded}
brokers: {broker: {type: local, partitions: 4}}
sources: {orders: {broker: broker, topics: [orders], codec: json, no_match: dead_letter}}
routes: [{name: start, from: orders, schedule: {orchestration: order, instance_id: "{{ payload.id }}"}}]
workflows: {external: [order]}
ops: {http: {port: 0, access: {rate: 10000, burst: 10000}}}
"""


def run() -> dict[str, float]:
    """Figures of all pages. Their names contain the units."""
    count = int(os.environ.get("DEAD_LETTERS", DEAD_LETTERS))
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as directory:
        return {"letters": float(count)} | asyncio.run(_measured(Path(directory), count))


async def _measured(place: Path, count: int) -> dict[str, float]:
    (place / "bridge.yaml").write_text(CONFIG)
    daemon = Daemon(load_config([place / "bridge.yaml"]))
    await daemon.start()
    try:
        broker = daemon.brokers["broker"]
        for start in range(0, count, 2000):
            part = range(start, min(start + 2000, count))
            await broker.publish("orders.dlq", [dead_letter_message(number) for number in part])
        async with aiohttp.ClientSession(daemon.url) as http:
            began = time.perf_counter()
            await _body(http, "/dead-letters")
            figures = {"dead_letters_first_ms": (time.perf_counter() - began) * 1000}
            for name, path in (await _paths(http)).items():
                figures |= {f"{name}_{figure}": value for figure, value in (await _figures(http, path)).items()}
        return figures
    finally:
        await daemon.stop(20.0)


async def _paths(http: aiohttp.ClientSession) -> Mapping[str, str]:
    async with http.get("/api/v1/dead-letter-groups") as response:
        group = (await response.json())["groups"][0]
    async with http.get("/api/v1/dead-letters:newest", params={"causes": group["group"]}) as response:
        newest = await response.json()
    of_group = f"/dead-letters?group={group['group']}"
    return {
        "dead_letters": "/dead-letters",
        "group": of_group,
        "group_next": f"{of_group}&before={quote(newest['next'])}",
        "group_since": f"{of_group}&since=30d",
        "one": f"/dead-letters/{quote(group['example'], safe='')}",
        "message": f"/messages/{quote(group['example'], safe='')}",
        "waiting": "/waiting",
        "jobs": "/jobs",
    }


async def _figures(http: aiohttp.ClientSession, path: str) -> dict[str, float]:
    times, processor, size = [], [], 0
    for _ in range(ROUNDS):
        began, spent = time.perf_counter(), time.process_time()
        size = len(await _body(http, path))
        times.append((time.perf_counter() - began) * 1000)
        processor.append((time.process_time() - spent) * 1000)
    return {"ms": statistics.median(times), "cpu_ms": statistics.median(processor), "kb": size / 1000}


async def _body(http: aiohttp.ClientSession, path: str) -> bytes:
    async with http.get(path) as response:
        assert response.status == 200, f"{path}: {response.status}"
        return await response.read()
