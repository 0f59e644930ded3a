"""Two sources of one ordering domain: messages with equal keys are executed in the order of receipt over both
sources."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bridge.app.composition import build_broker, build_domains, build_engine, build_source, load_config
from bridge.brokers.base import Broker
from bridge.core.commands import Command
from bridge.core.errors import ConfigError, InstanceNotFound
from bridge.engines.commands.command_runner import CommandRunner
from bridge.pipeline.breaker import Breaker
from bridge.pipeline.in_flight_delivery import InFlightDelivery
from bridge.pipeline.lanes import OrderingDomain, domain_key
from bridge.pipeline.settings import EnginePort
from bridge.pipeline.source import SourcePipeline
from tests.kit.pipeline import Faults, held_lanes, is_balanced, message
from tests.kit.waiting import eventually

CONFIG = """
engine: {type: embedded}
brokers: {local: {type: local, partitions: 2}}
defaults:
  source:
    broker: local
    codec: json
    no_match: dead_letter
    ordering_domain: shop
    retry: {initial: 5ms, max_delay: 20ms, in_memory: 1m}
sources:
  orders: {topics: [orders]}
  payments: {topics: [payments], ordering: "{{ payload.id.split('-')[0] }}"}
routes:
  - name: start
    from: [orders, payments]
    schedule: {orchestration: order, instance_id: "order-{{ payload.id }}"}
