"""Consumers and publishers in processes of their own, killed at random moments."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from bridge.brokers.base import Delivery, SubscribeOptions, Subscription
from bridge.brokers.local.encoding import decode_offsets
from bridge.core import provenance
from tests.brokers.consumer import Assignments, nothing_more, numbers, take
from tests.brokers.local.consumers import OPTIONS
from tests.brokers.local.harness import LocalHarness, create_topic
from tests.kit.waiting import TIMEOUT, eventually

pytestmark = pytest.mark.long

ROUNDS = 12
RECORDS = 120
"""Number of records published in every round."""


class Nursery:
    """Process that forks consumers and publishers."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def fork(self, *order: object) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write((" ".join(map(str, order)) + "\n").encode())
        return int(await self._process.stdout.readline())


@asynccontextmanager
async def nursery(directory: Path, effects: Path) -> AsyncIterator[Nursery]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.brokers.local.consumers", str(directory), str(effects),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        yield Nursery(process)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


Place = tuple[int, int]
"""Partition and offset."""


def read_effects(path: Path) -> dict[Place, int]:
    """Return the record number of each effect, by place."""
    lines = path.read_text().splitlines() if path.exists() else []
    found = (tuple(map(int, line.split())) for line in lines)
    return {(partition, offset): number for partition, offset, number in found}


def query(directory: Path, sql: str, *values: object) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(directory / "log.db")
    try:
        return connection.execute(sql, values).fetchall()
    finally:
        connection.close()


def committed(directory: Path) -> set[Place]:
    """Return every place that the group has committed."""
    rows = query(
        directory,
        "SELECT number, positions.next, done FROM positions JOIN partitions ON partitions.id = partition "
        "JOIN topics ON topics.id = topic WHERE name = 'orders' AND consumer_group = 'bridge'",
    )
    return {(number, offset) for number, start, done in rows for offset in (*range(start), *decode_offsets(done))}


class DeadLetters:
    """Reader of the dead-letter topic."""

    def __init__(self, directory: Path, subscription: Subscription) -> None:
        self._directory = directory
        self._subscription = subscription
        self._received: list[Delivery] = []

    async def places(self) -> dict[Place, int]:
        """Return the record number of each dead letter so far, by place. Fails on a repeated place."""
        ends = query(
            self._directory,
            "SELECT number, next FROM partitions JOIN topics ON topics.id = topic WHERE name = 'orders.dlq'",
        )
        # A newer dead letter of another partition may come before one that is counted here
        for number, end in ends:
            while sum(each.position.partition == number for each in self._received) < end:
                self._received += await take(self._subscription, 1)
        found: dict[Place, int] = {}
        for delivery in self._received:
            received = dict(delivery.message.headers)
            place = int(received[provenance.PARTITION]), int(received[provenance.OFFSET])
            assert place not in found, "a dead letter and its settlement are one transaction"
            found[place] = int(delivery.message.body or b"")
        return found


async def test_killed_consumers_lose_nothing_and_commit_nothing_undone(harness: LocalHarness, tmp_path: Path) -> None:
    effects_path = tmp_path / "effects"
    broker = await harness.broker()
    create_topic(harness.directory, "orders", 4)
    dead = DeadLetters(
        harness.directory, await broker.subscribe(SubscribeOptions(("orders.dlq",), "operators"), Assignments())
    )
    seeds = random.Random(7)
    async with nursery(harness.directory, effects_path) as forks:
        alive: list[int] = []
        positions_now: set[Place] = set()
        done: dict[Place, int] = {}
        for turn in range(ROUNDS):
            before = len(read_effects(effects_path))
            await forks.fork("publish", turn * RECORDS, RECORDS)
            while len(alive) < 2:
                alive.append(await forks.fork("consume"))
            await eventually(lambda before=before: len(read_effects(effects_path)) > before, poll=0.002)  # type: ignore[misc]  # a default binds the number
            await asyncio.sleep(seeds.uniform(0, 0.15))
            os.kill(alive.pop(seeds.randrange(2)), signal.SIGKILL)
            # Positions are read first: everything before them must have happened already.
            positions_now = committed(harness.directory)
            done = {**read_effects(effects_path), **await dead.places()}
            assert positions_now <= done.keys()
        for survivor in alive:
            os.kill(survivor, signal.SIGKILL)
        assert positions_now, "nothing was committed: the rounds proved nothing"

        rest = await broker.subscribe(OPTIONS, Assignments())
        wanted = set(range(ROUNDS * RECORDS))
        async with asyncio.timeout(TIMEOUT):
            while len({**done, **read_effects(effects_path), **await dead.places()}) < len(wanted):
                for delivery in await rest.receive(100):
                    done[delivery.position.partition, delivery.position.offset] = int(delivery.message.body or b"")
                    await delivery.complete()
        assert {**done, **read_effects(effects_path), **await dead.places()}.keys() == {
            (number, offset)
            for number, end in query(
                harness.directory,
                "SELECT number, next FROM partitions JOIN topics ON topics.id = topic WHERE name = 'orders'",
            )
            for offset in range(end)
        }
        assert set({**done, **read_effects(effects_path), **await dead.places()}.values()) == wanted


async def test_partitions_of_a_killed_member_go_to_the_others(harness: LocalHarness, tmp_path: Path) -> None:
    broker = await harness.broker()
    create_topic(harness.directory, "orders", 4)
    async with nursery(harness.directory, tmp_path / "effects") as forks:
        mine = Assignments()
        subscription = await broker.subscribe(OPTIONS, mine)
        await mine.until(lambda: len(mine.assigned_now) == 4)
        child = await forks.fork("consume")
        await mine.until(lambda: len(mine.assigned_now) == 2)
        os.kill(child, signal.SIGKILL)
        await mine.until(lambda: len(mine.assigned_now) == 4)
        members = next((harness.directory / "groups").iterdir()) / "members"
        assert len(list(members.iterdir())) == 1
        await subscription.close()


async def test_several_processes_publish_at_once(harness: LocalHarness, tmp_path: Path) -> None:
    broker = await harness.broker()
    create_topic(harness.directory, "orders", 4)
    subscription = await broker.subscribe(OPTIONS, Assignments())
    async with nursery(harness.directory, tmp_path / "effects") as forks:
        for number in range(4):
            await forks.fork("publish", number * 50, 50)
        deliveries = await take(subscription, 200)
    assert sorted(numbers(deliveries)) == list(range(200))
    by_key: dict[tuple[bytes | None, int], list[int]] = {}
    for delivery in deliveries:
        number = int(delivery.message.body or b"")
        by_key.setdefault((delivery.message.key, number // 50), []).append(number)
    assert all(seen == sorted(seen) for seen in by_key.values())
    await nothing_more(subscription)
