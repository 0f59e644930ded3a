"""Real broker whose log is damaged on disk, and records that it accepts although no client library can read them."""

from __future__ import annotations

import asyncio
import random
import struct
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks._sidecar import sidecar
from bridge.brokers.base import SubscribeOptions, UnreadablePolicy
from tests.brokers.consumer import Assignments
from tests.brokers.kafka.damaged_topic import POLICIES, DamagedTopic
from tests.brokers.kafka.harness import KafkaHarness, unique
from tests.kafka.batches import Log, acceptable
from tests.kafka.disk import overwrite, segment
from tests.kafka.node import Node
from tests.kafka.produce import produce
from tests.kit.waiting import TIMEOUT

pytestmark = pytest.mark.prove

PARTITIONS = 3


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
    async with asyncio.timeout(TIMEOUT * 2):
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


FIELDS = {
    "base offset": (0, 8), "length": (8, 12), "magic": (16, 17), "checksum": (17, 21), "attributes": (21, 23),
    "last offset": (23, 27), "times": (27, 43), "count": (57, 61), "records": (61, None),
}  # fmt: skip
"""Byte ranges of the fields of a batch."""


@dataclass
class Rotten:
    """Partition with one damaged batch at offsets `first` to `last`; no damage when `field` is empty."""

    log: Log
    field: str
    first: int = -1
    last: int = -1

    def rot(self, node: Node, topic: str, number: int, rng: random.Random) -> None:
        """Change one bit of a batch in the middle, on the disk of a stopped node."""
        path = segment(node, topic, number)
        data, places, at = path.read_bytes(), [], 0
        while at < len(data):
            base, length = struct.unpack_from(">qi", data, at)
            places.append((at, base, length + 12, struct.unpack_from(">i", data, at + 23)[0]))
            at += length + 12
        at, self.first, size, delta = rng.choice(places[len(places) // 3 : 2 * len(places) // 3])
        self.last = self.first + delta
        begin, end = FIELDS[self.field]
        where = at + rng.randrange(begin, end or size)
        overwrite(node, topic, number, bytes([data[where] ^ 1 << rng.randrange(8)]), at=where)


@pytest.mark.parametrize("seed", range(4))
async def test_rot_while_the_node_is_down(node: Node, tmp_path: Path, seed: int) -> None:
    """The node stops cleanly and therefore trusts its log at the next start."""
    rng = random.Random(seed)
    topic = unique("rot")
    parts = [Rotten(Log(), field) for field in (*FIELDS, "", "")]
    harness = KafkaHarness(node.bootstrap)
    await harness.create_topic(topic, len(parts), index_interval_bytes="500")
    for number, part in enumerate(parts):
        for count in range(30):
            part.log.add(acceptable(rng, f"p{number}.{count}", rng.randrange(1, 6)))
        await produce(node.bootstrap, topic, number, *part.log.batches)
    node.stop()
    assert (node.directory / "log" / ".kafka_cleanshutdown").exists()
    for number, part in enumerate(parts):
        if part.field:
            part.rot(node, topic, number, rng)
    node.start()
    with sidecar() as engine:
        damaged = DamagedTopic(tmp_path / "daemon", harness, topic, [part.log for part in parts], POLICIES[0], engine)
        with damaged.serve() as daemon:
            stopped: dict[int, str] = {}
            end = asyncio.get_running_loop().time() + TIMEOUT * 2
            while True:
                positions = await damaged.positions()
                shown = daemon.get("/readyz")[1]
                stopped = {
                    number: detail
                    for number in range(len(parts))
                    if (detail := shown.partition(f"{topic}/{number}: ")[2])
                }
                if all(number in stopped or positions[number] == part.log.end for number, part in enumerate(parts)):
                    break
                late = [
                    (number, part.field, part.first, part.last, positions[number], part.log.end)
                    for number, part in enumerate(parts)
                    if number not in stopped and positions[number] != part.log.end
                ]
                assert asyncio.get_running_loop().time() < end, (late, daemon.metrics("bridge_lag"), shown)
                await asyncio.sleep(0.2)
            await asyncio.sleep(0.5)  # records before a stop are committed
            positions = await damaged.positions()
            executed, dead = await damaged.executed(), await damaged.dead_letters()
        for number, part in enumerate(parts):
            _judge(
                part, number, stopped.get(number, ""), positions[number],
                {offset for partition, offset in executed if partition == number},
                sorted((first, last) for partition, first, last in dead if partition == number),
            )  # fmt: skip
        assert set(dead.values()) <= {1}
    await harness.stop()


def _judge(
    part: Rotten, number: int, stopped: str, position: int, executed: set[int], dead: list[tuple[int, int]]
) -> None:
    why = (number, part.field, part.first, part.last, stopped, position, dead)
    limit = position if stopped else part.log.end
    outside = [entry for entry in part.log.entries if not part.first <= entry[0] <= part.last and entry[0] < limit]
    assert executed == {first for first, _, value in outside if value is not None}, why
    unreadable = [(first, last) for first, last, value in outside if value is None]
    if stopped:
        # Only damage without a checksum stops a partition, at the damage, or the broker itself
        assert part.field in ("base offset", "length", "magic"), why
        assert position == part.first, why
        assert stopped.startswith((f"offset {part.first} ", f"offsets {part.first} to ", "the broker answers")), why
    elif part.field:
        unreadable.append((part.first, part.last))
    assert dead == sorted(unreadable), why


def _rot(directory: Path, rng: random.Random) -> set[tuple[int, int]]:
    """Change a bit in some of the batches of the only segment. Returns their first and last offsets."""
    (segment,) = directory.glob("*.log")
    data = bytearray(segment.read_bytes())
    gone, at = set(), 0
    while at < len(data):
        base, length = struct.unpack_from(">qi", data, at)
        if length == 0:
            break  # preallocated space
        if rng.random() < 0.2:
            (delta,) = struct.unpack_from(">i", data, at + 23)
            # After the header, by which the broker itself finds offsets
            where = rng.randrange(at + 61, at + 12 + length)
            data[where] ^= 1 << rng.randrange(8)
            gone.add((base, base + delta))
        at += 12 + length
    with segment.open("r+b") as stream:
        stream.write(data)
    return gone


def _with(log: Log, rotten: set[tuple[int, int]]) -> list[tuple[int, int, bytes | None]]:
    """Return the entries of the log when these runs are unreadable."""
    kept = [entry for entry in log.entries if not any(first <= entry[0] <= last for first, last in rotten)]
    return sorted([*kept, *((first, last, None) for first, last in rotten)], key=lambda entry: entry[0])
