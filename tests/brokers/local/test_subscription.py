from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from bridge.brokers.base import Partition, SubscribeOptions
from bridge.brokers.local import partition as partitions
from bridge.brokers.local import subscription as subscriptions
from bridge.core.message import Message
from tests.brokers.consumer import CAUSE, Assignments, nothing_more, numbered, numbers, take
from tests.brokers.local.harness import LocalHarness

ORDERS = SubscribeOptions(("orders",), "bridge")


async def test_abandoned_records_come_again_here_before_later_ones(harness: LocalHarness) -> None:
    broker = await harness.broker()
    await broker.publish("orders", numbered(10, key=b"k"))
    subscription = await broker.subscribe(ORDERS, Assignments())
    deliveries = await take(subscription, 4)
    for number in (3, 1, 2):
        await deliveries[number].abandon()
        await deliveries[number].abandon()
    again = await take(subscription, 9)
    assert numbers(again) == list(range(1, 10))
    for delivery in (deliveries[0], *again):
        await delivery.complete()
    assert deliveries[0].partition.gap == 0
    assert sum(subscription.lag().values()) == 0


async def test_a_delivery_is_settled_once(harness: LocalHarness) -> None:
    broker = await harness.broker()
    await broker.publish("orders", numbered(2, key=b"k"))
    subscription = await broker.subscribe(ORDERS, Assignments())
    first, second = await take(subscription, 2)
    await first.complete()
    await first.complete()
    await first.dead_letter(CAUSE)
    await first.abandon()
    await second.dead_letter(CAUSE)
    await second.dead_letter(CAUSE)
    await second.abandon()
    await nothing_more(subscription, 0.1)
    dead = await broker.subscribe(SubscribeOptions(("orders.dlq",), "operators"), Assignments())
    assert numbers(await take(dead, 1)) == [1]
    await nothing_more(dead, 0.1)


async def test_a_cancelled_dead_letter_still_settles(harness: LocalHarness) -> None:
    broker = await harness.broker()
    await broker.publish("orders", numbered(1))
    subscription = await broker.subscribe(ORDERS, Assignments())
    [delivery] = await take(subscription, 1)
    task = asyncio.create_task(delivery.dead_letter(CAUSE))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    await subscription.flush()
    assert delivery.partition.gap == 0


async def test_reading_ahead_is_bounded_in_records_and_bytes(
    harness: LocalHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions, "FETCH_RECORDS", 10)
    monkeypatch.setattr(subscriptions, "BUFFER_BYTES", 100_000)
    broker, listener = await harness.broker(partitions=1), Assignments()
    await broker.publish("orders", [Message(b"%d" % n, b"k") for n in range(100)])
    await broker.publish("orders", [Message(b"x" * 30_000, b"k") for _ in range(20)])
    subscription = await broker.subscribe(ORDERS, listener)
    await listener.until(lambda: len(listener.assigned_now) == 1)
    [partition] = listener.assigned_now
    assert isinstance(partition, partitions.LocalPartition)
    most = 0
    for _ in range(100):
        await take(subscription, 1)
        most = max(most, partition.buffered)
    assert 0 < most < 20
    for _ in range(20):
        await take(subscription, 1)
        assert partition.buffered_bytes <= 100_000
        assert partition.buffered <= 3
    await nothing_more(subscription, 0.05)


async def test_no_partition_starves_behind_a_full_one(harness: LocalHarness) -> None:
    broker = await harness.broker(partitions=1)
    await broker.publish("big", numbered(3000))
    await broker.publish("small", numbered(1))
    subscription = await broker.subscribe(SubscribeOptions(("big", "small"), "bridge"), Assignments())
    for _ in range(4):
        for delivery in await subscription.receive(100):
            if delivery.position.topic == "small":
                return
    pytest.fail("the small topic starved")


async def test_lag_follows_what_is_published(harness: LocalHarness) -> None:
    broker, listener = await harness.broker(partitions=1), Assignments()
    subscription = await broker.subscribe(ORDERS, listener)
    await listener.until(lambda: len(listener.assigned_now) == 1)
    await broker.publish("orders", numbered(2000))
    deliveries = await take(subscription, 5)
    assert subscription.lag() == {("orders", 0): 2000}
    for delivery in deliveries:
        await delivery.complete()
    assert subscription.lag() == {("orders", 0): 1995}


async def test_a_listener_that_hangs_or_fails_does_not_stop_a_hand_over(
    harness: LocalHarness, caplog: pytest.LogCaptureFixture
) -> None:
    async def hang(_: Sequence[Partition]) -> None:
        await asyncio.sleep(3600)

    async def fail(_: Sequence[Partition]) -> None:
        raise RuntimeError("in the listener")

    hanging, failing, last = Assignments(on_revoked=hang), Assignments(on_revoked=fail), Assignments()
    one = await (await harness.broker(revoke_timeout=0.1)).subscribe(ORDERS, hanging)
    await hanging.until(lambda: len(hanging.assigned_now) == 4)
    await (await harness.broker()).subscribe(ORDERS, failing)
    await failing.until(lambda: len(failing.assigned_now) == 2)
    await one.close()
    await failing.until(lambda: len(failing.assigned_now) == 4)
    await (await harness.broker()).subscribe(ORDERS, last)
    await last.until(lambda: len(last.assigned_now) == 2)
    assert "still in flight" in caplog.text
    assert "the listener failed" in caplog.text


async def test_members_with_different_topics_agree(harness: LocalHarness) -> None:
    both, one = Assignments(), Assignments()
    await (await harness.broker()).subscribe(SubscribeOptions(("x", "y"), "bridge"), both)
    await (await harness.broker()).subscribe(SubscribeOptions(("x",), "bridge"), one)
    await both.until(lambda: len(both.assigned_now) == 4)
    await one.until(lambda: len(one.assigned_now) == 4)
    places = [(partition.topic, partition.number) for partition in both.assigned_now + one.assigned_now]
    assert len(set(places)) == 8
    assert {partition.topic for partition in one.assigned_now} == {"x"}


async def test_two_subscriptions_of_a_group_in_one_broker_share(harness: LocalHarness) -> None:
    broker, first, second = await harness.broker(), Assignments(), Assignments()
    await broker.subscribe(ORDERS, first)
    await broker.subscribe(ORDERS, second)
    await first.until(lambda: len(first.assigned_now) == 2)
    await second.until(lambda: len(second.assigned_now) == 2)
