"""Damaged rows of the log: each affects only itself, and its source decides on the treatment."""

from __future__ import annotations

import sqlite3
from dataclasses import replace

import pytest

from bridge.brokers.base import Delivery, ReadOptions, SubscribeOptions, UnreadablePolicy
from bridge.brokers.local.encoding import decode_headers
from bridge.core.message import Message
from tests.brokers.consumer import Assignments, nothing_more, take
from tests.brokers.local.harness import LocalHarness, create_topic

_SPLICE = "data = CAST(substr(data, 1, length(data) - {0}) || x'ff' || substr(data, length(data) - {0} + 2) AS BLOB)"

DAMAGES = {
    "short": ("data = substr(data, 1, length(data) - 1)", "record", False),
    "long": ("data = CAST(data || x'00' AS BLOB)", "record", False),
    "key size": ("key_size = key_size + 1", "record", False),
    "negative": ("key_size = -3, body_size = body_size + 4", "record", False),
    "header length": (_SPLICE.format("headers_size"), "headers", True),
    "header name": (_SPLICE.format("(headers_size - 8)"), "headers", True),
}
"""Change of a row, resulting fault, and whether the key is still readable."""


def messages() -> list[Message]:
    return [Message(b"body %d" % number, b"k", (("name", b"value"), ("none", None))) for number in range(5)]


def damage(harness: LocalHarness, name: str) -> None:
    with sqlite3.connect(harness.directory / "log.db") as connection:
        changed = connection.execute(f"UPDATE records SET {DAMAGES[name][0]} WHERE id & 1023 = 2")
        assert changed.rowcount == 1
    connection.close()


def options(policy: str) -> SubscribeOptions:
    return SubscribeOptions(("orders",), "g", unreadable=UnreadablePolicy(policy, policy))  # type: ignore[arg-type]


def bodies(deliveries: list[Delivery]) -> list[bytes | None]:
    return [each.message.body if each.message.unreadable is None else None for each in deliveries]


@pytest.mark.parametrize("name", sorted(DAMAGES))
async def test_a_damaged_row_costs_itself(harness: LocalHarness, name: str) -> None:
    broker = await harness.broker()
    create_topic(harness.directory, "orders", 1)
    await broker.publish("orders", messages())
    damage(harness, name)
    deliveries = await take(await broker.subscribe(options("dead_letter"), Assignments()), 5)
    assert bodies(deliveries) == [b"body 0", b"body 1", None, b"body 3", b"body 4"]
    unreadable = deliveries[2].message.unreadable
    assert unreadable is not None
    assert (unreadable.fault, unreadable.key_known) == DAMAGES[name][1:]
    assert deliveries[3].message == Message(
        b"body 3", b"k", (("name", b"value"), ("none", None)), deliveries[3].message.timestamp
    )
    shown = [message async for _, message in broker.read(ReadOptions("orders"))]
    assert [message.unreadable is None for message in shown] == [True, True, False, True, True]


@pytest.mark.parametrize("name", sorted(DAMAGES))
async def test_a_partition_stops_where_the_source_says_so(harness: LocalHarness, name: str) -> None:
    broker = await harness.broker()
    create_topic(harness.directory, "orders", 1)
    times = [1_700_000_000.0 + number for number in range(5)]
    await broker.publish("orders", [replace(each, timestamp=at) for each, at in zip(messages(), times, strict=True)])
    damage(harness, name)
    subscription = await broker.subscribe(options("stop_partition"), Assignments())
    before = await take(subscription, 2)
    assert bodies(before) == [b"body 0", b"body 1"]
    await nothing_more(subscription)
    assert "stopped at offset 2" in subscription.stopped()["orders/0"]
    assert subscription.oldest() == {("orders", 0): times[0]}
    for each in before:
        await each.complete()
    assert subscription.oldest() == {("orders", 0): times[2]}


@pytest.mark.parametrize("data", [b"\0", b"\0" * 7, b"\0\0\0\1\0\0\0\0", b"\0\0\0\0\0\0\0\1", b"\0\0\0\1\0\0\0\0\xff"])
def test_headers_that_were_not_written_here_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"length|codec"):
        decode_headers(data)