workflows: {external: [order]}
"""


class Pair:
    """Two sources over one broker and engine, not started. joined: numbers by key, in the order of receipt."""

    def __init__(
        self, sources: dict[str, SourcePipeline], broker: Broker, faults: Faults, joined: dict[str, list[str]]
    ):
        self.orders, self.payments = sources["orders"], sources["payments"]
        self.broker = broker
        self.faults = faults
        self.joined = joined

    async def start(self) -> None:
        await self.orders.start()
        await self.payments.start()

    async def until(self, condition: Callable[[], object]) -> None:
        def holds() -> object:
            assert is_balanced(self.orders.ledger)
            assert is_balanced(self.payments.ledger)
            return condition()

        await eventually(holds, poll=0.002)

    def settled(self) -> int:
        return sum(sum(source.ledger.outcomes.values()) for source in (self.orders, self.payments))

    def taken(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = defaultdict(list)
        for command in self.faults.taken:
            _, key, number = command.instance_id.split("-")  # type: ignore[union-attr]  # schedules only
            found[key].append(number)
        return found


@asynccontextmanager
async def pair(directory: Path) -> AsyncIterator[Pair]:
    (directory / "bridge.yaml").write_text(CONFIG)
    loaded = load_config([directory / "bridge.yaml"])
    engine = build_engine(loaded, "default", host=True)
    await engine.start()
    broker = build_broker(loaded, "local")
    await broker.start()
    faults = Faults(CommandRunner(engine).execute, engine.probe)
    breaker = Breaker("default", faults.probe)
    domains = build_domains(loaded)
    joined: dict[str, list[str]] = defaultdict(list)
    join = domains["shop"].join

    def joining(key: str, item: InFlightDelivery) -> None:
        assert item.envelope is not None
        joined[key].append(item.envelope.data["id"].split("-")[1])
        join(key, item)

    domains["shop"].join = joining  # type: ignore[assignment, method-assign]  # listens in
    targets = {"default": EnginePort(faults.execute, breaker)}
    sources = {
        name: build_source(loaded, name, {"local": broker}, targets, domains=domains) for name in loaded.config.sources
    }
    try:
        yield Pair(sources, broker, faults, joined)
    finally:
        await asyncio.gather(*(source.drain(5) for source in sources.values()))
        await breaker.stop()
        await broker.stop()
        await engine.stop()
        assert all(source.ledger.in_flight == 0 for source in sources.values())
        assert not domains["shop"], "nobody is left behind"


async def test_interleaved_messages_of_a_key_never_overtake_each_other(tmp_path: Path) -> None:
    rng = random.Random(11)
    running: set[str] = set()

    async def flaky(command: Command) -> None:
        key = command.instance_id.split("-")[1]  # type: ignore[union-attr]  # schedules only
        assert key not in running, "two of one key at work at once"
        running.add(key)
        try:
            await asyncio.sleep(rng.random() * 0.002)
            if rng.random() < 0.3:
                raise InstanceNotFound("injected")
        finally:
            running.discard(key)

    async with pair(tmp_path) as it:
        it.faults.before = flaky
        await it.start()
        count = 400
        for number in range(count):
            key = f"k{number % 7}"
            topic = rng.choice(("orders", "payments"))
            await it.broker.publish(topic, [message("start", f"{key}-{number:03d}", key)])
        await it.until(lambda: it.settled() == count)
        assert it.taken() == it.joined
        assert sum(map(len, it.joined.values())) == count
        assert it.orders.ledger.outcomes["executed"] > 100
        assert it.payments.ledger.outcomes["executed"] > 100


async def test_a_message_waits_for_the_retries_of_another_source_and_other_keys_do_not(tmp_path: Path) -> None:
    mended = False

    async def failing(command: Command) -> None:
        if command.instance_id == "order-a-1" and not mended:  # type: ignore[union-attr]  # schedules only
            raise InstanceNotFound("not yet")

    async with pair(tmp_path) as it:
        it.faults.before = failing
        await it.start()
        await it.broker.publish("orders", [message("start", "a-1", "a")])
        await it.until(lambda: it.orders.ledger.retries > 0)
        await it.broker.publish("payments", [message("start", "a-2", "any"), message("start", "b-1", "any")])
        await it.until(lambda: it.joined["a"] == ["1", "2"])
        await it.broker.publish("orders", [message("start", "a-3", "a")])
        await it.until(lambda: it.taken()["b"] == ["1"] and it.orders.ledger.retries > 3)
        assert it.taken()["a"] == []
        mended = True
        await it.until(lambda: it.settled() == 4)
        assert it.taken()["a"] == it.joined["a"] == ["1", "2", "3"]


async def test_what_is_given_back_lets_the_next_go(tmp_path: Path) -> None:
    async def failing(command: Command) -> None:
        if command.instance_id == "order-a-1":  # type: ignore[union-attr]  # schedules only
            raise InstanceNotFound("not yet")

    async with pair(tmp_path) as it:
        it.faults.before = failing
        await it.start()
        await it.broker.publish("orders", [message("start", "a-1", "a")])
        await it.until(lambda: it.orders.ledger.retries > 0)
        await it.broker.publish("payments", [message("start", "a-2", "a")])
        await it.until(lambda: held_lanes(it.payments.lanes) == 1)
        await it.orders.revoked(list(it.orders.assignment))
        await it.until(lambda: it.taken()["a"] == ["2"])


async def test_nothing_overtakes_what_a_drain_gives_back(tmp_path: Path) -> None:
    async def failing(command: Command) -> None:
        if command.instance_id == "order-a-1":  # type: ignore[union-attr]  # schedules only
            raise InstanceNotFound("not yet")

    async with pair(tmp_path) as it:
        it.faults.before = failing
        await it.start()
        await it.broker.publish("orders", [message("start", "a-1", "a")])
        await it.until(lambda: it.orders.ledger.retries > 0)
        await it.broker.publish("payments", [message("start", "a-2", "a")])
        await it.until(lambda: held_lanes(it.payments.lanes) == 1)
        await it.orders.drain(5)
        await asyncio.sleep(0.05)
        await it.payments.drain(5)
        assert it.taken()["a"] == []
        assert it.orders.ledger.abandoned["drain"] == it.payments.ledger.abandoned["drain"] == 1


def test_keys_of_all_brokers_are_the_same_words() -> None:
    assert domain_key(b"order-1") == domain_key("order-1") == "order-1"
    assert domain_key(b"\xff") != domain_key(b"\xfe")
    assert domain_key(b"\xff") == domain_key("\ufdd0ff"), "what an expression makes of the same bytes"
    assert domain_key(("orders", 0)) != domain_key("('orders', 0)")
    assert not OrderingDomain("shop")


@pytest.mark.parametrize("ordering", ["none", "partition"])
def test_a_domain_needs_keys(tmp_path: Path, ordering: str) -> None:
    path = tmp_path / "bridge.yaml"
    path.write_text(CONFIG.replace("orders: {topics: [orders]}", f"orders: {{topics: [orders], ordering: {ordering}}}"))
    with pytest.raises(ConfigError, match="no keys to share"):
        load_config([path])


def test_a_domain_of_one_is_told(tmp_path: Path) -> None:
    path = tmp_path / "bridge.yaml"
    path.write_text(CONFIG.replace("payments: {topics", "payments: {ordering_domain: other, topics"))
    said = [problem.what for problem in load_config([path]).warnings if "the domain has no effect" in problem.what]
    assert len(said) == 2
