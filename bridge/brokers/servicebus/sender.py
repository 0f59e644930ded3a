"""Publishing: one sender per queue or topic, replaced when it fails, with a deadline for every call."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from azure.servicebus import ServiceBusMessage, ServiceBusMessageBatch
from azure.servicebus.aio import ServiceBusSender

from bridge.brokers.servicebus.amqp.copies import outgoing
from bridge.brokers.servicebus.amqp.messages import runs
from bridge.brokers.servicebus.connection import SDK_ERRORS, Connection
from bridge.brokers.servicebus.faults import is_answer
from bridge.brokers.servicebus.sdk_internals import VALUE
from bridge.core.errors import BrokerUnavailable, PublishFailed
from bridge.core.message import Message

PROPERTY_LIMIT, PROPERTIES_LIMIT = 32 * 1024, 64 * 1024
"""Most bytes of one application property, and of all properties of a message, as the service documents them."""


class Senders:
    """All senders of a broker. Calls for one entity queue up: a link carries one send at a time."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lines: dict[str, _Line] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def publish(self, entity: str, messages: Sequence[Message]) -> None:
        """Return when the service has accepted all messages, in their order per session or partition key.

        Raises: BrokerUnavailable (some may have been accepted; duplicate detection drops the repeats by their ids),
        PublishFailed.
        """
        prefix = self._connection.config.cloudevents_prefix
        if any(message.native is not None for message in messages) and not self._connection.exact:
            raise PublishFailed("this version of azure-servicebus cannot send encoded values; remove amqp_base64")
        parts = [[outgoing(message, prefix) for message in run] for run in runs(messages)]
        line = self._lines.setdefault(entity.lower(), _Line())
        limit = self._connection.config.publish_timeout
        try:
            async with asyncio.timeout(limit), line.turn:
                for part in parts:
                    await self._send(entity, line, part)
        except TimeoutError as error:
            raise BrokerUnavailable(f"{self._connection.name}: {entity} did not confirm within {limit:g} s") from error

    async def stop(self) -> None:
        """Close all senders. Idempotent."""
        lines, self._lines = self._lines, {}
        for line in lines.values():
            self._retire(line)
        if self._closing:
            await asyncio.wait(tuple(self._closing))

    async def _send(self, entity: str, line: _Line, messages: list[ServiceBusMessage]) -> None:
        for final in (False, True):
            fresh = line.sender is None
            try:
                await self._send_batch(await self._open(entity, line), entity, messages)
            except BrokerUnavailable:
                self._retire(line)
                # An existing sender may only have been idle for too long
                if final or fresh:
                    raise
            except PublishFailed:
                raise  # an answer: the sender works
            except BaseException:
                # Deadline or cancellation: the result of the send is unknown and may never arrive
                self._retire(line)
                raise
            else:
                return

    async def _send_batch(self, sender: ServiceBusSender, entity: str, messages: list[ServiceBusMessage]) -> None:
        limit = self._connection.config.publish_timeout
        what = f"publish to {entity}"
        try:
            if len(messages) == 1:
                await sender.send_messages(messages[0], timeout=limit)
                return
            batch: ServiceBusMessageBatch | None = None
            for message in messages:
                if batch is not None:
                    try:
                        batch.add_message(message)
                        continue
                    except ValueError:  # MessageSizeExceededError is one too: the batch is full
                        await sender.send_messages(batch, timeout=limit)
                batch = await sender.create_message_batch()
                try:
                    batch.add_message(message)
                except ValueError:
                    # Alone the message may be accepted: the limit of a message is higher than that of a batch
                    batch = None
                    await sender.send_messages(message, timeout=limit)
            if batch is not None:
                await sender.send_messages(batch, timeout=limit)
        except SDK_ERRORS as error:
            found = self._connection.translate(error, what, doing="publishing", path=entity)
            if isinstance(found, BrokerUnavailable) and is_answer(error) and any(map(_has_large_properties, messages)):
                # The service has no condition of its own for this and answers with a temporary one
                raise PublishFailed(
                    f"{found}; properties of a message may have {PROPERTY_LIMIT // 1024} KiB each and "
                    f"{PROPERTIES_LIMIT // 1024} KiB together"
                ) from error
            raise found from error

    async def _open(self, entity: str, line: _Line) -> ServiceBusSender:
        if line.sender is None:
            sender = self._connection.sender(entity)
            await self._connection.open(sender, f"publish to {entity}", self._connection.config.publish_timeout)
            line.use(sender)
            return sender
        return line.sender

    def _retire(self, line: _Line) -> None:
        """Close the line's sender in the background."""
        sender = line.release()
        if sender is not None:
            closing = asyncio.create_task(self._connection.close(sender))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)


class _Line:
    """Sender of one entity, and the lock on which its callers queue."""

    __slots__ = ("sender", "turn")

    def __init__(self) -> None:
        self.sender: ServiceBusSender | None = None
        self.turn = asyncio.Lock()

    def use(self, sender: ServiceBusSender) -> None:
        """Send with this sender from now on."""
        self.sender = sender

    def release(self) -> ServiceBusSender | None:
        """Remove the sender and return it."""
        sender, self.sender = self.sender, None
        return sender


def _has_large_properties(message: ServiceBusMessage) -> bool:
    """Return whether the message exceeds the size of application properties that the service documents."""
    amqp: Any = message.raw_amqp_message
    properties: dict[Any, Any] = getattr(amqp, "encoded", amqp).application_properties or {}
    sizes = [len(name) + _size(value) for name, value in properties.items()]
    return sum(sizes) > PROPERTIES_LIMIT or any(size > PROPERTY_LIMIT for size in sizes)


def _size(value: Any) -> int:
    """Size of a property in bytes; 0 for a number or a null."""
    if isinstance(value, dict):
        value = value[VALUE]  # encoded
    return len(value.encode() if isinstance(value, str) else value) if isinstance(value, str | bytes | bytearray) else 0
