"""Outages of a test broker: it dies, hangs and returns."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from bridge.brokers.base import SubscribeOptions, Subscription
from bridge.core.errors import BrokerUnavailable
from bridge.core.message import Message
from tests.brokers.consumer import CAUSE, Assignments, numbered, numbers, take
from tests.brokers.kafka.harness import KafkaHarness, unique
from tests.kafka.node import Node
from tests.kit.waiting import TIMEOUT

pytestmark = [pytest.mark.prove, pytest.mark.timeout(180)]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path / "node")
    node.start()
    yield node
    node.kill()


@pytest.fixture
async def harness(node: Node) -> AsyncIterator[KafkaHarness]:
    harness = KafkaHarness(node.bootstrap)
    yield harness
    await harness.stop()


async def _settle(subscription: Subscription, into: list[int]) -> None:
    while True:
        try:
            for delivery in await subscription.receive(50):
                into += numbers([delivery])
                await delivery.complete()
        except BrokerUnavailable:
            await asyncio.sleep(0.2)


@pytest.mark.parametrize("how", ["kill", "stop"])
async def test_a_broker_restarted_under_load(node: Node, harness: KafkaHarness, how: str) -> None:
    topic = unique("restart")
    await harness.create_topic(topic, 3)
    broker = await harness.broker(commit_interval="200ms", publish_timeout="60s")
    subscription = await broker.subscribe(SubscribeOptions((topic,), topic), Assignments())
    seen: list[int] = []
    reading = asyncio.create_task(_settle(subscription, seen))
    publishing = [asyncio.create_task(broker.publish(topic, numbered(1, n, b"%d" % n))) for n in range(200)]
    await asyncio.sleep(0.2)
    await asyncio.to_thread(getattr(node, how))
    publishing += [asyncio.create_task(broker.publish(topic, numbered(1, n, b"%d" % n))) for n in range(200, 400)]
    await asyncio.sleep(2)
    await asyncio.to_thread(node.start)
    results = await asyncio.gather(*publishing, return_exceptions=True)
    acknowledged = {n for n, result in enumerate(results) if result is None}
    assert len(acknowledged) >= 390, [result for result in results if result]
    async with asyncio.timeout(TIMEOUT):
        while not acknowledged <= set(seen):
            await asyncio.sleep(0.1)
        while True:
            try:
                await subscription.flush()
                break
            except BrokerUnavailable:
                await asyncio.sleep(0.2)
    reading.cancel()
    await broker.stop()


async def test_a_hanging_broker_bounds_every_call(node: Node, harness: KafkaHarness) -> None:
    topic = unique("hang")
    broker = await harness.broker(publish_timeout="2s", request_timeout="3s")
    await broker.publish(topic, numbered(20))
    subscription = await broker.subscribe(SubscribeOptions((topic,), topic), Assignments())
    first, *rest = await take(subscription, 20)
    await first.complete()
    node.suspend()
    try:
        begun = time.monotonic()
        with pytest.raises(BrokerUnavailable, match="did not confirm within 2 s"):
            await broker.publish(topic, numbered(1))
        with pytest.raises(BrokerUnavailable):
            await rest[0].dead_letter(CAUSE)
        with pytest.raises(BrokerUnavailable):
            await subscription.flush()
        assert time.monotonic() - begun < 20
        async with asyncio.timeout(TIMEOUT):
            while "broker" not in subscription.stopped():
                await asyncio.gather(_receive_once(subscription), return_exceptions=True)
    finally:
        node.resume()
    await broker.publish(topic, [Message(b"99", b"k")])
    async with asyncio.timeout(TIMEOUT):
        while True:
            try:
                for delivery in await subscription.receive(10):
                    if numbers([delivery]) == [99]:
                        return
            except BrokerUnavailable:
                await asyncio.sleep(0.1)


async def _receive_once(subscription: Subscription) -> None:
    async with asyncio.timeout(1):
        await subscription.receive(10)


async def test_nobody_there_is_told_in_seconds(tmp_path: Path, node: Node) -> None:
    node.kill()
    begun = time.monotonic()
    with pytest.raises(BrokerUnavailable, match=r"cannot connect to 127\.0\.0\.1"):
        await KafkaHarness(node.bootstrap).broker()
    assert time.monotonic() - begun < 5
