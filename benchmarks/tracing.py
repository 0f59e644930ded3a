"""Cost of OpenTelemetry: not installed, installed and off, 10 % of the traces sampled, and all of them.

`{case}_{variant}_ratio`: processor time of the variant over that without OpenTelemetry; the median over the rounds.
`{case}_{variant}_clock_ratio`: the same on the clock. `{case}_noise`: relative half-width of the middle half of the
batches without OpenTelemetry, which tells how much the machine itself varies.

Cases: `engine`, orchestrations with one activity; `saga`, a saga of five steps; `pipeline`, messages of the local
broker that start instances; `kafka`, the same from Kafka, where Java and Maven are there (tests/kafka). Each variant
runs in a process of its own. They take turns, batch by batch. Another process receives the spans.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

VARIANTS = {"absent": "", "off": "{enabled: false}", "tenth": "{sample: 0.1, URL}", "all": "{sample: 1.0, URL}"}
CASES = ("engine", "saga", "pipeline", "kafka")
ROUNDS = 15
BATCH = {"engine": 400, "saga": 60, "pipeline": 2000, "kafka": 2000}

CONFIG = """
engine: {{type: embedded}}
brokers: {{local: {broker}}}
sources: {{orders: {{broker: local, topics: [{topic}], no_match: dead_letter, group: "{topic}"}}}}
routes:
  - name: start
    from: orders
    match: {{type: order.created}}
    when: payload.total > 0.0
    schedule: {{orchestration: order, instance_id: "{{{{ event.id }}}}-{{{{ payload.id }}}}"}}
workflows: {{external: [order]}}
ops: {{tracing: {tracing}}}
"""

Batch = Callable[[], Awaitable[None]]


# One variant


@asynccontextmanager
async def orchestrations(directory: Path, settings: str, name: str, count: int) -> AsyncIterator[Batch]:
    """Orchestrations of an embedded engine with its worker."""
    from benchmarks.engine import PAYLOAD, echo, one_activity
    from benchmarks.saga import ORDER, undo, with_saga, work
    from bridge.app.composition import build_engine, load_config
    from bridge.app.tracing import build_tracing, span_options
    from bridge.engines.embedded.engine import EmbeddedEngine
    from bridge.engines.worker.setup import stop_worker
    from bridge.engines.workflows import Workflows
    from bridge.workflow import DataConverter

    (directory / "bridge.yaml").write_text(CONFIG.format(broker="{type: local}", topic="orders", tracing=settings))
    loaded = load_config([directory / "bridge.yaml"])
    tracing = build_tracing(loaded)
    options = None if tracing is None else span_options(loaded, tracing)
    engine = build_engine(loaded, "default", host=True, tracing=options)
    await engine.start()
    if tracing is not None:
        assert isinstance(engine, EmbeddedEngine)
        assert engine.spans is not None
        tracing.add_store(engine.spans)
        tracing.start()
    workflows = Workflows(
        {"one_activity": one_activity, "with_saga": with_saga}, {"echo": echo, "work": work, "undo": undo}
    )
    worker = engine.worker(workflows, DataConverter())
    worker.start()
    data: Any = PAYLOAD if name == "one_activity" else ORDER

    async def batch() -> None:
        client = engine.client
        ids = await asyncio.gather(*(client.schedule_new_orchestration(name, input=data) for _ in range(count)))
        states = await asyncio.gather(*(client.wait_for_orchestration_completion(one, timeout=120) for one in ids))
        assert all(state is not None and state.runtime_status.name == "COMPLETED" for state in states)

    try:
        yield batch
    finally:
        await stop_worker(worker, 10.0)
        if tracing is not None:
            await asyncio.to_thread(tracing.stop, 5.0)
        await engine.stop()


@asynccontextmanager
async def messages(directory: Path, settings: str, broker_yaml: str, count: int) -> AsyncIterator[Batch]:
    """Messages that a source turns into instances. No worker runs."""
    from benchmarks.pipeline import message
    from bridge.app.composition import build_broker, build_engine, build_source, load_config
    from bridge.app.tracing import build_tracing, span_options
    from bridge.engines.commands.command_runner import CommandRunner
    from bridge.engines.embedded.engine import EmbeddedEngine
    from bridge.pipeline.breaker import Breaker
    from bridge.pipeline.settings import EnginePort

    topic = f"orders-{os.getpid()}"
    (directory / "bridge.yaml").write_text(CONFIG.format(broker=broker_yaml, topic=topic, tracing=settings))
    loaded = load_config([directory / "bridge.yaml"])
    tracing = build_tracing(loaded)
    options = None if tracing is None else span_options(loaded, tracing)
    engine = build_engine(loaded, "default", host=True, tracing=options)
    broker = build_broker(loaded, "local")
    await engine.start()
    await broker.start()
    if tracing is not None:
        assert isinstance(engine, EmbeddedEngine)
        assert engine.spans is not None
        tracing.add_store(engine.spans)
        tracing.start()
    for name in (topic, f"{topic}.dlq"):
        await broker.publish(name, [])
    target = EnginePort(CommandRunner(engine).execute, Breaker("default", engine.probe))
    source = build_source(loaded, "orders", {"local": broker}, {"default": target}, tracer=tracing)
    await source.start()
    sent = 0

    async def fill() -> None:
        nonlocal sent
        await broker.publish(topic, [message(number) for number in range(sent, sent + count)])
        sent += count

    async def batch() -> None:
        await fill()
        while source.ledger.outcomes["executed"] < sent:  # noqa: ASYNC110 -- the counter has no notification
            await asyncio.sleep(0.001)

    try:
        yield batch
    finally:
        await source.drain(5)
        if tracing is not None:
            await asyncio.to_thread(tracing.stop, 5.0)
        await broker.stop()
        await engine.stop()


async def child(case: str, settings: str, bootstrap: str) -> None:
    """Run one batch for each line on standard input; print its processor time and its time on the clock."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        directory = Path(name)
        count = BATCH[case]
        if case in ("engine", "saga"):
            opened = orchestrations(directory, settings, "one_activity" if case == "engine" else "with_saga", count)
        else:
            broker = "{type: local}"
            if case == "kafka":
                broker = f'{{type: kafka, bootstrap_servers: "{bootstrap}", create_topics: true}}'
            opened = messages(directory, settings, broker, count)
        async with opened as batch:
            while await asyncio.to_thread(sys.stdin.readline):
                processor, clock = time.process_time(), time.perf_counter()
                await batch()
                # Spans are sent each second: the cost of a batch includes its share of them
                print(json.dumps([time.process_time() - processor, time.perf_counter() - clock]), flush=True)


