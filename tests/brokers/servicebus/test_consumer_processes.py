"""Bridge processes that compete for one queue, killed, stopped and rolled under load."""

from __future__ import annotations

import asyncio
import random
import signal
from pathlib import Path

import pytest

from tests.brokers.servicebus.processes import consumer_processes
from tests.servicebus.server import QueueConfig

pytestmark = [pytest.mark.prove, pytest.mark.timeout(300)]

LOCK = 5.0
"""Shortest lock duration of the service, in seconds."""

SESSIONS = QueueConfig("orders", lock_duration=LOCK, max_delivery_count=10, requires_session=True)
PLAIN = QueueConfig("orders", lock_duration=LOCK, max_delivery_count=10)
QUEUES = pytest.mark.parametrize("queue", [SESSIONS, PLAIN], ids=["sessions", "plain"])


@QUEUES
async def test_two_processes_killed_under_load(tmp_path: Path, queue: QueueConfig) -> None:
    async with consumer_processes(tmp_path, queue) as bridges:
        await asyncio.gather(bridges.join(), bridges.join())
        stop = asyncio.Event()
        load = asyncio.create_task(bridges.load(stop, 300))
        kills = 4
        for _ in range(kills):
            await asyncio.sleep(random.uniform(0.5, 2.0))
            await bridges.end(random.choice(bridges.members))
            await bridges.join()
        stop.set()
        await load
        await bridges.settled()
        # Every member may have had 64 commands at work when it was killed
        await bridges.check(ordered=queue.requires_session, may_lack=kills * 64)


@QUEUES
async def test_a_process_stopped_past_its_locks_changes_nothing(tmp_path: Path, queue: QueueConfig) -> None:
    async with consumer_processes(tmp_path, queue) as bridges:
        frozen = await bridges.join()
        await bridges.join()
        stop = asyncio.Event()
        load = asyncio.create_task(bridges.load(stop, 200))
        for _ in range(2):
            await asyncio.sleep(1.0)
            frozen.signal(signal.SIGSTOP)
            await asyncio.sleep(LOCK + 3.0)
            frozen.signal(signal.SIGCONT)
            await asyncio.sleep(2.0)
        stop.set()
        await load
        await bridges.settled()
        await bridges.check(ordered=queue.requires_session)


@QUEUES
async def test_processes_rolled_under_load_give_everything_back_uncounted(tmp_path: Path, queue: QueueConfig) -> None:
    async with consumer_processes(tmp_path, queue) as bridges:
        await asyncio.gather(bridges.join(), bridges.join())
        stop = asyncio.Event()
        load = asyncio.create_task(bridges.load(stop, 300))
        for member in list(bridges.members):
            await asyncio.sleep(1.0)
            await bridges.end(member, signal.SIGTERM)
            await bridges.join()
        stop.set()
        await load
        await bridges.settled()
        await bridges.check(ordered=queue.requires_session)
        counters = bridges.counters()
        assert counters["expired_locks"] == {}
        assert counters["expired_session_locks"] == {}
        assert "orders abandon" not in counters["settled"]
