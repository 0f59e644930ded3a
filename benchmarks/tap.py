"""Cost of `bridge tap` for messages of the local broker that start instances.

`idle_share`: time of the check for listeners over the processor time of a message, where nobody listens.
`{variant}_ratio`: processor time with one reader over that without; the median over the rounds. Variants: `tap`, a
reader of 20 messages per second; `where`, one with a condition that holds for no message. `noise`: relative half-width
of the middle half of the batches without reader.

The variants take turns in one process, each with a pipeline of its own.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
import timeit
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import uvloop

from benchmarks.pipeline import CONFIG, message
from bridge.app.composition import build_broker, build_engine, build_source, load_config
from bridge.app.serve.views.tap import Taps
from bridge.engines.commands.command_runner import CommandRunner
from bridge.ops.access import Caller
from bridge.ops.audit import user
from bridge.pipeline.breaker import Breaker
from bridge.pipeline.decisions import DecisionListeners
from bridge.pipeline.settings import EnginePort
from bridge.system.memory import tune_memory

ROUNDS = 25
BATCH = 2000
VARIANTS = {"idle": None, "tap": "{}", "where": '{"where": "payload.total < 0.0"}'}

Batch = Callable[[], Awaitable[None]]


@asynccontextmanager
async def pipeline(number: int, options: str | None) -> AsyncIterator[Batch]:
    """Pipeline with a reader that takes everything. options: None: no reader."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "bridge.yaml"
        path.write_text(CONFIG.format(engine="embedded", path=name, group=f"g{number}"))
        loaded = load_config([path])
        engine, broker = build_engine(loaded, "default", host=True), build_broker(loaded, "local")
        await engine.start()
        await broker.start()
        await broker.publish("orders", [])
        decisions = DecisionListeners()
        target = EnginePort(CommandRunner(engine).execute, Breaker("default", engine.probe))
        source = build_source(loaded, "orders", {"local": broker}, {"default": target}, decisions=decisions)
        await source.start()

        async def read(text: str) -> None:
            async for _ in Taps(lambda: loaded, decisions).events({"options": text}, Caller(user(), "admin", True)):
                pass

        reader = None if options is None else asyncio.create_task(read(options))
        sent = 0

        async def batch() -> None:
            nonlocal sent
            await broker.publish("orders", [message(each) for each in range(sent, sent + BATCH)])
            sent += BATCH
            while source.ledger.outcomes["executed"] < sent:  # noqa: ASYNC110 -- the counter has no notification
                await asyncio.sleep(0.001)

        try:
            yield batch
        finally:
            if reader is not None:
                reader.cancel()
            await source.drain(5)
            await broker.stop()
            await engine.stop()


async def measure() -> dict[str, float]:
    costs: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    async with AsyncExitStack() as stack:
        batches = {
            variant: await stack.enter_async_context(pipeline(number, options))
            for number, (variant, options) in enumerate(VARIANTS.items())
        }
        for number in range(ROUNDS + 2):
            for variant in list(VARIANTS)[:: 1 if number % 2 else -1]:
                began = time.process_time()
                await batches[variant]()
                if number > 1:  # the first ones warm up
                    costs[variant].append(time.process_time() - began)
    base = costs["idle"]
    nobody = DecisionListeners()
    check = min(timeit.repeat(lambda: bool(nobody), number=100_000)) / 100_000
    low, middle, high = statistics.quantiles(base, n=4)
    return {
        "idle_share": check / (middle / BATCH),
        **{
            f"{variant}_ratio": statistics.median(cost / one for cost, one in zip(costs[variant], base, strict=True))
            for variant in VARIANTS
            if variant != "idle"
        },
        "noise": (high - low) / 2 / middle,
        "message_micros": middle / BATCH * 1e6,
    }


def run() -> dict[str, float]:
    tune_memory()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(measure())
