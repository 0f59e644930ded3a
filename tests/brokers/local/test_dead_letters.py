"""Dead letters that the log cannot store: SQLite refuses them, with a limit lower than its usual 1 GB."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from pathlib import Path

import pytest

from bridge.brokers.base import SubscribeOptions
from bridge.brokers.local import threads
from bridge.brokers.local.database import open_database
from bridge.core import provenance
from bridge.core.errors import BrokerUnavailable
from bridge.core.message import Message
from bridge.waiting.dead_letters import DeadLetterWriter
from tests.brokers.consumer import CAUSE, Assignments, take
from tests.brokers.local.harness import LocalHarness
from tests.waiting.sample import waiting

ORDERS = SubscribeOptions(("orders",), "bridge")
DEAD = SubscribeOptions(("orders.dlq",), "operators")


def limit(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Limit the size of values and rows in writers that open the log from now on."""

    def limited(directory: Path) -> sqlite3.Connection:
        connection = open_database(directory)
        if threading.current_thread().name == threads.WRITER:
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, size)
        return connection

    monkeypatch.setattr(threads, "open_database", limited)


async def test_what_is_too_large_goes_without_what_makes_it_so(
    harness: LocalHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher = await harness.broker(partitions=1)
    body, header = b"b" * 20_000, ("h", b"h" * 20_000)
    await publisher.publish("orders", [Message(body, b"k", (("a", b"1"),)), Message(body, b"k" * 20_000, (header,))])
    limit(monkeypatch, 10_000)
    broker = await harness.broker(partitions=1)
    subscription = await broker.subscribe(ORDERS, Assignments())
    await asyncio.gather(*(each.dead_letter(CAUSE) for each in await take(subscription, 2)))
    await subscription.flush()
    first, second = sorted(
        (each.message for each in await take(await broker.subscribe(DEAD, Assignments()), 2)),
        key=lambda message: dict(message.headers)[provenance.OFFSET] or b"",
    )
    received = dict(first.headers)
    assert (first.body, first.key, received["a"], received[provenance.TRUNCATED]) == (b"", b"k", b"1", b"payload")
    received = dict(second.headers)
    assert (second.body, second.key, received[provenance.OFFSET]) == (b"", None, b"1")
    assert received[provenance.TRUNCATED] == b"payload, headers, key"
    assert sum(subscription.lag().values()) == 0


async def test_a_log_that_takes_nothing_settles_nothing(harness: LocalHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    publisher = await harness.broker(partitions=1)
    await publisher.publish("orders", [Message(b"x", b"k")])
    limit(monkeypatch, 300)
    broker = await harness.broker(partitions=1)
    subscription = await broker.subscribe(ORDERS, Assignments())
    [delivery] = await take(subscription, 1)
    with pytest.raises(BrokerUnavailable, match=r"orders/0@0 cannot be written to orders.dlq: .* larger than"):
        await delivery.dead_letter(CAUSE)
    monkeypatch.setattr(threads, "open_database", open_database)
    await delivery.dead_letter(CAUSE)
    [dead_letter] = await take(await broker.subscribe(DEAD, Assignments()), 1)
    assert dead_letter.message.body == b"x"


async def test_dead_letters_of_parked_messages_go_the_same_way(
    harness: LocalHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(monkeypatch, 10_000)
    broker = await harness.broker(partitions=1)
    write = DeadLetterWriter({"local": broker}, asyncio.get_running_loop())
    item = waiting(1).to_json()
    item["letter"] |= {"body": "b" * 20_000, "headers": [["h", "h" * 20_000]]}
    received = {"item": item, "reason": "early_expired", "detail": "too late", "error": "E", "attempts": 1}
    await asyncio.to_thread(write, received)
    [dead_letter] = await take(await broker.subscribe(DEAD, Assignments()), 1)
    received = dict(dead_letter.message.headers)
    assert (dead_letter.message.body, dead_letter.message.key) == (b"", b"k")
    assert (received[provenance.TRUNCATED], received[provenance.OFFSET]) == (b"payload, headers", b"1")
