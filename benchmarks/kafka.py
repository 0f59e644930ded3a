"""Kafka input and output against handwritten loops. Needs Java and Maven, or KAFKA_HOME (see tests/kafka).

1 KB messages, 4 partitions, one broker.
`accepted_ratio_over_grpc`, `accepted_ratio_in_process`: rate of starts with the bridge over that of a loop that
fetches batches with aiokafka, schedules them concurrently and commits after each.
`accepted_ratio_one_by_one`: over a loop that takes one message at a time (gRPC).
`ignored_ratio`: rate with an `ignore` rule behind one condition over that of plain getmany with JSON decoding.
`latency_*_ms`: from the record on the topic to the first line of its orchestration, at 100 a second.
`backlog_megabytes`: resident memory after a backlog of a million records.
"""

from __future__ import annotations

import asyncio
import gc
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import psutil
import uvloop
from aiokafka import AIOKafkaConsumer
from durabletask.task import OrchestrationContext

from benchmarks._sidecar import sidecar
from benchmarks.pipeline import message, payload
from bridge.app.composition import build_broker, build_engine, build_source, load_config
from bridge.config.source import Loaded
from bridge.core.message import Message
from bridge.engines.base import Engine
from bridge.engines.client import EngineClient
from bridge.engines.commands.command_runner import CommandRunner
from bridge.engines.worker.setup import stop_worker
from bridge.engines.workflows import Workflows
from bridge.pipeline.breaker import Breaker
from bridge.pipeline.settings import EnginePort
from bridge.pipeline.source import SourcePipeline
from bridge.system.memory import tune_memory
from tests.kafka.node import Node

STARTS = 4000
IGNORED = 40_000
BACKLOG = 1_000_000
LATENCIES = 1000
ROUNDS = 3

CONFIG = """
engine: {{type: {engine}}}
brokers: {{kafka: {{type: kafka, bootstrap_servers: "{bootstrap}", create_topics: true}}}}
sources: {{orders: {{broker: kafka, topics: [{topic}], no_match: dead_letter, group: "{group}"}}}}
routes:
  - name: start
    from: orders
    match: {{type: order.created}}
    when: payload.total > 0.0
    {command}
workflows: {{external: [order]}}
"""
START = 'schedule: {{orchestration: order, instance_id: "{group}-{{{{ payload.id }}}}"}}'
IGNORE = "ignore: {{}}"


async def until(condition: Callable[[], bool], pause: float) -> None:
    """Check the condition every `pause` seconds until it is true."""
    while not condition():  # noqa: ASYNC110 -- the measured counters have no notification
        await asyncio.sleep(pause)


@asynccontextmanager
async def setting(
    bootstrap: str, engine: str, topic: str, group: str, command: str
) -> AsyncIterator[tuple[Loaded, Engine]]:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "bridge.yaml"
        if engine == "embedded":
            engine = f"embedded, path: {directory}/engine"
        path.write_text(
            CONFIG.format(
                engine=engine, bootstrap=bootstrap, topic=topic, group=group, command=command.format(group=group)
            )
        )
        loaded = load_config([path])
        found = build_engine(loaded, "default", host=True)
        await found.start()
        try:
            yield loaded, found
        finally:
            await found.stop()


async def fill(bootstrap: str, topic: str, count: int, make: Callable[[int], Message]) -> None:
    async with setting(bootstrap, "embedded", topic, "fill", IGNORE) as (loaded, _):
        broker = build_broker(loaded, "kafka")
        await broker.start()
        for start in range(0, count, 5000):
            await broker.publish(topic, [make(number) for number in range(start, min(count, start + 5000))])
        await broker.stop()


@asynccontextmanager
async def bridged(loaded: Loaded, engine: Engine) -> AsyncIterator[SourcePipeline]:
    broker = build_broker(loaded, "kafka")
    await broker.start()
    breaker = Breaker("default", engine.probe)
    target = EnginePort(CommandRunner(engine).execute, breaker)
    source = build_source(loaded, "orders", {"kafka": broker}, {"default": target})
    await source.start()
    try:
        yield source
    finally:
        await source.drain(5)
        await broker.stop()


