"""Log of the local broker, accessed from another process."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import TracebackType

from bridge.brokers.base import SubscribeOptions
from bridge.brokers.local import LocalBroker
from bridge.brokers.local.subscription import LocalSubscription
from bridge.config.model.brokers import LocalBrokerConfig
from bridge.core.message import Message
from tests.kit.listener import NullListener
from tests.kit.waiting import TIMEOUT


class Log:
    """Publisher and reader beside a daemon that uses the same directory; a context manager."""

    def __init__(self, directory: Path) -> None:
        self._broker = LocalBroker("local", directory, LocalBrokerConfig(type="local"))
        self._subscriptions: dict[str, LocalSubscription] = {}
        self._runner = asyncio.Runner()

    def __enter__(self) -> Log:
        self._runner.run(self._broker.start())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._runner.run(self._broker.stop())
        self._runner.close()

    def publish(self, topic: str, *messages: Message) -> None:
        """Publish messages to a topic; the messages are durable on return."""
        self._runner.run(self._broker.publish(topic, messages))

    def read(self, topic: str, count: int) -> list[Message]:
        """Return the next messages of a topic."""
        return self._runner.run(self._read(topic, count))

    def count(self, topic: str) -> int:
        """Return the number of messages that a topic has had; 0 when there is no such topic."""
        return self._runner.run(self._count(topic))

    async def _count(self, topic: str) -> int:
        partitions = (await self._broker.topics()).get(topic, 0)
        if not partitions:
            return 0
        return await self._broker._writer.submit(lambda log: sum(log.ends(log.topic(topic, partitions)).values()))

    async def _read(self, topic: str, count: int) -> list[Message]:
        if topic not in self._subscriptions:
            options = SubscribeOptions((topic,), "reader")
            self._subscriptions[topic] = await self._broker.subscribe(options, NullListener())
        found: list[Message] = []
        async with asyncio.timeout(TIMEOUT):
            while len(found) < count:
                for delivery in await self._subscriptions[topic].receive(count - len(found)):
                    found.append(delivery.message)
                    await delivery.complete()
        return found
