"""Early events, on the clock, in one daemon: storage, and delivery when their instances start.

Each of 10,000 events has an instance of its own, which is the expensive case: they share nothing. The additional cost
of a start and of a command under an `on_missing: {wait: ...}` rule is measured on the embedded engine's client alone.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from bridge.app.composition import create_engine, load_config
from bridge.app.serve.daemon import Daemon
from bridge.config.model.engines import EmbeddedEngineConfig
from bridge.core.commands import RaiseEvent, ScheduleOrchestration, WaitFor
from bridge.core.message import Message
from bridge.core.origin import MessageOrigin
from bridge.early_messages.executor import EarlyMessageExecutor, Executor
from bridge.early_messages.store import EarlyMessageStore
from bridge.engines.commands.command_runner import CommandRunner

EVENTS = 10_000
BATCH = 500
COMMANDS = 2000
ROUNDS = 5
TIMEOUT = 300.0

FLOWS = """
from durabletask import task


def order(ctx: task.OrchestrationContext, _):
    paid = yield ctx.wait_for_external_event("paid")
    return paid
"""

CONFIG = """
engine: {type: embedded}
workflows: [early_bench_flows]
brokers: {local: {type: local}}
sources:
  orders:
    broker: local
    topics: [orders]
    codec: json
    no_match: dead_letter
    attributes: {type: "headers['type']"}
routes:
  - name: start
    from: orders
    match: {type: start}
    schedule: {orchestration: order, instance_id: "order-{{ payload.id }}"}
  - name: paid
    from: orders
    match: {type: paid}
    raise_event: {instance_id: "order-{{ payload.id }}", name: paid, on_missing: {wait: 1h}}
ops: {http: {port: 0}, log: {level: error}}
"""


async def measure() -> dict[str, float]:
    return await early() | await extra()


async def early() -> dict[str, float]:
    """Seconds for 10,000 early events: until all are stored, and until all are delivered."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        (path / "early_bench_flows.py").write_text(FLOWS)
        (path / "bridge.yaml").write_text(CONFIG)
        daemon = Daemon(load_config([path / "bridge.yaml"]))
        await daemon.start()
        events = daemon.own.waiting_entities["default"].early_messages.events
        try:
            began = time.perf_counter()
            await _publish(daemon, "paid")
            await _until(lambda: events["stored"] >= EVENTS)
            stored = time.perf_counter() - began
            began = time.perf_counter()
            await _publish(daemon, "start")
            await _until(lambda: events["delivered"] >= EVENTS)
            delivered = time.perf_counter() - began
        finally:
            await daemon.stop(20.0)
    return {"store_seconds": stored, "deliver_seconds": delivered, "early_seconds": stored + delivered}


async def _publish(daemon: Daemon, kind: str) -> None:
    for first in range(0, EVENTS, BATCH):
        messages = [
            Message(b'{"id": "%d"}' % number, b"%d" % number, (("type", kind.encode()),))
            for number in range(first, min(EVENTS, first + BATCH))
        ]
        await daemon.brokers["local"].publish("orders", messages)


async def _until(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < ends
        await asyncio.sleep(0.01)


async def extra() -> dict[str, float]:
    """Cost of starts and raises with `on_missing: {wait: ...}` over the cost without.

    No message waits. Ratios of processor time.
    """
    starts, raises = [], []
    for number in range(ROUNDS):
        with tempfile.TemporaryDirectory() as directory:
            engine = create_engine("default", EmbeddedEngineConfig(type="embedded"), Path(directory), host=True)
            await engine.start()
            plain = CommandRunner(engine)
            store = EarlyMessageStore(engine, 256 * 1024, lambda: datetime.now(UTC))
            notifies = engine.notifies_instance_started
            early = EarlyMessageExecutor(store, plain, ("order-",), engine_notifies=notifies)
            pair = (("plain", plain), ("early", early))
            costs = {name: await _cost(executor, name) for name, executor in (pair if number % 2 else pair[::-1])}
            await engine.stop()
            starts.append(costs["early"][0] / costs["plain"][0])
            raises.append(costs["early"][1] / costs["plain"][1])
    return {"early_start_ratio": statistics.median(starts), "early_raise_ratio": statistics.median(raises)}


async def _cost(executor: Executor, name: str) -> tuple[float, float]:
    """Processor time of COMMANDS starts, and of as many raises, in seconds."""
    began = time.process_time()
    for number in range(COMMANDS):
        start = ScheduleOrchestration("order", f"order-{name}-{number}", {"id": number})
        await executor.execute(start, MessageOrigin(f"s-{number}", "start"))
    started = time.process_time()
    for number in range(COMMANDS):
        event = RaiseEvent(f"order-{name}-{number}", "paid", {"id": number}, WaitFor(3600.0))
        await executor.execute(event, MessageOrigin(f"p-{number}", "paid"))
    return started - began, time.process_time() - started
