"""Source pipeline over real parts: SQLite broker, compiled rules, the SDK's client and backend, and injected faults."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson

from bridge.app.codecs import build_registries
from bridge.app.composition import build_broker, build_engine, build_source, load_config
from bridge.app.serve.admission import build_admission, listen
from bridge.brokers.base import Broker, SubscribeOptions
from bridge.core.commands import Command
from bridge.core.message import Message
from bridge.core.origin import MessageOrigin
from bridge.engines.base import Engine
from bridge.engines.commands.command_runner import CommandRunner
from bridge.pipeline.breaker import Breaker
from bridge.pipeline.lanes import Lanes, LaneState
from bridge.pipeline.ledger import Ledger
from bridge.pipeline.limits.action_budget import ActionBudget
from bridge.pipeline.limits.route_limits import Admission
from bridge.pipeline.rule_set import CurrentRules
from bridge.pipeline.settings import EnginePort, Execute
from bridge.pipeline.source import SourcePipeline
from tests.kit.listener import NullListener
from tests.kit.waiting import TIMEOUT, eventually

CONFIG = """
engine: {{type: embedded}}
brokers: {{local: {{type: local, partitions: 2}}}}
sources:
  orders:
    broker: local
    topics: [orders]
    codec: {codec}
    no_match: dead_letter
    attributes: {{type: "headers['type']"}}
{source}
routes:
{routes}
workflows: {{external: [order, other]}}
"""

START = """
  - name: start
    from: orders
    match: {type: start}
    schedule: {orchestration: order, instance_id: "order-{{ payload.id }}"}
"""


def is_balanced(ledger: Ledger) -> bool:
    """True when every received delivery is accounted for."""
    return ledger.received == sum(ledger.outcomes.values()) + sum(ledger.abandoned.values()) + ledger.in_flight


def held_lanes(lanes: Lanes) -> int:
    """Number of lanes whose head waits for a call."""
    return sum(lane.state is LaneState.HELD for lane in lanes)


class Faults:
    """Fault injection between the pipeline and the real executor; records the commands that the engine accepted, in
    order."""

    def __init__(self, execute: Execute, probe: Callable[[], Awaitable[None]]) -> None:
        self._execute = execute
        self._probe = probe
        self.before: Callable[[Command], Awaitable[None]] | None = None
        """Awaited before each command reaches the engine; may raise."""
        self.outage: Exception | None = None
        self.taken: list[Command] = []
        self.tried: list[Command] = []

    async def execute(self, command: Command, origin: MessageOrigin) -> None:
        self.tried.append(command)
        if self.outage is not None:
            raise self.outage
        if self.before is not None:
            await self.before(command)
        await self._execute(command, origin)
        self.taken.append(command)

    async def probe(self) -> None:
        if self.outage is not None:
            raise self.outage
        await self._probe()


class PipelineFixture:
    """One source under test with its broker, engine and faults."""

    def __init__(
        self,
        source: SourcePipeline,
        broker: Broker,
        engine: Engine,
        faults: Faults,
        breaker: Breaker,
        admission: Admission | None = None,
    ) -> None:
        self.source = source
        self.broker = broker
        self.engine = engine
        self.faults = faults
        self.breaker = breaker
        self.admission = admission or Admission({}, ())
        """Admission control; its background tasks are not started."""

    @property
    def rules(self) -> CurrentRules:
        """Chooser of the source's rule set."""
        assert isinstance(self.source.rules, CurrentRules)
        return self.source.rules

    async def publish(self, *messages: Message, topic: str = "orders") -> None:
        await self.broker.publish(topic, messages)

    async def until(self, condition: Callable[[], Any], what: str = "") -> None:
        """Wait for a condition; each check also asserts that the ledger is balanced."""
        ledger = self.source.ledger

        def holds() -> Any:
            found = condition()
            assert is_balanced(ledger)
            return found

        def state() -> str:
            return (
                f"{what}; {ledger.outcomes} {ledger.dead_letters} in flight {ledger.in_flight} "
                f"holds {self.source.gate.pause_reasons}"
            )

        await eventually(holds, state, poll=0.002)

    async def settled(self, count: int) -> None:
        await self.until(lambda: sum(self.source.ledger.outcomes.values()) >= count, f"{count} settled")

    async def read(self, topic: str, count: int) -> list[Message]:
        """Return the first `count` messages of a topic, read through a separate group."""
        subscription = await self.broker.subscribe(SubscribeOptions((topic,), f"reader-{topic}"), NullListener())
        found: list[Message] = []
        try:
            async with asyncio.timeout(TIMEOUT):
                while len(found) < count:
                    found += [delivery.message for delivery in await subscription.receive(count - len(found))]
        finally:
            await subscription.close()
        return found


def message(kind: str, number: int | str, key: str | None = None, **fields: Any) -> Message:
    body = orjson.dumps({"id": number, **fields})
    return Message(body, key.encode() if key is not None else None, (("type", kind.encode()),))


def offsets_by_key(commands: list[Command]) -> dict[str, list[int]]:
    """Return the numbers of instance ids like `order-KEY-7` by key, in the order of the commands."""
    found: dict[str, list[int]] = defaultdict(list)
    for command in commands:
        _, key, number = command.instance_id.split("-")  # type: ignore[union-attr]  # tests schedule only
        found[key].append(int(number))
    return found


@asynccontextmanager
async def running_pipeline(
    directory: Path,
    routes: str = START,
    source: str = "",
    broker: Callable[[Broker], Broker] = lambda real: real,
    codec: str = "json",
    budget: ActionBudget | None = None,
) -> AsyncIterator[PipelineFixture]:
    """Yield a fixture whose source is not started. source: more YAML below the source, indented by four.

    budget: of the engine. Each command is one action.
    """
    path = directory / "bridge.yaml"
    path.write_text(CONFIG.format(source=source, routes=routes, codec=codec))
    loaded = load_config([path])
    engine = build_engine(loaded, "default", host=True)
    await engine.start()
    real = build_broker(loaded, "local")
    await real.start()
    executor = CommandRunner(engine)
    faults = Faults(executor.execute, engine.probe)
    breaker = Breaker("default", faults.probe, first_delay=0.005)
    used = broker(real)
    registries = build_registries(loaded)
    admission = build_admission(loaded, {"default": engine})
    targets = {"default": EnginePort(faults.execute, breaker)}
    pipeline = build_source(
        loaded,
        "orders",
        {"local": used},
        targets,
        limits=admission.limits,
        budgets=None if budget is None else {"default": budget},
        registries=registries,
    )
    listen(admission, {"default": engine})
    try:
        yield PipelineFixture(pipeline, used, engine, faults, breaker, admission)
    finally:
        await pipeline.drain(5)
        await admission.stop()
        await breaker.stop()
        await real.stop()
        await engine.stop()
        for registry in registries.values():
            await registry.close()
        assert is_balanced(pipeline.ledger)
        assert pipeline.ledger.in_flight == 0