# All variants in turn


def run() -> dict[str, float]:
    """Ratios of each variant to the one without OpenTelemetry, by case."""
    figures: dict[str, float] = {}
    with ExitStack() as stack:
        receiver = subprocess.Popen([sys.executable, "-c", _RECEIVER], stdout=subprocess.PIPE, text=True)
        stack.callback(receiver.kill)
        assert receiver.stdout is not None
        url = f"http://127.0.0.1:{receiver.stdout.readline().strip()}"
        bootstrap = _kafka(stack)
        chosen = os.environ.get("BENCHMARK_CASES", ",".join(CASES)).split(",")
        for case in CASES:
            if case in chosen and (case != "kafka" or bootstrap is not None):
                figures |= _compare(case, url, bootstrap or "")
    return figures


def _kafka(stack: ExitStack) -> str | None:
    if "kafka" not in os.environ.get("BENCHMARK_CASES", "kafka"):
        return None
    try:
        from tests.kafka.node import Node

        directory = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "node"
        directory.mkdir()
        node = Node(directory)
        stack.callback(node.stop)
        node.start()
        return node.bootstrap
    except Exception as error:
        print(f"no Kafka: {type(error).__name__}: {error}", file=sys.stderr)
        return None


def _compare(case: str, url: str, bootstrap: str) -> dict[str, float]:
    costs: dict[str, list[tuple[float, float]]] = {variant: [] for variant in VARIANTS}
    with ExitStack() as stack:
        children = {}
        for variant, settings in VARIANTS.items():
            text = settings.replace("URL", f'endpoint: "{url}"') or "{enabled: false}"
            arguments = [sys.executable, "-m", "benchmarks.tracing", case, variant, text, bootstrap]
            environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
            children[variant] = subprocess.Popen(
                arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
            )
            stack.callback(children[variant].wait)
            stack.callback(children[variant].stdin.close)  # type: ignore[union-attr]  # it is a pipe
        for number in range(ROUNDS + 2):
            # Alternating, so that no variant always follows the same one
            for variant in list(VARIANTS)[:: 1 if number % 2 else -1]:
                process = children[variant]
                assert process.stdin is not None
                assert process.stdout is not None
                print("go", file=process.stdin, flush=True)
                processor, clock = json.loads(process.stdout.readline())
                if number > 1:  # the first ones warm up
                    costs[variant].append((processor, clock))
    figures = {}
    for at, suffix in ((0, "ratio"), (1, "clock_ratio")):
        base = [cost[at] for cost in costs["absent"]]
        for variant in VARIANTS:
            if variant != "absent":
                ratios = [cost[at] / one for cost, one in zip(costs[variant], base, strict=True)]
                figures[f"{case}_{variant}_{suffix}"] = statistics.median(ratios)
        if at == 0:
            low, middle, high = statistics.quantiles(base, n=4)
            figures[f"{case}_noise"] = (high - low) / 2 / middle
    figures[f"{case}_absent_micros"] = statistics.median(cost for cost, _ in costs["absent"]) / BATCH[case] * 1e6
    return figures


_RECEIVER = """
import http.server

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *args):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
"""


if __name__ == "__main__":
    if sys.argv[2] == "absent":
        sys.modules["opentelemetry"] = None  # type: ignore[assignment]  # an import of it fails, as without the extra
    import uvloop

    from bridge.system.memory import tune_memory

    tune_memory()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(child(sys.argv[1], sys.argv[3], sys.argv[4]))
