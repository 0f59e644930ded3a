"""Ordering domain over Kafka and Service Bus: the order of a key holds, whichever broker has its next message."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bridge.app.composition import load_config
from bridge.app.serve.daemon import Daemon
from bridge.core.message import Message
from tests.acceptance.channel import Channel
from tests.brokers.kafka.channel import KafkaChannel
from tests.brokers.kafka.conftest import bootstrap
from tests.brokers.servicebus.channel import BusChannel, bus_channel
from tests.kit.daemon import DaemonFixture
from tests.kit.waiting import TIMEOUT

pytestmark = pytest.mark.long

__all__ = ["bootstrap"]

FLOWS = """
from durabletask import task


def collect(ctx: task.OrchestrationContext, count):
    got = []
    for _ in range(count):
        got.append((yield ctx.wait_for_external_event("noted")))
    return got
"""

CONFIG = """
engine: {type: embedded, path: engine}
workflows: [domain_flows]
brokers:
  kafka: KAFKA
  bus: BUS
defaults:
  source:
    codec: json
    no_match: dead_letter
    attributes: {type: "headers['type']"}
    ordering_domain: shop
    retry: {initial: 5ms, max_delay: 20ms, in_memory: 2m}
sources:
  orders: {broker: kafka, FROM_KAFKA}
  payments: {broker: bus, FROM_BUS}
routes:
  - name: noted
    from: [orders, payments]
    raise_event: {instance_id: "order-{{ payload.id }}", name: noted, data: payload.number, on_missing: retry}
ops: {http: {port: 0}}
"""

COUNT = 16
"""Number of messages of a key."""


class Pair:
    """Daemon that reads from both brokers, and a client of each broker."""

    def __init__(self, it: DaemonFixture, kafka: KafkaChannel, bus: BusChannel) -> None:
        self.it = it
        self.orders, self.payments = it.daemon.sources
        self.kafka, self.bus = kafka, bus
        self._sent = 0

    async def tell(self, channel: Channel, key: str, number: int) -> None:
        """Send a message, and return when the daemon has received it."""
        received = Message(json.dumps({"id": key, "number": number}).encode(), key.encode(), (("type", b"noted"),))
        await asyncio.to_thread(channel.publish, [received])
        self._sent += 1
        await self.it.until(lambda: self.received == self._sent, f"{key} {number} received")

    @property
    def received(self) -> int:
        return self.orders.ledger.received + self.payments.ledger.received

    async def start(self, key: str) -> None:
        await self.it.client.schedule_new_orchestration("collect", input=COUNT, instance_id=f"order-{key}")

    async def got(self, key: str) -> object:
        state = await self.it.client.wait_for_orchestration_completion(f"order-{key}", timeout=TIMEOUT)
        return state.get_output()


@asynccontextmanager
async def pair(directory: Path, bootstrap: str) -> AsyncIterator[Pair]:
    kafka = KafkaChannel(bootstrap)
    with bus_channel() as bus:
        (directory / "domain_flows.py").write_text(FLOWS)
        config = CONFIG.replace("FROM_KAFKA", kafka.source).replace("FROM_BUS", bus.source)
        config = config.replace("KAFKA", kafka.broker).replace("BUS", bus.broker)
        (directory / "bridge.yaml").write_text(config)
        daemon = Daemon(load_config([directory / "bridge.yaml"]))
        await daemon.start()
        try:
            yield Pair(DaemonFixture(daemon, None), kafka, bus)
        finally:
            await daemon.stop(10.0)


@pytest.mark.timeout(180)
async def test_what_one_broker_retries_holds_the_key_at_the_other(tmp_path: Path, bootstrap: str) -> None:
    """Keys whose instance is missing are retried until it exists, in the middle of their messages."""
    rng = random.Random(17)
    keys = ["a", "b", "c"]
    async with pair(tmp_path, bootstrap) as it:
        # The first message of a key, which is retried, comes from each broker in turn
        first = dict(zip(keys, (it.kafka, it.bus, it.kafka), strict=True))
        await it.start("free")
        for number in range(COUNT):
            if number == COUNT // 2:
                assert it.orders.ledger.retries > 0
                assert it.payments.ledger.retries > 0
                assert [await it.it.client.get_orchestration_state(f"order-{key}") for key in keys] == [None] * 3
                for key in keys:
                    await it.start(key)
            for key in (*keys, "free"):
                channel = first[key] if number == 0 and key in first else rng.choice((it.kafka, it.bus))
                await it.tell(channel, key, number)  # type: ignore[arg-type]  # wider than its annotation, on purpose
        assert {key: await it.got(key) for key in (*keys, "free")} == {
            key: list(range(COUNT)) for key in (*keys, "free")
        }
        await it.it.settled(COUNT * 4)
        assert it.it.outcomes() == {"executed": COUNT * 4}
        assert it.orders.ledger.outcomes["executed"] > COUNT
        assert it.payments.ledger.outcomes["executed"] > COUNT


@pytest.mark.timeout(180)
async def test_other_keys_go_on_at_both(tmp_path: Path, bootstrap: str) -> None:
    async with pair(tmp_path, bootstrap) as it:
        await it.tell(it.kafka, "a", 0)
        await it.tell(it.bus, "a", 1)
        await it.start("free")
        for number in range(COUNT):
            await it.tell((it.kafka, it.bus)[number % 2], "free", number)
        assert await it.got("free") == list(range(COUNT))
        await it.it.settled(COUNT)  # the count follows the effect
        assert it.it.outcomes() == {"executed": COUNT}
        assert it.orders.ledger.in_flight == it.payments.ledger.in_flight == 1
