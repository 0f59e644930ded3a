"""Rate of intake over gRPC, compared with a plain loop of the SDK's client that sends the same payloads.

`ENDPOINT_KIND_ratio`: rate with the bridge (local broker, rules, settlement) over the rate of the loop.
`ENDPOINT_KIND_cpu_ratio`: processor time of the loop over that of the bridge, in the process of the client.
`ENDPOINT_KIND_per_second`, `ENDPOINT_KIND_micros`, `..._loop_micros`: rate of the bridge, and processor times for a
message. ENDPOINT: `sidecar`, the SDK's in-memory backend, or `engine`, as `bridge engine` serves it, each in a process
of its own. KIND: `starts`, `raises`, or `checked_raises`: the loop reads the instance after each event, as the bridge
does unless the engine confirms the event.
Both have 64 calls in flight, one after the other within a round, in turn first. No workers run. The garbage collector
is set as in the daemon. Figures are medians of rounds. BENCH_ROUNDS: number of rounds.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop
from durabletask.client import AsyncTaskHubGrpcClient

from benchmarks._remote import child
from benchmarks._sidecar import sidecar
from benchmarks.pipeline import CONCURRENCY, QUIET, message, payload
from bridge.app.composition import build_broker, build_engine, build_source, load_config
from bridge.config.source import Loaded
from bridge.engines.base import Engine
from bridge.engines.commands.command_runner import CommandRunner
from bridge.pipeline.breaker import Breaker
from bridge.pipeline.settings import EnginePort
from bridge.system.memory import tune_memory

MESSAGES = 2000
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "9"))

CONFIG = """
engine: {{type: scheduler, endpoint: 'http://{address}', credential: none}}
brokers: {{local: {{type: local, path: {path}/broker}}}}
sources: {{orders: {{broker: local, topics: [orders], no_match: dead_letter, group: "{group}"}}}}
routes:
  - name: route
    from: orders
    match: {{type: order.created}}
    when: payload.total > 0.0
    {command}
workflows: {{external: [order]}}
"""
RAISE = 'raise_event: {{name: paid, instance_id: "{group}-{{{{ payload.customer.id }}}}"}}'
COMMANDS = {
    "starts": 'schedule: {{orchestration: order, instance_id: "{group}-{{{{ payload.id }}}}"}}',
    "raises": RAISE,
    "checked_raises": RAISE,
}


@dataclass(frozen=True)
class Took:
    """Seconds of one variant for MESSAGES messages: by the clock, and of the processor."""

    seconds: float
    cpu: float


@asynccontextmanager
async def measured(took: list[Took]) -> AsyncIterator[None]:
    """Append the times of the block."""
    cpu, began = time.process_time(), time.perf_counter()
    yield
    took.append(Took(time.perf_counter() - began, time.process_time() - cpu))


async def in_parallel(call: Callable[[dict[str, Any]], Awaitable[Any]], payloads: list[dict[str, Any]]) -> None:
    left = iter(payloads)

    async def caller() -> None:
        for each in left:
            await call(each)

    await asyncio.gather(*(caller() for _ in range(CONCURRENCY)))


async def start_targets(client: AsyncTaskHubGrpcClient, group: str) -> None:
    """Start the instances that get the events of one round."""
    customers = {payload(number)["customer"]["id"] for number in range(MESSAGES)}
    await in_parallel(
        lambda each: client.schedule_new_orchestration("order", instance_id=f"{group}-{each['id']}"),
        [{"id": each} for each in customers],
    )


async def loop(client: AsyncTaskHubGrpcClient, kind: str, group: str, took: list[Took]) -> None:
    """Send the payloads without the bridge."""
    payloads = [payload(number) for number in range(MESSAGES)]

    async def start(each: dict[str, Any]) -> None:
        await client.schedule_new_orchestration("order", input=each, instance_id=f"{group}-{each['id']}")

    async def raise_event(each: dict[str, Any]) -> None:
        instance_id = f"{group}-{each['customer']['id']}"
        await client.raise_orchestration_event(instance_id, "paid", data=each)
        if kind == "checked_raises":
            await client.get_orchestration_state(instance_id, fetch_payloads=False)

    async with measured(took):
        await in_parallel(start if kind == "starts" else raise_event, payloads)


async def bridge(loaded: Loaded, engine: Engine, took: list[Took]) -> None:
    """Send them with the bridge: from an open subscription to the last message settled."""
    broker = build_broker(loaded, "local")
    await broker.start()
    await broker.publish("orders", [message(number) for number in range(MESSAGES)])
    port = EnginePort(CommandRunner(engine).execute, Breaker("default", engine.probe))
    source = build_source(loaded, "orders", {"local": broker}, {"default": port})
    async with measured(took):
        await source.start()
        while source.ledger.outcomes["executed"] < MESSAGES:  # noqa: ASYNC110 -- a measured pipeline must not do more for it
            await asyncio.sleep(0.001)
        assert source.subscription is not None
        await source.subscription.flush()
    await source.drain(5)
    await broker.stop()


async def one_round(address: str, kind: str, number: int) -> tuple[Took, Took]:
    """Times of the bridge and of the loop."""
    group = f"{kind}-{number}"
    client = AsyncTaskHubGrpcClient(host_address=address, metadata=[("taskhub", "default")], logger=QUIET)
    bridged: list[Took] = []
    plain: list[Took] = []
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as directory:
        path = Path(directory) / "bridge.yaml"
        command = COMMANDS[kind].format(group=group)
        path.write_text(CONFIG.format(address=address, path=directory, group=group, command=command))
        loaded = load_config([path])
        engine = build_engine(loaded, "default", host=True)
        await engine.start()
        await engine.probe()
        if kind != "starts":
            await start_targets(client, group)
            await start_targets(client, f"loop-{group}")
        else:
            await client.get_orchestration_state("warm-up")
        variants = [bridge(loaded, engine, bridged), loop(client, kind, f"loop-{group}", plain)]
        for variant in variants if number % 2 else reversed(variants):
            await variant
        await engine.stop()
    await client.close()
    return bridged[0], plain[0]


@contextmanager
def served(endpoint: str) -> Iterator[str]:
    """Start a process of an endpoint. Yields its address, `127.0.0.1:port`."""
    if endpoint == "sidecar":
        with sidecar() as address:
            yield address
        return
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as directory, child("engine", directory) as engine:
        yield f"127.0.0.1:{engine.ready}"


async def measure() -> dict[str, float]:
    figures: dict[str, float] = {}
    for endpoint in ("sidecar", "engine"):
        for kind in COMMANDS:
            with served(endpoint) as address:
                await one_round(address, kind, -1)
                rounds = [await one_round(address, kind, number) for number in range(ROUNDS)]
            name = f"{endpoint}_{kind}"
            figures |= {
                f"{name}_ratio": statistics.median(plain.seconds / bridged.seconds for bridged, plain in rounds),
                f"{name}_cpu_ratio": statistics.median(plain.cpu / bridged.cpu for bridged, plain in rounds),
                f"{name}_per_second": statistics.median(MESSAGES / bridged.seconds for bridged, _ in rounds),
                f"{name}_micros": statistics.median(bridged.cpu / MESSAGES * 1e6 for bridged, _ in rounds),
                f"{name}_loop_micros": statistics.median(plain.cpu / MESSAGES * 1e6 for _, plain in rounds),
            }
    return figures


def run() -> dict[str, float]:
    tune_memory()  # for both variants alike
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(measure())