async def with_bridge(loaded: Loaded, engine: Engine, outcome: str, count: int) -> float:
    """Seconds from the group's assignment to the last message settled."""
    async with bridged(loaded, engine) as source:
        started = time.perf_counter()
        await until(lambda: source.ledger.outcomes[outcome] >= count, 0.001)
        assert source.subscription is not None
        await source.subscription.flush()
        return time.perf_counter() - started


@asynccontextmanager
async def consumer(bootstrap: str, topic: str, group: str) -> AsyncIterator[AIOKafkaConsumer]:
    found = AIOKafkaConsumer(
        topic, bootstrap_servers=bootstrap, group_id=group, enable_auto_commit=False, auto_offset_reset="earliest"
    )
    await found.start()
    try:
        yield found
    finally:
        await found.stop()


async def batches(bootstrap: str, topic: str, group: str, client: EngineClient) -> float:
    """Seconds of the handwritten loop: fetch, schedule all concurrently, commit."""

    async def schedule(value: bytes) -> None:
        data = orjson.loads(value)["data"]
        await client.schedule_new_orchestration("order", input=data, instance_id=f"{group}-{data['id']}")

    async with consumer(bootstrap, topic, group) as reader:
        done = 0
        started = time.perf_counter()
        while done < STARTS:
            found = await reader.getmany(timeout_ms=500, max_records=500)
            records = [record for batch in found.values() for record in batch]
            await asyncio.gather(*(schedule(record.value) for record in records))
            if records:
                await reader.commit()
            done += len(records)
        return time.perf_counter() - started


async def one_by_one(bootstrap: str, topic: str, group: str, client: EngineClient, count: int) -> float:
    """Seconds of the simplest loop for `count` messages."""
    async with consumer(bootstrap, topic, group) as reader:
        started = time.perf_counter()
        for _ in range(count):
            record = await reader.getone()
            data = orjson.loads(record.value)["data"]
            await client.schedule_new_orchestration("order", input=data, instance_id=f"{group}-{data['id']}")
            await reader.commit()
        return time.perf_counter() - started


async def bare_reading(bootstrap: str, topic: str, group: str) -> float:
    """Seconds to read and decode all messages."""
    async with consumer(bootstrap, topic, group) as reader:
        done = 0
        started = time.perf_counter()
        while done < IGNORED:
            for batch in (await reader.getmany(timeout_ms=500)).values():
                for record in batch:
                    orjson.loads(record.value)
                done += len(batch)
        return time.perf_counter() - started


