"""Real nodes that restart, or change their leader, between the reads of a damaged batch."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from bridge.brokers.base import SubscribeOptions, UnreadablePolicy
from bridge.brokers.kafka.fetcher import Fetcher
from bridge.core.errors import BrokerUnavailable
from tests.brokers.consumer import Assignments, nothing_more
from tests.brokers.kafka.harness import KafkaHarness, unique
from tests.brokers.kafka.test_unreadable import Entry, entry
from tests.kafka.batches import Log, acceptable
from tests.kafka.disk import overwrite, place
from tests.kafka.node import Node
from tests.kit.waiting import TIMEOUT, eventually

pytestmark = [pytest.mark.prove, pytest.mark.timeout(240)]

SETTINGS = {
    "offsets.topic.replication.factor": "2", "broker.session.timeout.ms": "2000", "min.insync.replicas": "1",
    "broker.heartbeat.interval.ms": "300",
}  # fmt: skip


@pytest.fixture
def nodes(real_kafka: None, tmp_path: Path) -> Iterator[list[Node]]:
    """List with the first node, which is the controller; a test may add others."""
    found = [Node(tmp_path / "first")]
    yield found
    for node in found:
        node.kill()


class Between:
    """Callback before the reread with this number; counts the rereads."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int, action: Callable[[], Awaitable[None]]) -> None:
        self.reads = 0
        real = Fetcher._read_again

        async def read(fetcher: Fetcher, *arguments: Any) -> Any:
            self.reads += 1
            if self.reads == at:
                await action()
            return await real(fetcher, *arguments)

        monkeypatch.setattr(Fetcher, "_read_again", read)


def logs() -> tuple[Log, Log]:
    """Return two logs with the same content; the second has a batch with a wrong checksum."""
    rng = random.Random(3)
    made = [acceptable(rng, f"b{number}", 3) for number in range(9)]
    sound, rotten = Log(), Log()
    for number, each in enumerate(made):
        sound.add(each)
        rotten.add(each)
        if number == 4:
            data = rotten.batches[4]
            rotten.batches[4] = data[:-1] + bytes([data[-1] ^ 1])
            rotten.entries = [each for each in rotten.entries if each[0] < 12] + [(12, 14, None)]
    return sound, rotten


async def read(harness: KafkaHarness, topic: str, expected: list[Entry]) -> None:
    policy = UnreadablePolicy("dead_letter", "dead_letter")
    broker = await harness.broker(commit_interval="200ms")
    subscription = await broker.subscribe(SubscribeOptions((topic,), topic, unreadable=policy), Assignments())
    async with asyncio.timeout(TIMEOUT):
        found: list[Entry] = []
        while len(found) < len(expected):
            try:
                for delivery in await subscription.receive(1):
                    found.append(entry(delivery))
                    await delivery.complete()
            except BrokerUnavailable:
                await asyncio.sleep(0.2)  # while no node runs
    assert found == expected
    await nothing_more(subscription)


@pytest.mark.parametrize("heals", [False, True])
@pytest.mark.parametrize("at", [1, 2])
async def test_the_node_restarts_between_the_reads(
    nodes: list[Node], monkeypatch: pytest.MonkeyPatch, at: int, heals: bool
) -> None:
    [node] = nodes
    node.start()
    harness = KafkaHarness(node.bootstrap)
    topic = unique("restart")
    await harness.create_topic(topic, 1)
    sound, rotten = logs()
    await place([node], topic, 0, rotten)

    async def restart() -> None:
        await asyncio.to_thread(node.stop)
        if heals:
            overwrite(node, topic, 0, b"".join(sound.batches))
        await asyncio.to_thread(node.start)

    between = Between(monkeypatch, at, restart)
    await read(harness, topic, (sound if heals else rotten).entries)
    assert between.reads >= (at if heals else 2)
    await harness.stop()


@pytest.mark.parametrize("replica", ["rotten", "sound"])
@pytest.mark.parametrize("at", [1, 2])
async def test_the_leader_changes_between_the_reads(
    tmp_path: Path, nodes: list[Node], monkeypatch: pytest.MonkeyPatch, at: int, replica: str
) -> None:
    """The new leader has the same damage on its disk, or none."""
    nodes[0].settings = SETTINGS
    nodes[0].start()
    nodes.append(Node(tmp_path / "second", settings=SETTINGS, number=2, controller=nodes[0].controller))
    nodes[1].start()
    first, second = nodes
    harness = KafkaHarness(f"{first.bootstrap},{second.bootstrap}")
    topic = unique("leader")
    admin: Any = AIOKafkaAdminClient(bootstrap_servers=harness.bootstrap)
    await admin.start()

    async def reached() -> object:
        return len((await admin.describe_cluster())["brokers"]) >= 2

    await eventually(reached)
    await admin.create_topics([NewTopic(topic, -1, -1, {0: [2, 1]})])
    await admin.close()
    sound, rotten = logs()
    await place([second, first], topic, 0, rotten)
    if replica == "sound":
        overwrite(first, topic, 0, b"".join(sound.batches))

    async def change() -> None:
        await asyncio.to_thread(second.kill)

    between = Between(monkeypatch, at, change)
    await read(harness, topic, (sound if replica == "sound" else rotten).entries)
    assert between.reads >= (at if replica == "sound" else 2)
    await harness.stop()
