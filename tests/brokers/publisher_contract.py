"""Contract tests for the publishing half of a broker, for brokers from which nothing can be read too.

A suite subclasses `PublisherContract` and provides the fixture `publisher`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

import pytest

from bridge.brokers.base import Broker
from bridge.core.errors import BrokerError
from bridge.core.message import Message

BODIES = [bytes(range(256)), b"", "žluťoučký kůň".encode(), b"{}", bytes(range(256)) * 4096]


class PublisherHarness(Protocol):
    """Destination for one test, and clients of it."""

    async def broker(self) -> Broker:
        """Start another client, stopped at the end of the test."""
        ...

    async def arrived(self, count: int) -> Sequence[bytes]:
        """Bodies at the destination, once there are `count`."""
        ...


class PublisherContract:
    """Publishing."""

    async def test_every_body_arrives_in_order(self, publisher: PublisherHarness) -> None:
        broker = await publisher.broker()
        await broker.publish("orders", [Message(body, b"k", message_id=f"m-{at}") for at, body in enumerate(BODIES)])
        assert list(await publisher.arrived(len(BODIES))) == BODIES

    async def test_no_message_is_no_publish(self, publisher: PublisherHarness) -> None:
        broker = await publisher.broker()
        assert not await broker.publish("orders", [])
        await broker.publish("orders", [Message(b"one", b"k")])
        assert await publisher.arrived(1) == [b"one"]

    async def test_many_publishers_at_once(self, publisher: PublisherHarness) -> None:
        brokers = [await publisher.broker() for _ in range(3)]
        sent = [b"%d" % number for number in range(60)]
        await asyncio.gather(*(brokers[n % 3].publish("orders", [Message(body, b"k")]) for n, body in enumerate(sent)))
        assert sorted(await publisher.arrived(60)) == sorted(sent)

    async def test_stop_is_idempotent_and_ends_publishing(self, publisher: PublisherHarness) -> None:
        broker = await publisher.broker()
        await broker.publish("orders", [Message(b"one", b"k")])
        await broker.stop()
        await broker.stop()
        with pytest.raises(BrokerError):
            await broker.publish("orders", [Message(b"two", b"k")])
        assert await publisher.arrived(1) == [b"one"]
