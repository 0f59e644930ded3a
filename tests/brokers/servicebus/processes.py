"""Bridge processes on one queue, and their effects."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusSender

from bridge.app.composition import build_engine, load_config
from bridge.engines.base import Engine
from tests.brokers.members import Members
from tests.kit.waiting import eventually
from tests.servicebus.process import ServerProcess
from tests.servicebus.sdk import Client
from tests.servicebus.server import QueueConfig

CONFIG = """
engine: {{type: embedded, path: {directory}/engine}}
brokers:
  bus: {{type: servicebus, connection_string: "{connection}", connections: 50, request_timeout: 5s}}
sources:
  orders:
    broker: bus
    queue: orders
    sessions: {sessions}
    codec: json
    no_match: dead_letter
    attributes: {{type: "'start'", id: payload.id}}
routes:
  - name: start
    from: orders
    match: {{type: start}}
    schedule: {{orchestration: order, instance_id: "order-{{{{ payload.id }}}}"}}
workflows: {{external: [order]}}
"""


class ConsumerProcesses(Members):
    """Members on one queue.

    The engine runs in the test process; the server and the members are processes of their own.
    """

    def __init__(self, directory: Path, server: ServerProcess, engine: Engine, sender: ServiceBusSender) -> None:
        super().__init__(directory, "tests.brokers.servicebus.member")
        self.server, self.engine, self._sender = server, engine, sender

    async def publish(self, count: int) -> None:
        """Publish numbered starts; see `Members.publish`. The keys are also the sessions."""
        await self._sender.send_messages(
            [
                ServiceBusMessage(body, session_id=str(key), content_type="application/json")
                for key, body in self.starts(count)
            ]
        )

    def counters(self) -> dict[str, Any]:
        return self.server.counters()

    def completed(self) -> int:
        return int(self.counters()["settled"].get("orders complete", 0))

    async def settled(self, seconds: float = 90.0) -> None:
        """Wait until the queue is empty. Raises: AssertionError after `seconds`."""

        def is_empty() -> bool:
            left = self.server.contents("orders")
            return not (left["active"] or left["locked"])

        await eventually(
            is_empty, lambda: f"left in the queue: {self.server.contents('orders')}", within=seconds, poll=0.1
        )

    async def check(self, *, ordered: bool = True, may_lack: int = 0) -> None:
        """Assert the effects; see `Members.check`. No message may be dead-lettered."""
        assert self.counters()["crashes"] == []
        assert self.counters()["dead_letters"] == []
        await super().check(ordered=ordered, may_lack=may_lack)


@asynccontextmanager
async def consumer_processes(directory: Path, queue: QueueConfig) -> AsyncIterator[ConsumerProcesses]:
    """Yield consumer processes on a new server. queue: its name is `orders`."""
    with ServerProcess((queue,)) as server:
        sessions = "{concurrent: 12, idle: 300ms, turn: 5s}" if queue.requires_session else "false"
        config = directory / "bridge.yaml"
        config.write_text(CONFIG.format(directory=directory, connection=server.connection_string, sessions=sessions))
        engine = build_engine(load_config([config]), "default", host=True)
        await engine.start()
        async with (
            Client.from_connection_string(server.connection_string) as client,
            client.get_queue_sender("orders") as sender,
        ):
            found = ConsumerProcesses(directory, server, engine, sender)
            try:
                yield found
            finally:
                await found.end_all()
                await engine.stop()
