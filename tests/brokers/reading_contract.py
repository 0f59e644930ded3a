"""Contract tests for readers.

A suite subclasses `ReadingContract` and provides the fixture `harness`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, cast

import pytest

from bridge.brokers.base import Broker, ReadableBroker, ReadOptions, TopicBroker
from bridge.core.errors import BrokerError
from bridge.core.message import Message, Position
from tests.brokers.consumer import ORDERS, Assignments, Harness, numbered, take
from tests.kit.waiting import TIMEOUT

Read = tuple[Position, Message]


def reading(broker: Broker, options: ReadOptions) -> AsyncIterator[Read]:
    assert isinstance(broker, ReadableBroker)
    return broker.read(options)


async def everything(broker: Broker, options: ReadOptions) -> list[Read]:
    async with asyncio.timeout(TIMEOUT):
        return [found async for found in reading(broker, options)]


class ReadingContract:
    """Reading beside consumers."""

    async def test_what_is_read_stays_as_it_was(self, harness: Harness) -> None:
        broker = await harness.broker()
        await broker.publish(
            "orders", [Message(b"%d" % n, b"key-%d" % (n % 5), (("n", b"%d" % n),)) for n in range(40)]
        )
        for _ in range(2):
            found = await everything(broker, ReadOptions("orders"))
            assert sorted(int(message.body or b"") for _, message in found) == list(range(40))
        deliveries = await take(await broker.subscribe(ORDERS, Assignments()), 40)
        assert all(delivery.attempt == 1 for delivery in deliveries)
        received = {delivery.position: delivery.message for delivery in deliveries}
        assert received == dict(found)
        for number in {position.partition for position in received}:
            offsets = [position.offset for position, _ in found if position.partition == number]
            assert offsets == sorted(offsets)

    async def test_who_consumes_notices_nothing(self, harness: Harness) -> None:
        broker, other = await harness.broker(), await harness.broker()
        assignments = Assignments()
        subscription = await broker.subscribe(ORDERS, assignments)
        await broker.publish("orders", numbered(10, 0, b"k"))
        held = await take(subscription, 10)
        assert len(await everything(other, ReadOptions("orders"))) == 10
        for delivery in held:
            await delivery.complete()
        await subscription.flush()
        await broker.publish("orders", numbered(1, 10, b"k"))
        [last] = await take(subscription, 1)
        assert (last.message.body, assignments.revoked_ever) == (b"10", [])

    async def test_consumers_get_everything_while_it_is_read(self, harness: Harness) -> None:
        broker, other = await harness.broker(), await harness.broker()
        await broker.publish("orders", numbered(20, 0, b"k"))
        async with aclosing(cast(Any, reading(other, ReadOptions("orders")))) as found:
            await anext(found)
            deliveries = await take(await broker.subscribe(ORDERS, Assignments()), 20)
            assert [delivery.attempt for delivery in deliveries] == [1] * 20

    async def test_more_than_is_read_at_once(self, harness: Harness) -> None:
        broker = await harness.broker()
        await broker.publish("orders", numbered(1_100, 0, b"k"))
        found = await everything(broker, ReadOptions("orders"))
        assert [int(message.body or b"") for _, message in found] == list(range(1_100))

    async def test_it_ends_with_what_was_there(self, harness: Harness) -> None:
        if not harness.capabilities.commits:
            return
        broker = await harness.broker()
        await broker.publish("orders", numbered(600, 0, b"k"))
        async with asyncio.timeout(TIMEOUT):
            bodies = []
            async for _, message in reading(broker, ReadOptions("orders")):
                bodies.append(int(message.body or b""))
                if len(bodies) == 1:
                    await broker.publish("orders", numbered(10, 600, b"k"))
        assert bodies == list(range(600))

    async def test_from_an_offset_on(self, harness: Harness) -> None:
        broker = await harness.broker()
        await broker.publish("orders", numbered(9, 0, b"k"))
        found = await everything(broker, ReadOptions("orders"))
        fifth = found[4][0]
        options = ReadOptions("orders", fifth.offset, fifth.partition)
        assert await everything(broker, options) == found[4:]
        beyond = ReadOptions("orders", found[-1][0].offset + 1_000, fifth.partition)
        assert await everything(broker, beyond) == []

    async def test_what_comes_is_followed(self, harness: Harness) -> None:
        broker, publisher = await harness.broker(), await harness.broker()
        await publisher.publish("orders", [Message(b"before", b"k")])

        async def follow() -> list[bytes | None]:
            async with aclosing(cast(Any, reading(broker, ReadOptions("orders", "latest", follow=True)))) as found:
                return [(await anext(found))[1].body for _ in range(3)]

        following = asyncio.create_task(follow())
        async with asyncio.timeout(TIMEOUT):
            while not following.done():
                await publisher.publish("orders", [Message(b"after", b"k")])
                await asyncio.wait([following], timeout=0.1)
        assert following.result() == [b"after"] * 3

    async def test_what_is_not_there_is_not_made(self, harness: Harness) -> None:
        broker = await harness.broker()
        with pytest.raises(BrokerError, match="nowhere"):
            await everything(broker, ReadOptions("nowhere"))
        if isinstance(broker, TopicBroker):
            assert "nowhere" not in await broker.topics()
        await broker.publish("orders", numbered(1))
        with pytest.raises(BrokerError, match="partition"):
            await everything(broker, ReadOptions("orders", partition=99))
