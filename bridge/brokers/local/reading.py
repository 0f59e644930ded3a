"""Reading of a topic outside of any group."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial

from bridge.brokers.base import ReadOptions
from bridge.brokers.local.log import Fetch, Log
from bridge.brokers.local.threads import LogReader
from bridge.core.errors import BrokerError
from bridge.core.message import Message, Position

READ_RECORDS, READ_BYTES = 500, 1024 * 1024
"""Number of records, and their bytes, that one read takes from each partition."""

_POLL_SECONDS = 0.25


async def read(
    name: str, cluster: str, reader: LogReader, options: ReadOptions
) -> AsyncIterator[tuple[Position, Message]]:
    """See `ReadableBroker.read`. name: of the broker."""
    topic = options.topic
    ids = await reader.query(lambda log: log.partitions(topic))
    if not ids:
        raise BrokerError(f"{name}: there is no topic {topic}")
    if options.partition is not None and options.partition not in range(len(ids)):
        raise BrokerError(f"{name}: {topic} has no partition {options.partition}; it has {len(ids)}, from 0")
    wanted = range(len(ids)) if options.ranges is None else options.ranges
    numbers = {ids[number]: number for number in wanted if options.partition in (None, number) and number < len(ids)}
    if options.ranges is None:
        ends = await reader.query(lambda log: log.ends(list(numbers)))
        following = {key: options.first(0, end) for key, end in ends.items()}
    else:
        following = {key: options.ranges[number][0] for key, number in numbers.items()}
        ends = {key: options.ranges[number][1] for key, number in numbers.items()}
    while True:
        fetches = [Fetch(key, offset, READ_RECORDS, READ_BYTES) for key, offset in following.items()]
        _, batches = await reader.query(partial(Log.fetch, partitions=list(numbers), fetches=fetches))
        seen = False
        for key, batch in batches.items():
            for offset, message in batch.messages():
                if options.follow or offset < ends[key]:
                    seen = True
                    following[key] = offset + 1
                    yield Position(cluster, topic, numbers[key], offset), message
        if seen:
            continue
        if not options.follow:
            return
        await asyncio.sleep(_POLL_SECONDS)
