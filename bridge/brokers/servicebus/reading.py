"""Peeking at the messages of an entity: no message is locked, and no delivery is counted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from bridge.brokers.base import ReadOptions
from bridge.brokers.servicebus import copies
from bridge.brokers.servicebus.connection import FOREIGN, Connection
from bridge.brokers.servicebus.entity import EntityPath
from bridge.core.errors import BrokerError
from bridge.core.message import Message, Position

_AT_ONCE = 250
_POLL_SECONDS = 1.0


async def read(connection: Connection, options: ReadOptions) -> AsyncIterator[tuple[Position, Message]]:
    """See `ReadableBroker.read`. Includes scheduled and deferred messages. An entity with sessions refuses."""
    if options.partition not in (None, 0):
        raise BrokerError(f"{connection.name}: {options.topic} has no partitions")
    link = connection.receiver(EntityPath.parse(options.topic), 0)
    what = f"read {options.topic}"
    await connection.open(link, what, connection.config.request_timeout)
    try:
        # Sequence numbers begin at 1
        following, skipping = options.start if isinstance(options.start, int) else 1, options.start == "latest"
        while True:
            try:
                found = await link.peek_messages(_AT_ONCE, sequence_number=max(following, 1))
            except FOREIGN as error:
                raise connection.translate(error, what) from error
            for raw in found:
                number = raw.sequence_number or 0
                following = number + 1
                if not skipping:
                    yield Position(connection.access.namespace, options.topic, 0, number), copies.read(raw)
            if found:
                continue
            if not options.follow:
                return
            skipping = False
            await asyncio.sleep(_POLL_SECONDS)
    finally:
        await connection.close(link)
