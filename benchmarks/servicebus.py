"""Service Bus input and output against the SDK's own loops, over the test server in its own process.

1 KB messages, one queue, one receiver.
`_0ms` and `_10ms`: round trip added to that of loopback.
`bare_per_second`: the best of the SDK's loops that receive and complete, one by one or concurrently.
`ignored_per_second`, `ignored_ratio`: the bridge with an `ignore` rule behind one condition, and its share of the
best loop.
`started_per_second`: with a rule that starts an orchestration on the embedded engine.
`idle_queue_percent`, `idle_sessions_percent`: percent of a core, for a source on an empty queue, and for one that
waits for 20 sessions.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import uvloop
from azure.servicebus import ServiceBusReceivedMessage
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver

from benchmarks.kafka import until
from benchmarks.pipeline import message
from bridge.app.composition import build_broker, build_engine, build_source, load_config
from bridge.brokers.servicebus.amqp.messages import outgoing
from bridge.engines.commands.command_runner import CommandRunner
from bridge.pipeline.breaker import Breaker
from bridge.pipeline.settings import EnginePort
from bridge.pipeline.source import SourcePipeline
from bridge.system.memory import tune_memory
from tests.servicebus.process import ServerProcess
from tests.servicebus.server import QueueConfig

MESSAGES = 3000
ROUNDS = 3
IDLE_SECONDS = 5.0
PREFETCH = 200

CONFIG = """
engine: {{type: embedded, path: {directory}/engine}}
brokers: {{bus: {{type: servicebus, connection_string: "{connection_string}", connections: 50}}}}
sources: {{orders: {{broker: bus, {entity}, no_match: dead_letter, servicebus: {{prefetch: {prefetch}}}}}}}
routes:
  - name: start
    from: orders
    match: {{type: order.created}}
    when: payload.total > 0.0
    {command}
workflows: {{external: [order]}}
"""
START = 'schedule: {orchestration: order, instance_id: "o-{{ payload.id }}"}'
IGNORE = "ignore: {}"
SESSIONS = "queue: sessions, sessions: {concurrent: 20}"


@asynccontextmanager
async def bridged(server: ServerProcess, command: str, entity: str = "queue: orders") -> AsyncIterator[SourcePipeline]:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "bridge.yaml"
        path.write_text(
            CONFIG.format(
                directory=directory,
                connection_string=server.connection_string,
                entity=entity,
                command=command,
                prefetch=PREFETCH,
            )
        )
        loaded = load_config([path])
        engine = build_engine(loaded, "default", host=True)
        await engine.start()
        broker = build_broker(loaded, "bus")
        await broker.start()
        target = EnginePort(CommandRunner(engine).execute, Breaker("default", engine.probe))
        source = build_source(loaded, "orders", {"bus": broker}, {"default": target})
        try:
            yield source
        finally:
            await source.drain(5)
            await broker.stop()
            await engine.stop()


async def fill(server: ServerProcess, round_trip: float) -> None:
    server.call("faults.slow", round_trip=0.0)
    sent = [outgoing(message(number)) for number in range(MESSAGES)]
    for each in sent:
        each.session_id = None
    async with (
        ServiceBusClient.from_connection_string(server.connection_string) as client,
        client.get_queue_sender("orders") as sender,
    ):
        for start in range(0, MESSAGES, 100):
            await sender.send_messages(sent[start : start + 100])
    server.call("faults.slow", round_trip=round_trip)


Settle = Callable[[ServiceBusReceiver, list[ServiceBusReceivedMessage]], Awaitable[None]]


async def one_by_one(receiver: ServiceBusReceiver, messages: list[ServiceBusReceivedMessage]) -> None:
    for each in messages:
        await receiver.complete_message(each)


async def side_by_side(receiver: ServiceBusReceiver, messages: list[ServiceBusReceivedMessage]) -> None:
    await asyncio.gather(*(receiver.complete_message(each) for each in messages))


async def bare(server: ServerProcess, settle: Settle, socket_timeout: float) -> float:
    """Messages a second, from an open receiver to the last one completed."""
    async with (
        ServiceBusClient.from_connection_string(server.connection_string) as client,
        client.get_queue_receiver("orders", prefetch_count=PREFETCH, socket_timeout=socket_timeout) as receiver,
    ):
        done = 0
        started = time.perf_counter()
        while done < MESSAGES:
            messages: list[ServiceBusReceivedMessage] = await receiver.receive_messages(100, max_wait_time=5)
            await settle(receiver, messages)
            done += len(messages)
        return done / (time.perf_counter() - started)


async def with_bridge(server: ServerProcess, command: str, outcome: str) -> float:
    """Messages a second, from the first delivery to the last one settled. A receiver takes half a second to open."""
    async with bridged(server, command) as source:
        await source.start()
        await until(lambda: source.ledger.received > 0, 0)
        started = time.perf_counter()
        await until(lambda: source.ledger.outcomes[outcome] >= MESSAGES, 0.001)
        return MESSAGES / (time.perf_counter() - started)


async def throughput(server: ServerProcess, round_trip: float, label: str) -> dict[str, float]:
    loops: tuple[tuple[Settle, float], ...] = ((one_by_one, 0.2), (side_by_side, 0.02))
    if round_trip:
        loops = ((side_by_side, 0.2), (side_by_side, 0.02))
    plain, ignored, started = [], [], []
    for _ in range(ROUNDS):
        rates = []
        for settle, socket_timeout in loops:
            await fill(server, round_trip)
            rates.append(await bare(server, settle, socket_timeout))
        plain.append(max(rates))
        await fill(server, round_trip)
        ignored.append(await with_bridge(server, IGNORE, "ignored"))
        await fill(server, round_trip)
        started.append(await with_bridge(server, START, "executed"))
    return {
        f"bare_per_second_{label}": statistics.median(plain),
        f"ignored_per_second_{label}": statistics.median(ignored),
        f"ignored_ratio_{label}": statistics.median(mine / best for mine, best in zip(ignored, plain, strict=True)),
        f"started_per_second_{label}": statistics.median(started),
    }


async def idle(server: ServerProcess, entity: str) -> float:
    """Processor use of an idle source, in percent of a core."""
    async with bridged(server, IGNORE, entity) as source:
        await source.start()
        await asyncio.sleep(2.0)
        used, begun = time.process_time(), time.perf_counter()
        await asyncio.sleep(IDLE_SECONDS)
        return (time.process_time() - used) / (time.perf_counter() - begun) * 100


async def measure() -> dict[str, float]:
    queues = (QueueConfig("orders"), QueueConfig("sessions", requires_session=True))
    with ServerProcess(queues) as server:
        figures = await throughput(server, 0.0, "0ms")
        figures |= await throughput(server, 0.010, "10ms")
        server.call("faults.slow", round_trip=0.0)
        return figures | {
            "idle_queue_percent": await idle(server, "queue: orders"),
            "idle_sessions_percent": await idle(server, SESSIONS),
        }


def run() -> dict[str, float]:
    tune_memory()  # for all variants alike
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(measure())
