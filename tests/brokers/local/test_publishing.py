from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from bridge.brokers.base import SubscribeOptions
from bridge.core.message import Message
from tests.brokers.consumer import Assignments, numbered, take
from tests.brokers.local.harness import LocalHarness


async def test_a_key_has_its_partition_in_every_process(harness: LocalHarness) -> None:
    for _ in range(3):
        await (await harness.broker()).publish("orders", [Message(b"x", b"key-%d" % n) for n in range(50)])
    subscription = await (await harness.broker()).subscribe(SubscribeOptions(("orders",), "g"), Assignments())
    places: dict[bytes | None, set[int]] = {}
    for delivery in await take(subscription, 150):
        places.setdefault(delivery.message.key, set()).add(delivery.partition.number)
    assert all(len(found) == 1 for found in places.values())
    assert len(set().union(*places.values())) == 4
    # Fixed results: a later version must not move keys of existing logs.
    assert places[b"key-0"] == {0}
    assert places[b"key-1"] == {2}


async def test_records_without_key_are_spread(harness: LocalHarness) -> None:
    broker = await harness.broker()
    for number in range(40):
        await broker.publish("orders", numbered(1, number))
    subscription = await broker.subscribe(SubscribeOptions(("orders",), "g"), Assignments())
    deliveries = await take(subscription, 40)
    assert set(Counter(delivery.partition.number for delivery in deliveries).values()) == {10}


async def test_topics_are_made_with_the_configured_partitions(harness: LocalHarness) -> None:
    broker = await harness.broker(partitions=3)
    await broker.publish("published", numbered(1))
    await broker.subscribe(SubscribeOptions(("subscribed",), "g"), Assignments())
    await broker.publish("nothing", [])
    assert await broker.topics() == {"published": 3, "subscribed": 3}


async def test_a_topic_made_at_once_by_several_is_one(harness: LocalHarness) -> None:
    brokers = [await harness.broker() for _ in range(3)]
    await asyncio.gather(*(broker.publish("orders", numbered(1, n)) for n, broker in enumerate(brokers)))
    assert await brokers[0].topics() == {"orders": 4}


async def test_a_batch_larger_than_one_statement_keeps_its_order(
    harness: LocalHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.brokers.local.log._APPEND_BYTES", 100)
    broker = await harness.broker()
    await broker.publish("orders", [Message(b"%03d" % n * 10, b"k") for n in range(50)])
    subscription = await broker.subscribe(SubscribeOptions(("orders",), "g"), Assignments())
    deliveries = await take(subscription, 50)
    assert [delivery.message.body for delivery in deliveries] == [b"%03d" % n * 10 for n in range(50)]


async def test_a_publish_that_is_cancelled_breaks_nothing(harness: LocalHarness) -> None:
    broker = await harness.broker()
    task = asyncio.create_task(broker.publish("orders", numbered(1)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await broker.publish("orders", numbered(1, 1))
