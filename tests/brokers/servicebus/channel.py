"""Service Bus channel for tests of the real daemon: a queue with sessions, through the SDK's own client."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from azure.servicebus import ServiceBusClient, ServiceBusMessage, ServiceBusSender

from bridge.core.message import Message
from tests.kit.processes import DaemonProcess
from tests.servicebus.process import ServerProcess
from tests.servicebus.server import QueueConfig

QUEUES = (
    # Every kill costs a delivery
    QueueConfig("orders", lock_duration=5, max_delivery_count=20, requires_session=True),
    QueueConfig("letters", lock_duration=5),
)


class BusChannel:
    """Queue whose sessions are the keys.

    Dead letters go to a separate queue, which messages that wait on the engine require.
    """

    completes = True
    source = "queue: orders, sessions: {concurrent: 12, idle: 300ms}, dead_letter: letters"

    def __init__(self, server: ServerProcess, client: ServiceBusClient, sender: ServiceBusSender) -> None:
        place = f'connection_string: "{server.connection_string}"'
        self.broker = f"{{type: servicebus, {place}, request_timeout: 5s, connections: 50}}"
        self.server = server
        self._client = client
        self._sender = sender

    def publish(self, messages: Sequence[Message]) -> None:
        # A batch of the SDK belongs to one session
        sent = [
            ServiceBusMessage(
                each.body,
                session_id=(each.key or b"").decode(),
                application_properties={name: (value or b"").decode() for name, value in each.headers},
            )
            for each in messages
        ]
        for start in range(0, len(sent), 200):  # of limited size
            self._sender.send_messages(sent[start : start + 200])

    def left(self, daemon: DaemonProcess) -> int:
        return sum(self.server.contents("orders").values())

    def dead_letters(self) -> list[Message]:
        assert self.server.counters()["dead_letters"] == [], "the queue's own stay empty"
        count = self.server.contents("letters")["active"]
        found: list[Any] = []
        with self._client.get_queue_receiver("letters") as receiver:
            while len(found) < count:
                for each in receiver.receive_messages(count - len(found), max_wait_time=10):
                    receiver.complete_message(each)
                    found.append(each)
        return [Message(b"".join(each.body), None, tuple(_headers(each.application_properties))) for each in found]


def _headers(properties: dict[str | bytes, object] | None) -> Iterator[tuple[str, bytes]]:
    for name, value in (properties or {}).items():
        text = value if isinstance(value, bytes) else str(value).encode()
        yield (name.decode() if isinstance(name, bytes) else name), text


@contextmanager
def bus_channel() -> Iterator[BusChannel]:
    with (
        ServerProcess(QUEUES) as server,
        ServiceBusClient.from_connection_string(server.connection_string) as client,
        client.get_queue_sender("orders") as sender,
    ):
        yield BusChannel(server, client, sender)
        assert server.counters()["crashes"] == []
