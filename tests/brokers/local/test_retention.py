from __future__ import annotations

import asyncio
import sqlite3

import pytest

from bridge.brokers.base import SubscribeOptions
from bridge.core.message import Message
from tests.brokers.consumer import Assignments, numbered, numbers, take
from tests.brokers.local.harness import LocalHarness
from tests.kit.waiting import eventually

ORDERS = SubscribeOptions(("orders",), "bridge")


async def age(harness: LocalHarness, seconds: int) -> None:
    """Make every record in the log older."""
    with sqlite3.connect(harness.directory / "log.db") as connection:
        connection.execute("UPDATE records SET appended = appended - ?", (seconds,))
    connection.close()


async def until_records(harness: LocalHarness, count: int) -> None:
    connection = sqlite3.connect(harness.directory / "log.db")
    await eventually(lambda: connection.execute("SELECT count(*) FROM records").fetchone()[0] == count)
    connection.close()


async def test_old_records_go_and_consumers_go_on_at_the_oldest(
    harness: LocalHarness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("bridge.brokers.local.broker.EXPIRE_RECORDS", 10)
    publisher = await harness.broker()
    await publisher.publish("orders", numbered(45, key=b"k"))
    await age(harness, 7200)
    await publisher.publish("orders", numbered(5, 45, b"k"))
    await harness.broker(retention="1h")
    await until_records(harness, 5)
    subscription = await publisher.subscribe(ORDERS, Assignments())
    deliveries = await take(subscription, 5)
    assert numbers(deliveries) == [45, 46, 47, 48, 49]
    assert [delivery.position.offset for delivery in deliveries] == [45, 46, 47, 48, 49]
    assert "no longer has offsets 0 to 44" in caplog.text
    assert sum(subscription.lag().values()) == 5
    for delivery in deliveries:
        await delivery.complete()
    assert sum(subscription.lag().values()) == 0


async def test_offsets_go_on_after_everything_was_deleted(harness: LocalHarness) -> None:
    publisher = await harness.broker()
    await publisher.publish("orders", numbered(5, key=b"k"))
    await age(harness, 7200)
    await harness.broker(retention="1h")
    await until_records(harness, 0)
    await publisher.publish("orders", numbered(1, 5, b"k"))
    [delivery] = await take(await publisher.subscribe(ORDERS, Assignments()), 1)
    assert (numbers([delivery]), delivery.position.offset) == ([5], 5)


async def test_a_record_with_an_old_timestamp_is_not_deleted_on_arrival(harness: LocalHarness) -> None:
    broker = await harness.broker(retention="1h")
    await broker.publish("orders", [Message(b"1", b"k", timestamp=1.0)])
    await asyncio.sleep(0.1)
    assert numbers(await take(await broker.subscribe(ORDERS, Assignments()), 1)) == [1]
