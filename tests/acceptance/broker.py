"""The local broker's log as another process sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from bridge.brokers.base import SubscribeOptions
from bridge.brokers.local import LocalBroker
from bridge.config.brokers import LocalBrokerConfig
from bridge.message import Message

from .daemon import PATIENCE


def publish(path: Path, topic: str, *messages: Message) -> None:
    """Put messages on a topic; they are durable on return."""

    async def run() -> None:
        broker = await _started(path)
        try:
            await broker.publish(topic, messages)
        finally:
            await broker.stop()

    asyncio.run(run())


def read(path: Path, topic: str, count: int, group: str) -> list[Message]:
    """The next `count` messages of a topic for this group, which has read them then."""

    async def run() -> list[Message]:
        broker = await _started(path)
        found: list[Message] = []
        try:
            subscription = await broker.subscribe(SubscribeOptions((topic,), group), _Listener())
            async with asyncio.timeout(PATIENCE):
                while len(found) < count:
                    for delivery in await subscription.receive(count - len(found)):
                        found.append(delivery.message)
                        await delivery.complete()
            await subscription.close()
        finally:
            await broker.stop()
        return found

    return asyncio.run(run())


async def _started(path: Path) -> LocalBroker:
    broker = LocalBroker("local", path, LocalBrokerConfig(type="local"))
    await broker.start()
    return broker


class _Listener:
    async def assigned(self, partitions: Sequence[object]) -> None:
        pass

    async def revoked(self, partitions: Sequence[object]) -> None:
        pass
