"""Cost of the bridge over a plain loop of the SDK's asynchronous client that schedules the same payloads.

`added_micros`: per message, engine in process. `python -m benchmarks intake` compares intake over gRPC.
No workers run. The garbage collector is set as in the daemon. The variants alternate; figures are medians of rounds.
"""

from __future__ import annotations

import asyncio
import logging
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import uvloop
from durabletask.client import AsyncTaskHubGrpcClient

from bridge.app.composition import build_broker, build_engine, build_source, load_config
from bridge.config.source import Loaded
from bridge.core.message import Message
from bridge.engines.base import Engine
from bridge.engines.commands.command_runner import CommandRunner
from bridge.pipeline.breaker import Breaker
from bridge.pipeline.settings import EnginePort
from bridge.system.memory import tune_memory

MESSAGES = 4000
ROUNDS = 7
CONCURRENCY = 64
QUIET = logging.getLogger("benchmarks.sdk")
QUIET.setLevel(logging.WARNING)

CONFIG = """
engine: {{type: {engine}}}
brokers: {{local: {{type: local, path: {path}/broker}}}}
sources: {{orders: {{broker: local, topics: [orders], no_match: dead_letter, group: "{group}"}}}}
routes:
  - name: start
    from: orders
    match: {{type: order.created}}
    when: payload.total > 0.0
    schedule: {{orchestration: order, instance_id: "{group}-{{{{ payload.id }}}}"}}
workflows: {{external: [order]}}
"""


def payload(number: int) -> dict[str, Any]:
    """Payload of about 1 KB of JSON."""
    return {
        "id": f"o-{number}",
        "total": 12.5 + number,
        "customer": {"id": f"c-{number % 97}", "name": "A customer with a name", "country": "NL"},
        "lines": [{"sku": f"sku-{line}", "quantity": line + 1, "price": 1.25 * line} for line in range(8)],
        "note": "x" * 400,
    }


def message(number: int) -> Message:
    event = {"specversion": "1.0", "id": f"e-{number}", "source": "/bench", "type": "order.created"}
    body = orjson.dumps(event | {"datacontenttype": "application/json", "data": payload(number)})
    headers = (("content-type", b"application/cloudevents+json"),)
    return Message(body, f"o-{number % 500}".encode(), headers)


async def with_bridge(loaded: Loaded, engine: Engine) -> float:
    """Seconds from an open subscription to the last message settled."""
    broker = build_broker(loaded, "local")
    await broker.start()
    await broker.publish("orders", [message(number) for number in range(MESSAGES)])
    executor = CommandRunner(engine)
    breaker = Breaker("default", engine.probe)
    source = build_source(loaded, "orders", {"local": broker}, {"default": EnginePort(executor.execute, breaker)})
    started = time.perf_counter()
    await source.start()
    while source.ledger.outcomes["executed"] < MESSAGES:  # noqa: ASYNC110 -- a measured pipeline must not do more for it
        await asyncio.sleep(0.001)
    assert source.subscription is not None
    await source.subscription.flush()
    took = time.perf_counter() - started
    assert source.ledger.commands["start", "ScheduleOrchestration"] == MESSAGES
    await source.drain(5)
    await broker.stop()
    return took


async def bare(client: AsyncTaskHubGrpcClient, prefix: str, concurrency: int) -> float:
    """Seconds to schedule the same payloads without the bridge."""
    payloads = [payload(number) for number in range(MESSAGES)]
    waiting = iter(payloads)

    async def loop() -> None:
        for each in waiting:
            await client.schedule_new_orchestration("order", input=each, instance_id=f"{prefix}-{each['id']}")

    started = time.perf_counter()
    await asyncio.gather(*(loop() for _ in range(concurrency)))
    return time.perf_counter() - started


@asynccontextmanager
async def setting(engine_yaml: str, number: int) -> AsyncIterator[tuple[Loaded, Engine]]:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "bridge.yaml"
        path.write_text(CONFIG.format(engine=engine_yaml, path=directory, group=f"g{number}"))
        loaded = load_config([path])
        engine = build_engine(loaded, "default", host=True)
        await engine.start()
        try:
            yield loaded, engine
        finally:
            await engine.stop()


async def in_process(number: int) -> tuple[float, float]:
    """Seconds with the bridge and without, each on a new engine in this process."""
    async with setting("embedded", number) as (loaded, engine):
        bridged = await with_bridge(loaded, engine)
    async with setting("embedded", number) as (_, engine):
        stock = AsyncTaskHubGrpcClient(channel=engine.client._sdk._channel, logger=QUIET)
        return bridged, await bare(stock, "bare", CONCURRENCY)


async def measure() -> dict[str, float]:
    near = [await in_process(number) for number in range(ROUNDS)]
    return {
        "added_micros": statistics.median((bridged - plain) / MESSAGES * 1e6 for bridged, plain in near),
        "bare_micros": statistics.median(plain / MESSAGES * 1e6 for _, plain in near),
    }


def run() -> dict[str, float]:
    tune_memory()  # for both variants alike
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(measure())
