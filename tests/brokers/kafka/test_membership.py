"""Group membership: staying and leaving."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from bridge.brokers.base import Partition, SubscribeOptions
from bridge.config.model.sources import KafkaSourceConfig
from bridge.core.errors import BrokerUnavailable, PartitionRevoked
from tests.brokers.consumer import Assignments, nothing_more, numbered, numbers, take
from tests.brokers.kafka.harness import KafkaHarness, unique
from tests.kit.waiting import TIMEOUT

pytestmark = pytest.mark.prove


async def test_a_static_member_comes_back_without_a_rebalance(harness: KafkaHarness) -> None:
    topic = unique("static")
    await harness.create_topic(topic, 2)
    others = Assignments()
    options = SubscribeOptions((topic,), topic, kafka=KafkaSourceConfig(instance_id="one"))
    first = await (await harness.broker()).subscribe(options, Assignments())
    consumer_options = KafkaSourceConfig(instance_id="two")
    other = await (await harness.broker()).subscribe(SubscribeOptions((topic,), topic, kafka=consumer_options), others)
    await others.until(lambda: len(others.assigned_now) == 1)
    reading = asyncio.create_task(other.receive(1))
    mine = others.assigned_now[0]
    await first.close()
    mine_again = Assignments()
    await (await harness.broker()).subscribe(options, mine_again)
    assert others.assigned_now == [mine]
    assert not mine.revoked
    assert {mine.number, mine_again.assigned_now[0].number} == {0, 1}
    reading.cancel()


async def test_who_wants_nothing_stays_in_the_group(harness: KafkaHarness) -> None:
    """No call of receive for longer than max_poll_interval, as during an outage of the engine."""
    topic = unique("held")
    await harness.create_topic(topic, 1)
    listener = Assignments()
    broker = await harness.broker(max_poll_interval="2s")
    await broker.publish(topic, numbered(500))
    subscription = await broker.subscribe(SubscribeOptions((topic,), topic), listener)
    taken = await take(subscription, 10)
    await asyncio.sleep(5.0)
    assert listener.revoked_ever == []
    for delivery in taken:
        await delivery.complete()
    await subscription.flush()
    assert numbers(await take(subscription, 490)) == list(range(10, 500))


async def test_a_paused_partition_stays_paused_while_we_stay(harness: KafkaHarness) -> None:
    topic = unique("paused")
    await harness.create_topic(topic, 1)
    listener = Assignments()
    broker = await harness.broker(max_poll_interval="2s")
    await broker.publish(topic, numbered(500))
    subscription = await broker.subscribe(SubscribeOptions((topic,), topic), listener)
    await take(subscription, 10)
    listener.assigned_now[0].pause()
    await nothing_more(subscription, 4.0)
    assert listener.revoked_ever == []
    listener.assigned_now[0].resume()
    assert numbers(await take(subscription, 490)) == list(range(10, 500))


async def test_a_slow_hand_over_is_cut_short_and_loses_nothing(harness: KafkaHarness) -> None:
    topic = unique("slow")
    await harness.create_topic(topic, 2)
    options = SubscribeOptions((topic,), topic)
    first, second = Assignments(), Assignments()

    async def never(partitions: Sequence[Partition]) -> None:
        await asyncio.sleep(3600)

    first.on_revoked = never
    one = await (await harness.broker(rebalance_timeout="4s")).subscribe(options, first)
    broker = await harness.broker(rebalance_timeout="4s")
    await broker.publish(topic, [each for n in range(20) for each in numbered(1, n, b"%d" % n)])
    held = await take(one, 20)
    for delivery in held[::2]:
        await delivery.complete()
    two = await broker.subscribe(options, second)
    await second.until(lambda: len(second.assigned_now) == 1)
    stale = [each for each in held[1::2] if each.partition.number == second.assigned_now[0].number]
    assert all(each.partition.revoked for each in held)
    with pytest.raises(PartitionRevoked):
        await held[1].complete()
    # Completed deliveries were committed in time: only the others come again
    assert sorted(numbers(await take(two, len(stale)))) == sorted(numbers(stale))


async def test_an_interrupted_commit_never_rewinds(harness: KafkaHarness) -> None:
    """The client must not repeat a commit that is under way when the group changes."""
    topic = unique("rewind")
    await harness.create_topic(topic, 1)
    options = SubscribeOptions((topic,), topic)
    listener = Assignments()
    broker = await harness.broker()
    await broker.publish(topic, numbered(10))
    subscription = await broker.subscribe(options, listener)
    deliveries = await take(subscription, 10)
    for delivery in deliveries[:3]:
        await delivery.complete()
    # The commit hangs, as when the coordinator is away
    coordinator = subscription._consumer._coordinator
    known = coordinator.ensure_coordinator_known
    hanging = asyncio.Event()

    async def hang() -> None:
        hanging.set()
        await asyncio.sleep(3600)

    coordinator.ensure_coordinator_known = hang
    flushing = asyncio.create_task(subscription.flush())
    await hanging.wait()
    coordinator.ensure_coordinator_known = known
    for delivery in deliveries[3:]:
        await delivery.complete()
    async with asyncio.timeout(5):  # half of the time that the commit alone would have waited
        await subscription._assignment.on_partitions_revoked(())
    await asyncio.gather(flushing, return_exceptions=True)
    assert await subscription._consumer.committed(deliveries[0].partition.tp) == 10  # type: ignore[attr-defined]  # of the class behind the interface


async def test_a_client_that_is_broken_for_good_is_replaced(harness: KafkaHarness) -> None:
    topic = unique("broken")
    await harness.create_topic(topic, 1)
    listener = Assignments()
    broker = await harness.broker()
    await broker.publish(topic, numbered(10))
    subscription = await broker.subscribe(SubscribeOptions((topic,), topic), listener)
    for delivery in await take(subscription, 5):
        await delivery.complete()

    async def fail(_: object) -> bool:
        raise ZeroDivisionError

    # An unexpected error ends the coordination of the client for good
    coordinator = subscription._consumer._coordinator
    coordinator._do_rejoin_group = fail
    coordinator.request_rejoin()
    again: list[int] = []
    async with asyncio.timeout(TIMEOUT):
        while again != [5, 6, 7, 8, 9]:
            try:
                again += numbers(await subscription.receive(10))
            except BrokerUnavailable:
                await asyncio.sleep(0.05)
    assert len(listener.assigned_now) == 1
