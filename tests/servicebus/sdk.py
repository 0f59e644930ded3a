"""Shorthands over the SDK client for tests of the server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, TypeVar

from azure.servicebus import ServiceBusMessage, ServiceBusReceivedMessage
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver, ServiceBusSender

from bridge.brokers.servicebus.sdk_internals import end_keep_alive, open_without_pauses
from bridge.brokers.servicebus.security import public_authorities
from tests.kit.waiting import TIMEOUT

_Part = TypeVar("_Part", ServiceBusSender, ServiceBusReceiver)


class Client(ServiceBusClient):
    """SDK client whose senders and receivers open and close without the SDK's pauses."""

    def __init__(self, *given: Any, **options: Any) -> None:
        if options.get("ssl_context") is None and options.get("connection_verify") is None:
            options["ssl_context"] = public_authorities()
        super().__init__(*given, **options)

    def get_queue_sender(self, *path: Any, **options: Any) -> ServiceBusSender:
        return _without_pauses(super().get_queue_sender(*path, **options))

    def get_topic_sender(self, *path: Any, **options: Any) -> ServiceBusSender:
        return _without_pauses(super().get_topic_sender(*path, **options))

    def get_queue_receiver(self, *path: Any, **options: Any) -> ServiceBusReceiver:
        return _without_pauses(super().get_queue_receiver(*path, **options))

    def get_subscription_receiver(self, *path: Any, **options: Any) -> ServiceBusReceiver:
        return _without_pauses(super().get_subscription_receiver(*path, **options))


def _without_pauses(part: _Part) -> _Part:
    create, close = part._create_handler, part.close

    def create_handler(auth: Any) -> None:
        create(auth)
        open_without_pauses(part._handler)

    async def close_at_once() -> None:
        end_keep_alive(part)
        await close()

    part._create_handler = create_handler  # type: ignore[method-assign]  # of this part alone
    part.close = close_at_once  # type: ignore[method-assign]  # of this part alone
    return part


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
