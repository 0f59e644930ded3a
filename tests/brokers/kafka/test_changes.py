"""Changes under a live consumer: leaders, topics, the clock, and a blocked event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from bridge.brokers.base import SubscribeOptions, Subscription
from bridge.config.model.sources import KafkaSourceConfig
from bridge.core.errors import BrokerUnavailable
from bridge.core.message import Message
from tests.brokers.consumer import Assignments, numbered, numbers, take
from tests.brokers.kafka.harness import KafkaHarness, delete_topics, unique
from tests.brokers.kafka.setup import kafka_setup
from tests.kafka.node import Node
from tests.kit.pipeline import message, offsets_by_key
from tests.kit.waiting import TIMEOUT, eventually

pytestmark = [pytest.mark.prove, pytest.mark.timeout(180)]


async def settle(subscription: Subscription, into: list[int]) -> None:
    while True:
        try:
            for delivery in await subscription.receive(50):
                into += numbers([delivery])
                await delivery.complete()
        except BrokerUnavailable:
            await asyncio.sleep(0.1)


@pytest.fixture
async def two_nodes(tmp_path: Path) -> AsyncIterator[tuple[Node, Node]]:
    settings = {
        "offsets.topic.replication.factor": "2", "broker.session.timeout.ms": "2000", "min.insync.replicas": "1",
        "broker.heartbeat.interval.ms": "300",
    }  # fmt: skip
    first = Node(tmp_path / "first", settings=settings)
    first.start()
    second = Node(tmp_path / "second", settings=settings, number=2, controller=first.controller)
    second.start()
    yield first, second
    first.kill()
    second.kill()


async def test_the_leader_moves(two_nodes: tuple[Node, Node]) -> None:
    """The second node leads half of the partitions and coordinates some groups when it dies."""
    first, second = two_nodes
    harness = KafkaHarness(f"{first.bootstrap},{second.bootstrap}")
    topic = unique("leader")
    broker = await harness.broker(commit_interval="200ms", publish_timeout="60s", replication=2, partitions=6)
    await eventually(lambda: second.process is not None, "the second node")

    async def reached() -> object:
        return len((await broker._cluster._admin.describe_cluster())["brokers"]) >= 2

    await eventually(reached)
    await broker.ensure({topic})
    subscription = await broker.subscribe(SubscribeOptions((topic,), topic), Assignments())
    seen: list[int] = []
    reading = asyncio.create_task(settle(subscription, seen))
    count = 0
    for phase in ("both", "one", "both again"):
        if phase == "one":
            await asyncio.to_thread(second.kill)
        elif phase == "both again":
            await asyncio.to_thread(second.start)
        for _ in range(10):
            await broker.publish(topic, [Message(b"%d" % n, b"%d" % n) for n in range(count, count + 20)])
            count += 20
            await asyncio.sleep(0.1)
    await eventually(lambda: set(seen) == set(range(count)), "everything")
    async with asyncio.timeout(TIMEOUT):
        while True:
            places = [TopicPartition(topic, number) for number in range(6)]
            found = await broker._cluster.committed(topic, places)
            if sum(position.offset for position in found.values()) >= count:
                break
            await asyncio.sleep(0.1)
    reading.cancel()
    await harness.stop()


async def remake(harness: KafkaHarness, topic: str, pause: float) -> None:
    """Delete a topic and create it again after `pause` seconds."""
    admin = AIOKafkaAdminClient(bootstrap_servers=harness.bootstrap)
    await admin.start()
    await delete_topics(admin, topic)
    await admin.close()
    await asyncio.sleep(pause)
    await harness.create_topic(topic, 1)


@pytest.mark.parametrize("pause", [0.0, 5.0])
async def test_a_topic_is_deleted_and_made_anew_under_a_live_consumer(harness: KafkaHarness, pause: float) -> None:
    """The pause is shorter or longer than the client's detection time.

    The subscription continues, or reports the reason.
    """
    topic = unique("anew")
    await harness.create_topic(topic, 1)
    broker = await harness.broker(commit_interval="200ms")
    await broker.publish(topic, numbered(10))
    options = SubscribeOptions((topic,), topic, kafka=KafkaSourceConfig(on_out_of_range="earliest"))
    subscription = await broker.subscribe(options, Assignments())
    seen: list[int] = []
    reading = asyncio.create_task(settle(subscription, seen))
    await eventually(lambda: len(seen) == 10, "the old ones")
    await remake(harness, topic, pause)
    async with asyncio.timeout(TIMEOUT):
        while True:
            try:
                await broker.publish(topic, numbered(3, 100))
                break
            except BrokerUnavailable:
                await asyncio.sleep(0.2)
    await eventually(lambda: set(seen) >= {100, 101, 102}, "the new ones")
    async with asyncio.timeout(TIMEOUT):
        while True:  # and they are committed: the position of the old topic causes no loop
            found = await broker._cluster.committed(topic, [TopicPartition(topic, 0)])
            if found and found[TopicPartition(topic, 0)].offset >= 3:
                break
            await asyncio.sleep(0.1)
    reading.cancel()


async def test_the_commit_for_a_deleted_topic_is_bounded(harness: KafkaHarness) -> None:
    """The client itself would retry without end."""
    topic = unique("deleted")
    await harness.create_topic(topic, 1)
    broker = await harness.broker()
    await broker.publish(topic, numbered(10))
    subscription = await broker.subscribe(SubscribeOptions((topic,), topic), Assignments())
    for delivery in await take(subscription, 5):
        await delivery.complete()
    admin = AIOKafkaAdminClient(bootstrap_servers=harness.bootstrap)
    await admin.start()
    await admin.delete_topics([topic])
    await admin.close()
    begun = time.monotonic()
    await asyncio.gather(subscription.flush(), return_exceptions=True)
    await subscription.close()
    assert time.monotonic() - begun < 45


async def test_the_event_loop_stands_still_for_longer_than_the_session(harness: KafkaHarness) -> None:
    topic = unique("still")
    await harness.create_topic(topic, 2)
    broker = await harness.broker(commit_interval="200ms")
    subscription = await broker.subscribe(SubscribeOptions((topic,), topic), Assignments())
    seen: list[int] = []
    reading = asyncio.create_task(settle(subscription, seen))
    for number in range(3):
        await broker.publish(topic, [Message(b"%d" % n, b"%d" % n) for n in range(number * 50, number * 50 + 50)])
        time.sleep(4.0)  # the session timeout is 3 s
    await eventually(lambda: set(seen) == set(range(150)), "everything")
    reading.cancel()


async def test_two_processes_with_one_instance_id_are_found_out(harness: KafkaHarness) -> None:
    topic = unique("twins")
    await harness.create_topic(topic, 2)
    options = SubscribeOptions((topic,), topic, kafka=KafkaSourceConfig(instance_id="same"))
    first = await (await harness.broker()).subscribe(options, Assignments())
    second = await (await harness.broker()).subscribe(options, Assignments())
    tasks = [asyncio.create_task(settle(each, [])) for each in (first, second)]
    await eventually(lambda: "group" in first.stopped() or "group" in second.stopped(), "the sentence")
    received = first.stopped() | second.stopped()
    assert "another process with `instance_id: same`" in received["group"]
    for task in tasks:
        task.cancel()


@pytest.mark.parametrize("step", [3600.0, -3600.0])
async def test_the_clock_steps(
    tmp_path: Path, harness: KafkaHarness, monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    """The clock steps during work and retries: no wait of an hour, no loss, no negative age."""
    topic = unique("clock")
    real, offset = time.time, 0.0
    monkeypatch.setattr(time, "time", lambda: real() + offset)
    async with kafka_setup(tmp_path, harness, topic) as setup:
        failed: set[str] = set()

        async def before(command: Any) -> None:
            nonlocal offset
            if len(setup.faults.taken) >= 20:
                offset = step
            if command.instance_id.endswith("7") and command.instance_id not in failed:
                failed.add(command.instance_id)
                from bridge.core.errors import InstanceNotFound

                raise InstanceNotFound("not yet")

        setup.faults.before = before
        await setup.publish(*(message("start", f"{n % 5}-{n}", str(n % 5)) for n in range(50)), topic=topic)
        await setup.source.start()
        await setup.settled(50)
        assert offset == step
        await setup.publish(*(message("start", f"{n % 5}-{n}", str(n % 5)) for n in range(50, 60)), topic=topic)
        await setup.settled(60)
        assert setup.source.ledger.end_to_end.total >= 0
        assert all(found == sorted(found) for found in offsets_by_key(setup.faults.taken).values())
        assert setup.source.subscription is not None
        await setup.source.subscription.flush()
