"""Bridge processes in one group, killed, stopped and rolled under load."""

from __future__ import annotations

import asyncio
import random
import signal
from pathlib import Path

import pytest

from tests.brokers.kafka.group import group
from tests.brokers.kafka.harness import KafkaHarness

pytestmark = [pytest.mark.prove, pytest.mark.timeout(240)]


@pytest.mark.parametrize("size", [2, 5])
async def test_members_killed_under_load(tmp_path: Path, harness: KafkaHarness, size: int) -> None:
    async with group(tmp_path, harness) as bridges:
        await asyncio.gather(*(bridges.join() for _ in range(size)))
        stop = asyncio.Event()
        load = asyncio.create_task(bridges.load(stop, 600))
        kills = 4
        for _ in range(kills):
            await asyncio.sleep(random.uniform(0.5, 2.0))
            await bridges.end(random.choice(bridges.members))
            await bridges.join()
        stop.set()
        await load
        await bridges.settled()
        # Every member may have had 64 commands at work when it was killed
        await bridges.check(may_lack=kills * 64)


@pytest.mark.parametrize("size", [2, 5])
async def test_a_member_stopped_past_its_session_changes_nothing(
    tmp_path: Path, harness: KafkaHarness, size: int
) -> None:
    async with group(tmp_path, harness) as bridges:
        await asyncio.gather(*(bridges.join() for _ in range(size)))
        frozen = bridges.members[0]
        stop = asyncio.Event()
        load = asyncio.create_task(bridges.load(stop, 400))
        for _ in range(2):
            await asyncio.sleep(1.0)
            frozen.signal(signal.SIGSTOP)
            await asyncio.sleep(5.0)
            frozen.signal(signal.SIGCONT)
            await asyncio.sleep(2.0)
        stop.set()
        await load
        await bridges.settled()
        await bridges.check()


@pytest.mark.parametrize("size", [2, 5])
async def test_members_rolled_under_load(tmp_path: Path, harness: KafkaHarness, size: int) -> None:
    async with group(tmp_path, harness) as bridges:
        await asyncio.gather(*(bridges.join() for _ in range(size)))
        stop = asyncio.Event()
        load = asyncio.create_task(bridges.load(stop, 600))
        for member in list(bridges.members):
            await bridges.end(member, signal.SIGTERM)
            await bridges.join()
        stop.set()
        await load
        await bridges.settled()
        await bridges.check()
