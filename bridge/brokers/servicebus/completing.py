"""Completion of single messages in the middle of a queue, which only hands out its messages in order."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Collection

from azure.servicebus import ServiceBusReceivedMessage
from azure.servicebus.aio import ServiceBusReceiver
from azure.servicebus.exceptions import MessageAlreadySettled

from bridge.brokers.servicebus import sdk_internals
from bridge.brokers.servicebus.connection import SDK_ERRORS, Connection
from bridge.brokers.servicebus.entity import EntityPath

_AT_ONCE = 250
_WAIT = 1.0
"""Seconds without a message after which no further one comes: others hold the rest."""
MOST_PASSED = 20_000
"""Most messages that are locked at the same time to reach those behind them."""
MOST_BYTES = 64 * 1024 * 1024
"""Most bytes of these messages."""
_RESERVE = 5.0
"""Seconds before the end of the first lock at which they are given back."""


async def complete(connection: Connection, topic: str, numbers: Collection[int]) -> int:
    """See `CompletingBroker.complete`.

    Messages of a sub-queue are passed: their number of deliveries has no limit. A queue of its own would dead-letter
    messages that are passed often, so that only its first messages are completed.
    """
    path, what = EntityPath.parse(topic), f"complete dead letters of {topic}"
    link = connection.receiver(path, 0)
    await connection.open(link, what, connection.config.request_timeout)
    try:
        try:
            if path.sub_queue is not None:
                return await _through(link, set(numbers))
            return await _front(link, set(numbers))
        except SDK_ERRORS as error:
            raise connection.translate(error, what) from error
    finally:
        await connection.close(link)


async def _through(link: ServiceBusReceiver, wanted: set[int]) -> int:
    """Complete the wanted messages of a sub-queue; give the others back at the end."""
    passed: list[ServiceBusReceivedMessage] = []
    done = size = 0
    until = float("inf")
    try:
        while wanted and len(passed) < MOST_PASSED and size < MOST_BYTES and time.time() < until:
            found = await link.receive_messages(_AT_ONCE, max_wait_time=_WAIT)
            if not found:
                break
            due = [raw for raw in found if raw.sequence_number in wanted]
            rest = [raw for raw in found if raw.sequence_number not in wanted]
            passed += rest
            size += sum(map(_size, rest))
            done += await _settled(link, due, "complete")
            wanted -= {raw.sequence_number or 0 for raw in due}
            ends = [raw.locked_until_utc.timestamp() for raw in found if raw.locked_until_utc is not None]
            until = min([until, *(end - _RESERVE for end in ends)])
        return done
    finally:
        await _settled(link, passed, "abandon")


async def _front(link: ServiceBusReceiver, wanted: set[int]) -> int:
    """Complete the wanted messages that stand before all others."""
    done, following = 0, 1
    while True:
        first = await link.peek_messages(_AT_ONCE, sequence_number=following)
        due = list(itertools.takewhile(lambda raw: raw.sequence_number in wanted, first))
        if not due:
            return done
        found = await link.receive_messages(len(due), max_wait_time=_WAIT)
        mine = [raw for raw in found if raw.sequence_number in wanted]
        done += await _settled(link, mine, "complete")
        others = [raw for raw in found if raw.sequence_number not in wanted]
        await _settled(link, others, "abandon")
        if others or not mine:
            return done
        following = (mine[-1].sequence_number or 0) + 1


async def _settled(link: ServiceBusReceiver, messages: list[ServiceBusReceivedMessage], verb: str) -> int:
    """Settle messages; return the number of those that the service has accepted."""
    count = 0
    for start in range(0, len(messages), _AT_ONCE):
        part = messages[start : start + _AT_ONCE]
        results = await asyncio.gather(*(_accepted(link, raw, verb) for raw in part))
        count += sum(results)
    return count


async def _accepted(link: ServiceBusReceiver, raw: ServiceBusReceivedMessage, verb: str) -> bool:
    try:
        return await sdk_internals.settle(link, raw, verb) is None
    except MessageAlreadySettled:
        return True
    except SDK_ERRORS:
        # The lock has expired, or the connection is lost: the next call tries again
        return False


def _size(raw: ServiceBusReceivedMessage) -> int:
    try:
        return sum(map(len, raw.body))
    except (TypeError, ValueError):
        return 0
