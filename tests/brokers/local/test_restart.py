from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from bridge.brokers.base import SubscribeOptions
from bridge.core.errors import BrokerError
from bridge.core.message import Message
from tests.brokers.consumer import CAUSE, Assignments, nothing_more, numbered, numbers, take
from tests.brokers.local.harness import LocalHarness

ORDERS = SubscribeOptions(("orders",), "bridge")


async def test_a_restart_repeats_exactly_what_was_not_done(harness: LocalHarness) -> None:
    broker = await harness.broker()
    await broker.publish("orders", numbered(30, key=b"k"))
    subscription = await broker.subscribe(ORDERS, Assignments())
    deliveries = await take(subscription, 30)
    done = {0, 1, 2, 5, 6, 7, 11, 29}
    for number in done - {6}:
        await deliveries[number].complete()
    await subscription.flush()
    await deliveries[6].dead_letter(CAUSE)
    for turn in range(2):
        # No new completion before the second restart: completions above the prefix must survive its reload.
        await harness.crash()
        again = await (await harness.broker()).subscribe(ORDERS, Assignments())
        redelivered = await take(again, 22)
        assert numbers(redelivered) == [number for number in range(30) if number not in done], turn
        await nothing_more(again, 0.1)
        await again.flush()
        if turn == 1:
            for delivery in redelivered:
                await delivery.complete()
            assert redelivered[0].partition.gap == 0
            await again.flush()
    await harness.crash()
    await nothing_more(await (await harness.broker()).subscribe(ORDERS, Assignments()))


async def test_a_dead_letter_and_its_settlement_are_one_transaction(harness: LocalHarness) -> None:
    broker = await harness.broker()
    await broker.publish("orders", numbered(1))
    [delivery] = await take(await broker.subscribe(ORDERS, Assignments()), 1)
    connection = sqlite3.connect(harness.directory / "log.db", isolation_level=None)
    before = connection.execute("SELECT * FROM positions").fetchall()
    # Without the one table the settlement fails, without the other the dead letter: each must take the other with it.
    for table in ("positions", "records"):
        connection.execute(f"ALTER TABLE {table} RENAME TO gone")
        with pytest.raises(BrokerError, match=table):
            await delivery.dead_letter(CAUSE)
        connection.execute(f"ALTER TABLE gone RENAME TO {table}")
        assert await broker.topics() == {"orders": 4}
        assert connection.execute("SELECT * FROM positions").fetchall() == before
    connection.close()
    await delivery.dead_letter(CAUSE)
    assert await broker.topics() == {"orders": 4, "orders.dlq": 4}
    assert delivery.partition.gap == 0


async def test_completions_are_committed_by_themselves(harness: LocalHarness) -> None:
    broker = await harness.broker(commit_interval="10ms")
    await broker.publish("orders", numbered(5, key=b"k"))
    subscription = await broker.subscribe(ORDERS, Assignments())
    for delivery in await take(subscription, 5):
        await delivery.complete()
    connection = sqlite3.connect(harness.directory / "log.db")
    for _ in range(1000):
        if connection.execute("SELECT sum(next) FROM positions").fetchone()[0] == 5:
            break
        await nothing_more(subscription, 0.01)
    else:
        pytest.fail("not committed in ten seconds")
    connection.close()


async def test_records_and_identity_survive_a_restart(harness: LocalHarness) -> None:
    broker = await harness.broker()
    await broker.publish("orders", [Message(b"1", b"k", (("a", b"b"),))])
    [before] = await take(await broker.subscribe(ORDERS, Assignments()), 1)
    await broker.stop()
    [after] = await take(await (await harness.broker()).subscribe(ORDERS, Assignments()), 1)
    assert (after.position, after.message) == (before.position, before.message)


async def test_two_logs_have_two_identities(tmp_path: Path) -> None:
    clusters = set()
    for name in ("a", "b"):
        harness = LocalHarness(tmp_path / name)
        broker = await harness.broker()
        await broker.publish("orders", numbered(1))
        [delivery] = await take(await broker.subscribe(ORDERS, Assignments()), 1)
        clusters.add(delivery.position.cluster)
        await harness.stop()
    assert len(clusters) == 2


async def test_a_newer_schema_is_refused_untouched(harness: LocalHarness) -> None:
    await (await harness.broker()).stop()
    with sqlite3.connect(harness.directory / "log.db") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(BrokerError, match=r"log\.db was written by a newer version .*schema 99.*upgrade"):
        await harness.broker()


async def test_a_foreign_database_is_refused_untouched(harness: LocalHarness) -> None:
    harness.directory.mkdir()
    with sqlite3.connect(harness.directory / "log.db") as connection:
        connection.execute("CREATE TABLE mine (x)")
    with pytest.raises(BrokerError, match="database of another program"):
        await harness.broker()
    assert connection.execute("SELECT name FROM sqlite_schema").fetchall() == [("mine",)]
    connection.close()


async def test_the_directory_is_private(harness: LocalHarness) -> None:
    await harness.broker()
    assert harness.directory.stat().st_mode & 0o777 == 0o700
