from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path

import pytest

from bridge.brokers.base import SubscribeOptions
from bridge.brokers.local import subscription as subscriptions
from tests.brokers.consumer import Assignments, numbered, numbers, take
from tests.brokers.local.harness import LocalHarness
from tests.kit.waiting import TIMEOUT

ORDERS = SubscribeOptions(("orders",), "bridge")


async def ping(harness: LocalHarness) -> None:
    """Assert that a consumer without polling receives a message from another broker object."""
    publisher, consumer = await harness.broker(), await harness.broker()
    subscription = await consumer.subscribe(ORDERS, Assignments())
    for number in range(3):
        waiting = asyncio.create_task(take(subscription, 1))
        await asyncio.sleep(0.02)
        await publisher.publish("orders", numbered(1, number, b"k"))
        assert numbers(await waiting) == [number]


@pytest.fixture
def no_polling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.brokers.local.broker.CHECK_SECONDS", TIMEOUT * 10)
    monkeypatch.setattr(subscriptions, "CHECK_SECONDS", TIMEOUT * 10)


@pytest.mark.usefixtures("no_polling")
async def test_a_publish_wakes_consumers_elsewhere(harness: LocalHarness) -> None:
    await ping(harness)


@pytest.mark.usefixtures("no_polling")
async def test_a_long_path_is_no_obstacle(tmp_path: Path) -> None:
    harness = LocalHarness(tmp_path / ("long" * 30) / ("path" * 30))
    await ping(harness)
    await harness.stop()


@pytest.mark.usefixtures("no_polling")
async def test_sockets_of_the_dead_are_removed_and_disturb_nobody(harness: LocalHarness) -> None:
    await harness.broker()
    stale = harness.directory / "wake" / "123-dead"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as dead:
        dead.bind(str(stale))
    assert stale.exists()
    await ping(harness)
    assert not stale.exists()


@pytest.mark.usefixtures("no_polling")
async def test_a_consumer_that_does_not_read_its_socket_holds_up_nobody(harness: LocalHarness) -> None:
    await harness.broker()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stuck:
        stuck.bind(str(harness.directory / "wake" / "1-stuck"))
        publisher = await harness.broker()
        for number in range(30):
            await publisher.publish("other", numbered(1, number))
        await ping(harness)


async def test_without_sockets_consumers_look_for_themselves(
    harness: LocalHarness, caplog: pytest.LogCaptureFixture
) -> None:
    await harness.broker()
    (harness.directory / "wake").rmdir()
    (harness.directory / "wake").touch()
    with pytest.raises(Exception, match="not a directory"):
        await harness.broker()
    (harness.directory / "wake").unlink()
    publisher = await harness.broker()
    consumer = await harness.broker()
    (harness.directory / "wake").rmdir()
    subscription = await consumer.subscribe(ORDERS, Assignments())
    assert "no wake-up socket" in caplog.text
    waiting = asyncio.create_task(take(subscription, 1))
    await asyncio.sleep(0.05)
    await publisher.publish("orders", numbered(1))
    assert numbers(await waiting) == [0]


async def test_a_socket_is_gone_after_stop(harness: LocalHarness) -> None:
    broker = await harness.broker()
    await broker.subscribe(ORDERS, Assignments())
    assert len(list((harness.directory / "wake").iterdir())) == 1
    await broker.stop()
    assert not list((harness.directory / "wake").iterdir())


async def test_an_idle_consumer_hardly_uses_the_processor(harness: LocalHarness) -> None:
    broker = await harness.broker()
    subscription = await broker.subscribe(ORDERS, Assignments())
    waiting = asyncio.create_task(subscription.receive(1))
    await asyncio.sleep(0.2)
    before = time.process_time()
    await asyncio.sleep(1.5)
    # A polling loop would use the whole time; waking takes about 2 ms.
    assert time.process_time() - before < 0.15
    waiting.cancel()
