"""Cost of correlation, on the embedded engine in this process. Ratios are of processor time, medians of pairs.

`start_or_raise_new_ratio`: the command on new instances over plain schedules of the SDK's client.
`start_or_raise_exists_ratio`: the command on running instances over a refused start and a raise of that client.
`inbox_ratio`: an orchestration that takes 100 messages, one after the other, with `wait_for_message` over one with
`ctx.wait_for_external_event`. Engine, worker and the client that raises the events are included.
`store_seconds`, `deliver_seconds`, `early_seconds` and the `early_` ratios: see `_early_messages.py`.
`_micros` and `_ms` are on the clock, per message and per orchestration.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import uvloop
from durabletask import task

from benchmarks import _early_messages
from bridge.app.composition import create_engine
from bridge.config.model.engines import EmbeddedEngineConfig
from bridge.core.commands import StartOrRaise
from bridge.core.origin import MessageOrigin, wrap_payload
from bridge.engines.base import Engine
from bridge.engines.commands.command_runner import CommandRunner
from bridge.engines.worker.setup import stop_worker
from bridge.engines.workflows import Workflows
from bridge.system.memory import tune_memory
from bridge.workflow import DataConverter, message_aware, wait_for_message

MESSAGES = 2000
ROUNDS = 7
CONCURRENCY = 64
TAKEN = 100
"""Messages per orchestration."""
BATCH = 8
"""Concurrent orchestrations."""

PAYLOAD = {
    "id": "o-1", "total": 12.5, "customer": {"id": "c-7", "name": "A customer with a name", "country": "NL"},
    "lines": [{"sku": f"sku-{line}", "quantity": line + 1, "price": 1.25 * line} for line in range(8)],
    "note": "x" * 400,
}  # fmt: skip
"""Payload of about 1 KB of JSON."""


@dataclass(frozen=True)
class Cost:
    """Processor time and clock time, in seconds."""

    processor: float
    clock: float


def plain(ctx: task.OrchestrationContext, _: Any) -> Any:
    for _ in range(TAKEN):
        yield ctx.wait_for_external_event("item")
    return "done"


def with_inbox(ctx: task.OrchestrationContext, _: Any) -> Any:
    for _ in range(TAKEN):
        yield from wait_for_message(ctx, "item")
    return "done"


async def measured(calls: Iterable[Callable[[], Awaitable[Any]]]) -> Cost:
    """Cost of all calls, CONCURRENCY at a time."""
    waiting = iter(calls)

    async def loop() -> None:
        for call in waiting:
            await call()

    began, started = time.process_time(), time.perf_counter()
    await asyncio.gather(*(loop() for _ in range(CONCURRENCY)))
    return Cost(time.process_time() - began, time.perf_counter() - started)


class Commands:
    """The command `start_or_raise` and its baselines, on one engine without workers."""

    def __init__(self, engine: Engine, prefix: str) -> None:
        self._client = engine.client
        self._executor = CommandRunner(engine)
        self._prefix = prefix

    async def send(self, kind: str, number: int, message: str) -> None:
        command = StartOrRaise("order", f"{self._prefix}-{kind}-{number}", "item", PAYLOAD, PAYLOAD)
        await self._executor.execute(command, MessageOrigin(f"shop/{message}-{number}", "route"))

    async def schedule(self, kind: str, number: int) -> None:
        await self._client.schedule_new_orchestration(
            "order", input=PAYLOAD, instance_id=f"{self._prefix}-{kind}-{number}"
        )

    async def attempt_and_raise(self, kind: str, number: int) -> None:
        with suppress(grpc.RpcError):
            await self.schedule(kind, number)
        await self._client.raise_orchestration_event(f"{self._prefix}-{kind}-{number}", "item", data=PAYLOAD)

    async def run(self) -> dict[str, Cost]:
        numbers = range(MESSAGES)
        costs = {}
        costs["schedule"] = await measured(lambda n=n: self.schedule("plain", n) for n in numbers)  # type: ignore[misc]  # mypy cannot infer it
        costs["new"] = await measured(lambda n=n: self.send("command", n, "first") for n in numbers)  # type: ignore[misc]  # mypy cannot infer it
        costs["attempt"] = await measured(lambda n=n: self.attempt_and_raise("plain", n) for n in numbers)  # type: ignore[misc]  # mypy cannot infer it
        costs["exists"] = await measured(lambda n=n: self.send("command", n, "second") for n in numbers)  # type: ignore[misc]  # mypy cannot infer it
        return costs


async def take(engine: Engine, name: str, round_: int) -> Cost:
    """Cost of BATCH orchestrations that take TAKEN messages each. All wait before their messages come."""
    client = engine.client
    ids = [f"{name}-{round_}-{number}" for number in range(BATCH)]
    began, started = time.process_time(), time.perf_counter()
    for instance_id in ids:
        await client.schedule_new_orchestration(name, input=None, instance_id=instance_id)

    async def feed(instance_id: str) -> None:
        for number in range(TAKEN):
            data = wrap_payload(PAYLOAD, MessageOrigin(f"shop/e-{number}", "route"))
            await client.raise_orchestration_event(instance_id, "item", data=data)

    await asyncio.gather(*(feed(instance_id) for instance_id in ids))
    states = await asyncio.gather(*(client.wait_for_orchestration_completion(one, timeout=120) for one in ids))
    cost = Cost(time.process_time() - began, time.perf_counter() - started)
    assert all(state is not None and state.runtime_status.name == "COMPLETED" for state in states)
    return cost


async def compare_verbs() -> list[dict[str, Cost]]:
    rounds = []
    for number in range(ROUNDS):
        with tempfile.TemporaryDirectory() as directory:
            engine = create_engine("default", EmbeddedEngineConfig(type="embedded"), Path(directory), host=True)
            await engine.start()
            rounds.append(await Commands(engine, f"r{number}").run())
            await engine.stop()
    return rounds


async def compare_inbox() -> list[tuple[Cost, Cost]]:
    pairs = []
    with tempfile.TemporaryDirectory() as directory:
        engine = create_engine("default", EmbeddedEngineConfig(type="embedded"), Path(directory), host=True)
        await engine.start()
        orchestrators = {each.__name__: message_aware(each) for each in (plain, with_inbox)}
        worker = engine.worker(Workflows(orchestrators), DataConverter())
        worker.start()
        try:
            for number in range(ROUNDS + 1):
                cost = {
                    name: await take(engine, name, number) for name in sorted(orchestrators, reverse=number % 2 > 0)
                }
                pairs.append((cost["plain"], cost["with_inbox"]))
        finally:
            await stop_worker(worker, 10.0)
            await engine.stop()
    return pairs[1:]


async def measure() -> dict[str, float]:
    rounds = await compare_verbs()
    pairs = await compare_inbox()

    def ratio(part: str, whole: str) -> float:
        return statistics.median(each[part].processor / each[whole].processor for each in rounds)

    def micros(part: str) -> float:
        return statistics.median(each[part].clock / MESSAGES * 1e6 for each in rounds)

    return {
        "start_or_raise_new_ratio": ratio("new", "schedule"),
        "start_or_raise_exists_ratio": ratio("exists", "attempt"),
        "inbox_ratio": statistics.median(inbox.processor / bare.processor for bare, inbox in pairs),
        "schedule_micros": micros("schedule"),
        "start_or_raise_new_micros": micros("new"),
        "attempt_and_raise_micros": micros("attempt"),
        "start_or_raise_exists_micros": micros("exists"),
        "plain_ms": statistics.median(bare.clock for bare, _ in pairs) / BATCH * 1e3,
        "inbox_ms": statistics.median(inbox.clock for _, inbox in pairs) / BATCH * 1e3,
    }


def run() -> dict[str, float]:
    tune_memory()  # as in the daemon, for all variants
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(measure()) | runner.run(_early_messages.measure())
