"""Shorthands over the SDK client for tests of the server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from azure.servicebus import ServiceBusMessage, ServiceBusReceivedMessage
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver

from tests.kit.waiting import TIMEOUT


def body(message: ServiceBusReceivedMessage) -> str:
    return b"".join(message.body).decode()


async def send(
    client: ServiceBusClient, path: str, messages: Iterable[ServiceBusMessage | str], **details: Any
) -> None:
    """Send messages to a queue or topic.

    details: properties of messages that are given as text, such as `session_id`.
    """
    made = [one if isinstance(one, ServiceBusMessage) else ServiceBusMessage(one, **details) for one in messages]
    async with client.get_queue_sender(path) as sender:
        await sender.send_messages(made)


async def take(receiver: ServiceBusReceiver, count: int) -> list[ServiceBusReceivedMessage]:
    """Receive `count` messages in one or several calls. Raises: TimeoutError."""
    found: list[ServiceBusReceivedMessage] = []
    async with asyncio.timeout(TIMEOUT):
        while len(found) < count:
            found += await receiver.receive_messages(count - len(found), max_wait_time=5)
    return found
