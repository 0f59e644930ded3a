"""Reading of a topic of a configured broker, without effect on its consumers."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any, cast

from bridge.app.composition import build_broker, require, subscribe_options
from bridge.brokers.base import LogBroker, ReadOptions, readable
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
            raise LookupError(f"the broker {name!r} needs a topic, like {name}/TOPIC")
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
            dead_letters = source.dead_letter or DEAD_LETTER_TOPIC
            known |= names | {dead_letters.replace("{topic}", name) for name in names}
    known |= {target.address for target in config.targets.values() if target.broker == broker}
    if topic in known:
        return None
    return next(iter(difflib.get_close_matches(topic, known - {""}, n=1, cutoff=0.8)), None)


async def messages(
    loaded: Loaded, broker_name: str, options: ReadOptions, newest: int | None = None
) -> AsyncGenerator[tuple[Position, Message]]:
    """Messages of a topic with their positions, in order within a partition.

    newest: read about so many messages, the last ones of each partition. A queue, which is no log, is read from its
    beginning.
    Raises: BrokerError, BrokerUnavailable.
    """
    broker = build_broker(loaded, broker_name)
    await broker.start()
    try:
        if newest is not None and isinstance(broker, LogBroker):
            options = replace(options, ranges=_last((await broker.ranges(options.topic)).offsets, newest))
        async with aclosing(cast(Any, readable(broker).read(options))) as found:
            async for position, message in found:
                yield position, message
    finally:
        await broker.stop()


def _last(offsets: Mapping[int, tuple[int, int]], count: int) -> dict[int, tuple[int, int]]:
    """Ranges of the last `count` offsets, with the same number in each partition that has so many."""
    found = {}
    for left, (partition, (begin, end)) in zip(
        range(len(offsets), 0, -1), sorted(offsets.items(), key=lambda each: each[1][1] - each[1][0]), strict=True
    ):
        share = min(end - begin, -(-count // left))
        found[partition] = (end - share, end)
        count -= share
    return found


def read(
    loaded: Loaded, broker_name: str, options: ReadOptions, limit: int | None, show: Callable[[Position, Message], None]
) -> int:
    """Read at most `limit` messages and pass each to `show`; return their number.

    Raises: BrokerError, BrokerUnavailable.
    """

    async def visit() -> int:
        count = 0
        async with aclosing(messages(loaded, broker_name, options)) as found:
            async for position, message in found:
                show(position, message)
                count += 1
                if count == limit:
                    break
        return count

    return asyncio.run(visit())
