"""Reading of a topic of a configured broker, without effect on its consumers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import Any, cast

from bridge.app.composition import build_broker, require, subscribe_options
from bridge.brokers.base import ReadableBroker, ReadOptions
from bridge.config.source import Loaded
from bridge.core.message import Message, Position


def resolve(loaded: Loaded, text: str) -> tuple[str, str]:
    """Broker and topic for `SOURCE` or `BROKER/TOPIC`. Raises: LookupError."""
    config = loaded.config
    name, slash, topic = text.partition("/")
    if slash:
        require("broker", name, config.brokers)
        if not topic:
            raise LookupError(f"add the topic, like {name}/TOPIC")
        return name, topic
    require("source", name, config.sources, "a topic has the form BROKER/TOPIC")
    broker = config.sources[name].broker
    topics = subscribe_options(loaded, name).topics
    if len(topics) != 1:
        known = ", ".join(f"{broker}/{topic}" for topic in topics) or f"{broker}/TOPIC"
        raise LookupError(f"the source {name!r} reads several topics; choose one: {known}")
    return broker, topics[0]


def read(
    loaded: Loaded, broker_name: str, options: ReadOptions, limit: int | None, show: Callable[[Position, Message], None]
) -> int:
    """Read at most `limit` messages and pass each to `show`; return their number.

    Raises: BrokerError, BrokerUnavailable.
    """

    async def visit() -> int:
        broker = build_broker(loaded, broker_name)
        assert isinstance(broker, ReadableBroker)
        await broker.start()
        count = 0
        try:
            async with aclosing(cast(Any, broker.read(options))) as found:
                async for position, message in found:
                    show(position, message)
                    count += 1
                    if count == limit:
                        break
        finally:
            await broker.stop()
        return count

    return asyncio.run(visit())