async def accepted(bootstrap: str) -> dict[str, float]:
    await fill(bootstrap, "starts", STARTS, message)
    over_grpc, in_process, single, rates = [], [], [], []
    for number in range(ROUNDS):
        with sidecar() as address:
            engine = f"scheduler, endpoint: 'http://{address}'"
            async with setting(bootstrap, engine, "starts", f"grpc-{number}", START) as (loaded, found):
                plain = await batches(bootstrap, "starts", f"by-hand-{number}", found.client)
                slow = await one_by_one(bootstrap, "starts", f"single-{number}", found.client, STARTS // 10) * 10
                took = await with_bridge(loaded, found, "executed", STARTS)
        over_grpc.append(plain / took)
        single.append(slow / took)
        rates.append(STARTS / took)
        async with setting(bootstrap, "embedded", "starts", f"local-{number}", START) as (loaded, found):
            took = await with_bridge(loaded, found, "executed", STARTS)
        async with setting(bootstrap, "embedded", "starts", f"local-{number}", START) as (_, found):
            plain = await batches(bootstrap, "starts", f"by-hand-local-{number}", found.client)
        in_process.append(plain / took)
    return {
        "accepted_ratio_over_grpc": statistics.median(over_grpc),
        "accepted_ratio_in_process": statistics.median(in_process),
        "accepted_ratio_one_by_one": statistics.median(single),
        "accepted_per_second_over_grpc": statistics.median(rates),
    }


async def ignored(bootstrap: str) -> dict[str, float]:
    await fill(bootstrap, "ignored", IGNORED, message)
    ratios, rates = [], []
    for number in range(ROUNDS):
        plain = await bare_reading(bootstrap, "ignored", f"bare-{number}")
        async with setting(bootstrap, "embedded", "ignored", f"ignore-{number}", IGNORE) as (loaded, engine):
            took = await with_bridge(loaded, engine, "ignored", IGNORED)
        ratios.append(plain / took)
        rates.append(IGNORED / took)
    return {"ignored_ratio": statistics.median(ratios), "ignored_per_second": statistics.median(rates)}


async def latency(bootstrap: str) -> dict[str, float]:
    seen: dict[str, float] = {}

    def order(context: OrchestrationContext, given: Any) -> str:
        seen.setdefault(context.instance_id, time.perf_counter())
        return "done"

    async with setting(bootstrap, "embedded", "latency", "latency", START) as (loaded, engine):
        worker = engine.worker(Workflows(orchestrators={"order": order}))
        worker.start()
        broker = build_broker(loaded, "kafka")
        await broker.start()
        sent: dict[str, float] = {}
        async with bridged(loaded, engine):
            await asyncio.sleep(0.5)
            begun = time.perf_counter()
            for number in range(LATENCIES):
                await asyncio.sleep(max(0.0, begun + number / 100 - time.perf_counter()))
                await broker.publish("latency", [message(number)])
                sent[f"latency-o-{number}"] = time.perf_counter()  # on the topic, because the publish is acknowledged
            await until(lambda: len(seen) >= LATENCIES, 0.01)
        await stop_worker(worker, 5)
        await broker.stop()
    took = sorted(max(0.0, seen[name] - at) * 1000 for name, at in list(sent.items())[100:])
    return {"latency_p50_ms": took[len(took) // 2], "latency_p99_ms": took[len(took) * 99 // 100]}


async def backlog(bootstrap: str) -> dict[str, float]:
    body = orjson.dumps(payload(1))

    def make(number: int) -> Message:
        attributes = {"specversion": "1.0", "id": str(number), "source": "/b", "type": "order.created"}
        headers = tuple((f"ce_{name}", value.encode()) for name, value in attributes.items())
        headers += (("content-type", b"application/json"),)
        return Message(body, b"o-%d" % (number % 500), headers)

    await fill(bootstrap, "backlog", BACKLOG, make)
    gc.collect()
    process = psutil.Process(os.getpid())
    before = process.memory_info().rss
    highest = before
    async with (
        setting(bootstrap, "embedded", "backlog", "backlog", IGNORE) as (loaded, engine),
        bridged(loaded, engine) as source,
    ):
        begun = time.perf_counter()

        def finished() -> bool:
            nonlocal highest
            highest = max(highest, process.memory_info().rss)
            return source.ledger.outcomes["ignored"] >= BACKLOG

        await until(finished, 0.2)
        rate = BACKLOG / (time.perf_counter() - begun)
    return {
        "backlog_megabytes": highest / 1e6,
        "backlog_growth_megabytes": (highest - before) / 1e6,
        "backlog_per_second": rate,
    }


async def measure() -> dict[str, float]:
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as directory:
        node = Node(Path(directory) / "node")
        node.start()
        try:
            parts: tuple[Callable[[str], Awaitable[dict[str, float]]], ...] = (accepted, ignored, latency, backlog)
            for part in parts:
                figures |= await part(node.bootstrap)
        finally:
            node.kill()
    return figures


def run() -> dict[str, float]:
    tune_memory()  # for all variants alike
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(measure())
