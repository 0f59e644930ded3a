"""Service Bus as the broker of a stage: a queue with sessions on a test server in a process of its own."""

from __future__ import annotations

import random
from collections.abc import Sequence

from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient, ServiceBusSender

from tests.brokers.servicebus import poison
from tests.servicebus.process import ServerProcess
from tests.servicebus.server import QueueConfig

QUEUE = QueueConfig("orders", lock_duration=5, requires_session=True)
"""Queue with the shortest lock duration of the service, and its default of ten deliveries."""
SESSIONS = 6
CONCURRENT = 16

CONFIG = """
brokers:
  bus: {{type: servicebus, connection_string: "{connection}", connections: 50}}
sources:
  orders:
    broker: bus
    queue: {queue}
    sessions: {{concurrent: {concurrent}}}
    codec: json
    no_match: dead_letter
"""


class ServiceBusQueue:
    """Service Bus implementation of `tests.prove.stage.Broker`."""

    parts: Sequence[int] = range(SESSIONS)
    on_missing = "dead_letter"  # a waiting message has left the queue and cannot enter its dead-letter sub-queue

    def __init__(self) -> None:
        self._random = random.Random(7)
        self._kinds = sorted(poison.UNREADABLE)
        self._unreadable: set[str] = set()
        self._server: ServerProcess
        self._client: ServiceBusClient
        self._sender: ServiceBusSender

    def config(self) -> str:
        return CONFIG.format(connection=self._server.connection_string, queue=QUEUE.name, concurrent=CONCURRENT)

    def hand_written(self, engine: str) -> list[str]:
        return ["tests.prove.hand_written_servicebus", self._server.connection_string, QUEUE.name, engine]

    async def open(self) -> None:
        self._server = ServerProcess((QUEUE,))
        self._client = ServiceBusClient.from_connection_string(self._server.connection_string)
        self._sender = self._client.get_queue_sender(QUEUE.name)

    async def close(self) -> None:
        await self._sender.close()
        await self._client.close()
        self._server.stop()

    async def send(self, key: str, body: bytes, *, early: bool = False) -> None:
        assert not early, "there is one queue"
        await self._sender.send_messages(ServiceBusMessage(body, session_id=key, content_type="application/json"))

    async def send_unreadable(self, part: int) -> None:
        """Send an AMQP value that the SDK cannot decode, in a property, a field or the body; the kind changes each
        time."""
        kind = self._kinds[len(self._unreadable) % len(self._kinds)]
        message = poison.unreadable(f"k{part}", len(self._unreadable), self._random, session=True, kind=kind)
        self._unreadable.add(str(message.message_id))
        self._server.store(QUEUE.name, message)

    async def dead_letters(self) -> int:
        return len(
            self._unreadable & {dead_letter["message_id"] for dead_letter in self._server.counters()["dead_letters"]}
        )
