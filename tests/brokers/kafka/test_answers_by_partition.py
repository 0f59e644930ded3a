"""A broker whose answers leave out partitions, repeat one, name others, or have null instead of a list.

Nothing is indexed by what an answer names: the request is an outage, and goes on when the broker is honest.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest
from aiokafka import AIOKafkaClient, TopicPartition
from aiokafka.protocol.api import Response

from bridge.brokers.base import ReadOptions, SubscribeOptions
from bridge.brokers.kafka import KafkaBroker
from bridge.brokers.kafka.subscription import KafkaSubscription
from bridge.core.errors import BrokerError, BrokerUnavailable
from bridge.core.message import Message
from tests.brokers.consumer import Assignments
from tests.brokers.kafka.distortion import honest, rewritten
from tests.brokers.kafka.harness import KafkaHarness, unique
from tests.kafka.server.server import Server
from tests.kit.waiting import TIMEOUT, eventually

PRODUCE, FETCH, LIST_OFFSETS, METADATA, OFFSET_COMMIT, OFFSET_FETCH, CREATE_TOPICS = 0, 1, 2, 3, 8, 9, 19
PARTITIONS = 3

Change = Callable[[Response], None]


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    yield server
    await server.stop()


@dataclass
class Wrong:
    """Answers to one kind of request, changed `times` times."""

    key: int
    change: Change
    times: int = 1_000_000
    count: int = 0

    def __call__(self, key: int, version: int, frame: bytes) -> bytes:
        if key != self.key or self.count >= self.times:
            return frame
        self.count += 1
        return rewritten(key, version, frame, self.change)

    async def happened(self, times: int) -> None:
        await eventually(lambda: self.count >= times)


def _lists(change: Callable[[list[Any]], list[Any] | None]) -> Change:
    """Change of the list of partitions of every topic."""

    def apply(answer: Response) -> None:
        answer.topics = [(*topic[:-1], change(list(topic[-1]))) for topic in answer.topics]

    return apply


def _other(partition: Any) -> Any:
    return (partition[0] + 7, *partition[1:])


def _nothing(answer: Response) -> None:
    answer.topics = None


BY_PARTITION: dict[str, Change] = {
    "left out": _lists(lambda partitions: partitions[1:]),
    "repeated": _lists(lambda partitions: [*partitions, partitions[0]]),
    "another": _lists(lambda partitions: [_other(partitions[0]), *partitions[1:]]),
    "one more": _lists(lambda partitions: [*partitions, _other(partitions[0])]),
    "none": _lists(lambda partitions: []),
    "null": _lists(lambda partitions: None),
    "no topics": _nothing,
}


async def receive(subscription: KafkaSubscription, bodies: set[bytes]) -> None:
    """Complete deliveries until each of these bodies has arrived."""
    left = set(bodies)
    async with asyncio.timeout(TIMEOUT):
        while left:
            with suppress(BrokerUnavailable):
                for delivery in await subscription.receive(50):
                    left.discard(bytes(delivery.message.body or b""))
                    await delivery.complete()


async def publish(broker: KafkaBroker, topic: str, word: str) -> set[bytes]:
    """Publish until all are acknowledged. Some may be written more than once."""
    bodies = {b"%s %d" % (word.encode(), number) for number in range(12)}
    async with asyncio.timeout(TIMEOUT):
        while True:
            with suppress(BrokerUnavailable):
                await broker.publish(topic, [Message(body, body) for body in bodies])
                return bodies


def unexpected(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "unexpected" in record.getMessage()]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("key", [PRODUCE, FETCH, LIST_OFFSETS, OFFSET_COMMIT, OFFSET_FETCH])
@pytest.mark.parametrize("kind", BY_PARTITION)
async def test_answers_about_other_partitions(
    server: Server, key: int, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    harness = KafkaHarness(await server.start())
    topic = unique("answers")
    await harness.create_topic(topic, PARTITIONS)
    broker = await harness.broker(request_timeout="1s", publish_timeout="2s", commit_interval="10ms")
    await publish(broker, topic, "before")
    wrong = Wrong(key, BY_PARTITION[kind])
    server.distort = wrong

    async def use() -> KafkaSubscription:
        while True:
            with suppress(BrokerError):
                return await broker.subscribe(SubscribeOptions((topic,), topic), Assignments())

    async def work() -> KafkaSubscription:
        subscription = await use()
        bodies = await publish(broker, topic, "after")
        await receive(subscription, bodies)
        while True:
            with suppress(BrokerUnavailable):
                await subscription.flush()
                return subscription

    with caplog.at_level(logging.WARNING):
        working = asyncio.create_task(work())
        await wrong.happened(3)
        server.distort = honest
        async with asyncio.timeout(TIMEOUT):
            subscription = await working
    assert not unexpected(caplog)
    ends = {tp.partition: each.log.position for tp, each in subscription._assignment.partitions.items()}
    offsets = {number: offset for (name, number), (offset, _) in server.state.group(topic).offsets.items()}
    assert offsets == ends
    assert len(ends) == PARTITIONS
    await harness.stop()


async def test_a_position_that_is_not_answered_is_no_missing_position(server: Server) -> None:
    """The group would start anew, with `latest` behind everything that it has not read."""
    harness = KafkaHarness(await server.start())
    topic = unique("positions")
    await harness.create_topic(topic, PARTITIONS)
    broker = await harness.broker(request_timeout="500ms")
    asked = [TopicPartition(topic, number) for number in range(PARTITIONS)]
    for number in range(PARTITIONS):
        server.state.group("g").offsets[topic, number] = 1, ""
    for kind in ("left out", "another", "none"):
        server.distort = Wrong(OFFSET_FETCH, BY_PARTITION[kind])
        with pytest.raises(BrokerUnavailable):
            await broker._cluster.committed("g", asked)

    def negative(answer: Response) -> None:
        answer.topics = [
            (topic, [(number, -5, text, code) for number, _, text, code in each]) for topic, each in answer.topics
        ]

    server.distort = Wrong(OFFSET_FETCH, negative)
    with pytest.raises(BrokerUnavailable):
        await broker._cluster.committed("g", asked)
    server.distort = honest
    assert {tp.partition: found.offset for tp, found in (await broker._cluster.committed("g", asked)).items()} == {
        0: 1, 1: 1, 2: 1,
    }  # fmt: skip
    await harness.stop()


@pytest.mark.parametrize("kind", BY_PARTITION)
async def test_reading_a_topic(server: Server, kind: str) -> None:
    """An error that names the outage, then the messages."""
    harness = KafkaHarness(await server.start())
    topic = unique("read")
    await harness.create_topic(topic, PARTITIONS)
    broker = await harness.broker(request_timeout="500ms")
    bodies = await publish(broker, topic, "there")
    server.distort = Wrong(LIST_OFFSETS, BY_PARTITION[kind])
    with pytest.raises(BrokerUnavailable):
        _ = [each async for each in broker.read(ReadOptions(topic))]
    server.distort = honest
    assert {bytes(message.body or b"") async for _, message in broker.read(ReadOptions(topic))} == bodies
    await harness.stop()


def address(host: object, port: int) -> Change:
    def apply(answer: Response) -> None:
        answer.brokers = [(number, host, port, *rest) for number, _, _, *rest in answer.brokers]

    return apply


NODES: dict[str, Change] = {
    "a null byte": address("\0", 9092),
    "a label that is too long": address("a" * 300, 9092),
    "no host": address("", 9092),
    "null": address(None, 9092),
    "a port beyond all": address("127.0.0.1", 2**31 - 1),
    "a negative port": address("127.0.0.1", -1),
    "nobody there": address("127.0.0.1", 1),
    "no topics": _nothing,
    "no partitions": BY_PARTITION["none"],
    "null partitions": BY_PARTITION["null"],
}


@pytest.mark.parametrize("kind", NODES)
async def test_metadata_that_leads_nowhere(server: Server, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """Every client finds the cluster again: the member of a group, the fetcher, the producer and the administrator."""
    harness = KafkaHarness(await server.start())
    topic = unique("nodes")
    await harness.create_topic(topic, PARTITIONS)
    broker = await harness.broker(request_timeout="1s", publish_timeout="2s", metadata_max_age="100ms")
    subscription = await broker.subscribe(SubscribeOptions((topic,), topic), Assignments())
    await receive(subscription, await publish(broker, topic, "before"))
    wrong = Wrong(METADATA, NODES[kind], 8)
    server.distort = wrong
    await wrong.happened(4)
    server.drop()
    bodies = asyncio.create_task(publish(broker, topic, "after"))
    await wrong.happened(8)
    await receive(subscription, await bodies)
    assert not unexpected(caplog)
    await harness.stop()


async def test_nodes_that_never_answer_do_not_hold_an_update(server: Server) -> None:
    """A thousand addresses where connections open and nothing comes back: the configured servers are asked again."""
    harness = KafkaHarness(await server.start())
    broker = await harness.broker(request_timeout="200ms")
    silent = await asyncio.start_server(lambda reader, writer: reader.read(), "127.0.0.1", 0)  # type: ignore[arg-type, return-value]  # wider than its annotation, on purpose
    port = silent.sockets[0].getsockname()[1]

    def many(answer: Response) -> None:
        answer.brokers = [(number + 1, "127.0.0.1", port, None) for number in range(1000)]

    client: Any = AIOKafkaClient(**broker._connection.arguments)
    server.distort = Wrong(METADATA, many)
    await client.bootstrap()
    server.distort = honest
    assert len(client.cluster.brokers()) == 1000
    async with asyncio.timeout(TIMEOUT):
        while len(client.cluster.brokers()) != 1 or not await client.force_metadata_update():
            await client.force_metadata_update()
    await client.close()
    silent.close()
    await harness.stop()


async def test_nodes_with_ever_new_numbers_cost_no_connections(server: Server) -> None:
    harness = KafkaHarness(await server.start())
    broker = await harness.broker(request_timeout="1s")
    client: Any = AIOKafkaClient(**broker._connection.arguments)
    numbers = itertools.count(100)

    def renumbered(answer: Response) -> None:
        answer.brokers = [(next(numbers), *rest) for _, *rest in answer.brokers]

    await client.bootstrap()
    server.distort = Wrong(METADATA, renumbered)
    async with asyncio.timeout(TIMEOUT):
        for _ in range(20):
            assert await client.force_metadata_update()
            assert len(client._conns) <= 1
    await client.close()
    await harness.stop()


async def test_versions_that_the_client_does_not_speak(server: Server) -> None:
    """The connection is closed, so that the next one asks for the versions again."""
    harness = KafkaHarness(await server.start())
    broker = await harness.broker(request_timeout="1s")

    def beyond(answer: Response) -> None:
        answer.api_versions = [(key, 30_000, 30_001) for key, _, _ in answer.api_versions]

    server.distort = wrong = Wrong(18, beyond)
    server.drop()
    async with asyncio.timeout(TIMEOUT):
        while wrong.count < 3:
            with suppress(BrokerUnavailable):
                await broker._cluster.ping()
        server.distort = honest
        while True:
            with suppress(BrokerUnavailable):
                await broker._cluster.ping()
                break
    await harness.stop()
