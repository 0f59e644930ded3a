"""A broker that answers anything: a client is held by it at most as long as it does, and holds bounded memory."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import struct
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest

from bridge.brokers.base import SubscribeOptions
from bridge.brokers.kafka import KafkaBroker
from bridge.brokers.kafka.sdk_internals import OTHERS
from bridge.brokers.kafka.subscription import KafkaSubscription
from bridge.core.errors import BrokerError, BrokerUnavailable
from bridge.core.message import Message
from tests.brokers.consumer import Assignments
from tests.brokers.kafka.distortion import Distortion, honest, rewritten
from tests.brokers.kafka.harness import KafkaHarness, unique
from tests.kafka.server.server import Server
from tests.kit.waiting import TIMEOUT, eventually

pytestmark = pytest.mark.long

JOIN_GROUP = 11
SEED = "BRIDGE_HOSTILE_SEED"
WRONG = 60
"""Wrong answers after which a broker is honest again."""


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    yield server
    await server.stop()


async def subscribed(broker: KafkaBroker, options: SubscribeOptions) -> KafkaSubscription:
    while True:
        with suppress(BrokerError):
            return await broker.subscribe(options, Assignments())
        await asyncio.sleep(0)


async def consume(subscription: KafkaSubscription, into: set[bytes]) -> None:
    while True:
        with suppress(BrokerError):
            for delivery in await subscription.receive(50):
                into.add(bytes(delivery.message.body or b""))
                await delivery.complete()
        await asyncio.sleep(0)


async def publish(broker: KafkaBroker, topic: str) -> None:
    number = 0
    while True:
        number += 1
        with suppress(BrokerError, TimeoutError):
            await broker.publish(topic, [Message(b"before %d" % number, b"%d" % number)])
        await asyncio.sleep(0)


async def survives(server: Server, seed: int, share: float = 0.4) -> None:
    harness = KafkaHarness(await server.start())
    topic = unique("hostile")
    await harness.create_topic(topic, 3)
    broker = await harness.broker(request_timeout="1s", publish_timeout="2s", commit_interval="50ms")
    distortion = Distortion(seed, share)
    server.distort = distortion
    options = SubscribeOptions((topic,), topic)
    found: set[bytes] = set()
    tasks: list[asyncio.Task[None]] = []
    try:
        async with asyncio.timeout(TIMEOUT):
            tasks.append(asyncio.create_task(publish(broker, topic)))
            subscribing = asyncio.create_task(subscribed(broker, options))
            await eventually(lambda: distortion.count >= WRONG // 2)
            server.distort = honest
            subscription = await subscribing
            subscription._out_of_range._policy = "latest"  # wrong positions need a person otherwise
            server.distort = distortion
            tasks.append(asyncio.create_task(consume(subscription, found)))
            rebalanced = 0
            while distortion.count < WRONG:
                if distortion.count >= rebalanced + 5:
                    rebalanced = distortion.count
                    server.state.group(topic).prepare()
                await asyncio.sleep(0.01)
            server.distort = honest
            # To each partition until it is read: what came before may have been skipped with a wrong position
            for number in itertools.count():
                body = b"after %d" % number
                with suppress(BrokerError, TimeoutError):
                    await broker.publish(topic, [Message(body, b"%d" % number)])
                if len([each for each in found if each.startswith(b"after")]) > 20:
                    break
                assert not any(task.done() for task in tasks)
                await asyncio.sleep(0.02)
    finally:
        server.distort = honest
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await harness.stop()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", range(3))
async def test_any_answer_holds_a_client_no_longer_than_it_is_given(server: Server, seed: int) -> None:
    await survives(server, seed)


@pytest.mark.prove
@pytest.mark.timeout(3600)
async def test_any_answer_for_long() -> None:
    """Many seeds, or the one in the environment variable BRIDGE_HOSTILE_SEED."""
    given = os.environ.get(SEED)
    for seed in [int(given)] if given else [random.randrange(2**31) for _ in range(40)]:
        server = Server()
        try:
            await survives(server, seed)
        except BaseException as error:
            error.add_note(f"repeat: {SEED}={seed} python -m pytest -m prove {__file__} -k test_any_answer_for_long")
            raise
        finally:
            await server.stop()


@pytest.mark.parametrize("size", [-1, -(2**31), OTHERS + 1, 2**31 - 1])
async def test_an_announced_size_is_looked_at_before_anything_is_held(server: Server, size: int) -> None:
    """Refusal at once, of any announcement: the client waits for no byte of such an answer."""
    harness = KafkaHarness(await server.start())
    broker = await harness.broker(request_timeout="10s")
    server.distort = lambda key, version, frame: struct.pack(">i", size) + bytes(1 << 20)
    before = time.monotonic()
    with pytest.raises(BrokerUnavailable):
        await broker._cluster.ping()
    assert time.monotonic() - before < 9  # its deadline is 10 s
    server.distort = honest
    await harness.stop()


async def test_an_answer_of_records_may_be_large(server: Server) -> None:
    harness = KafkaHarness(await server.start())
    topic = unique("large")
    await harness.create_topic(topic, 1, max_message_bytes=str(64 << 20))
    broker = await harness.broker(max_request="64MiB", publish_timeout="30s")
    body = random.Random(1).randbytes(OTHERS + 1)
    await broker.publish(topic, [Message(body, b"k")])
    subscription = await broker.subscribe(SubscribeOptions((topic,), topic), Assignments())
    async with asyncio.timeout(TIMEOUT):
        (delivery,) = await subscription.receive(1)
    assert delivery.message.body == body
    await harness.stop()


async def test_a_client_that_lost_its_nodes_begins_anew(server: Server) -> None:
    """The administrative one: it would ask the nodes of the last answer for ever."""
    harness = KafkaHarness(await server.start())
    broker = await harness.broker(request_timeout="1s")
    client = broker._cluster._admin._client
    client.cluster._brokers = {node: each._replace(port=1) for node, each in client.cluster._brokers.items()}
    for connection in list(client._conns.values()):
        connection.close()
    async with asyncio.timeout(TIMEOUT):
        while True:
            try:
                await broker._cluster.ping()
                break
            except BrokerUnavailable:
                await asyncio.sleep(0)
    await harness.stop()


@pytest.mark.parametrize("part", ["coordination", "heartbeats"])
async def test_a_client_whose_own_tasks_are_stuck_is_replaced(server: Server, part: str) -> None:
    """The group and the cluster answer; the client does not ask. Its place in the group is given up."""
    harness = KafkaHarness(await server.start())
    topic = unique("stuck")
    await harness.create_topic(topic, 3)
    broker = await harness.broker(
        request_timeout="500ms", rebalance_timeout="1s", session_timeout="1s", metadata_max_age="100ms"
    )
    subscription = await broker.subscribe(SubscribeOptions((topic,), topic), Assignments())
    stuck = subscription._consumer
    found: set[bytes] = set()
    consuming = asyncio.create_task(consume(subscription, found))
    coordinator = stuck._coordinator
    async with asyncio.timeout(TIMEOUT):
        await coordinator._coordinator_lookup_lock.acquire()  # nobody releases it
        if part == "coordination":
            coordinator.request_rejoin()
        coordinator.coordinator_dead()
        await eventually(lambda: not (subscription._consumer is stuck or not subscription._assignment.settled.is_set()))
        await broker.publish(topic, [Message(b"after", b"k")])
        await eventually(lambda: b"after" in found)
    assert coordinator._coordination_task.done()
    assert not stuck._client._conns or not any(each.connected() for each in stuck._client._conns.values())
    assert len(server.state.group(topic).members) == 1
    consuming.cancel()
    await asyncio.wait([consuming])
    await harness.stop()


async def test_subscribing_ends_when_the_group_never_assigns(server: Server) -> None:
    """An error within the limit of a rebalance: the client itself would wait for ever."""
    harness = KafkaHarness(await server.start())
    topic = unique("never")
    await harness.create_topic(topic, 1)
    broker = await harness.broker(request_timeout="500ms", rebalance_timeout="1s", session_timeout="1s")

    def loading(key: int, version: int, frame: bytes) -> bytes:
        def change(answer: Any) -> None:
            answer.error_code = 14

        return rewritten(key, version, frame, change) if key == JOIN_GROUP else frame

    server.distort = loading
    with pytest.raises(BrokerUnavailable, match="no assignment"):
        async with asyncio.timeout(TIMEOUT):
            await broker.subscribe(SubscribeOptions((topic,), topic), Assignments())
    server.distort = honest
    subscription = await broker.subscribe(SubscribeOptions((topic,), topic), Assignments())
    assert len(subscription._assignment.partitions) == 1
    await harness.stop()
