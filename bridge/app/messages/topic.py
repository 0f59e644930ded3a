"""Reading of a topic of a configured broker, without effect on its consumers."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Callable
from contextlib import aclosing
from typing import Any, cast

from bridge.app.composition import build_broker, require, subscribe_options
from bridge.brokers.base import ReadableBroker, ReadOptions
from bridge.config.model.bridge import BridgeConfig
from bridge.config.model.sources import DEAD_LETTER_TOPIC
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


def near_topic(config: BridgeConfig, broker: str, topic: str) -> str | None:
    """Topic or queue of the configuration that was probably meant; None for a known one, and if none is similar."""
    known: set[str] = set()
    for source in config.sources.values():
        if source.broker == broker:
            if source.kafka is not None and source.kafka.pattern is not None:
                return None
            names = {*source.origins, source.entrance or ""}
            letters = source.dead_letter or DEAD_LETTER_TOPIC
            known |= names | {letters.replace("{topic}", name) for name in names}
    known |= {target.address for target in config.targets.values() if target.broker == broker}
    if topic in known:
        return None
    return next(iter(difflib.get_close_matches(topic, known - {""}, n=1, cutoff=0.8)), None)


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
