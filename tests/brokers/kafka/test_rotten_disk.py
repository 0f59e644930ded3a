"""A real broker whose log rots on its disk, and records that it takes though no client library can read them."""

from __future__ import annotations

import asyncio
import random
import struct
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.brokers.base import SubscribeOptions, UnreadablePolicy
from tests.brokers.consumer import PATIENCE, Assignments
from tests.brokers.kafka.harness import KafkaHarness, unique
from tests.kafka.batches import Log, acceptable
from tests.kafka.distribution import KafkaMissing, classpath, java
from tests.kafka.node import Node
from tests.kafka.produce import produce

pytestmark = pytest.mark.prove

PARTITIONS = 3


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    try:
        java()
        classpath()
    except KafkaMissing as missing:
        pytest.skip(f"{missing}: a rotten disk needs a real broker")
    node = Node(tmp_path / "node")
    node.start()
    yield node
    node.kill()


@pytest.mark.parametrize("seed", range(3))
async def test_rot_costs_its_batch_alone(node: Node, seed: int) -> None:
    rng = random.Random(seed)
    topic = unique("rotten")
    harness = KafkaHarness(node.bootstrap)
    await harness.create_topic(topic, PARTITIONS)
    logs = []
    for number in range(PARTITIONS):
        log = Log()
        for count in range(40):
            log.add(acceptable(rng, f"p{number}.{count}", rng.randrange(1, 6)))
        await produce(node.bootstrap, topic, number, *log.batches)
        logs.append(log)
    rotten = [_rot(node.directory / "log" / f"{topic}-{number}", rng) for number in range(PARTITIONS)]
    broker = await harness.broker()
    options = SubscribeOptions((topic,), topic, unreadable=UnreadablePolicy("dead_letter", "dead_letter"))
    subscription = await broker.subscribe(options, Assignments())
    found: dict[int, list[tuple[int, int, bytes | None]]] = defaultdict(list)
    expected = {number: _with(log, rotten[number]) for number, log in enumerate(logs)}
    async with asyncio.timeout(PATIENCE * 2):
        while sum(map(len, found.values())) < sum(map(len, expected.values())):
            for delivery in await subscription.receive(20):
                message, offset = delivery.message, delivery.position.offset
                last = (
                    offset if message.unreadable is None or message.unreadable.last is None else message.unreadable.last
                )
                body = None if message.unreadable else message.body
                found[delivery.position.partition].append((offset, last, body))
                await delivery.complete()
    assert dict(found) == expected
    await harness.stop()


def _rot(directory: Path, rng: random.Random) -> set[tuple[int, int]]:
    """Change a bit in some of the batches of the one segment; returns their first and last offsets."""
    (segment,) = directory.glob("*.log")
    data = bytearray(segment.read_bytes())
    gone, at = set(), 0
    while at < len(data):
        base, length = struct.unpack_from(">qi", data, at)
        if length == 0:
            break  # room that was allocated ahead
        if rng.random() < 0.2:
            (delta,) = struct.unpack_from(">i", data, at + 23)
            # Behind the header, which the broker itself goes by to find offsets
            where = rng.randrange(at + 61, at + 12 + length)
            data[where] ^= 1 << rng.randrange(8)
            gone.add((base, base + delta))
        at += 12 + length
    with segment.open("r+b") as stream:
        stream.write(data)
    return gone


def _with(log: Log, rotten: set[tuple[int, int]]) -> list[tuple[int, int, bytes | None]]:
    """The entries of the log when these runs cannot be read at all."""
    kept = [entry for entry in log.entries if not any(first <= entry[0] <= last for first, last in rotten)]
    return sorted([*kept, *((first, last, None) for first, last in rotten)], key=lambda entry: entry[0])
