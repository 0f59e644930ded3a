"""Service Bus brokers for tests: on the test server, or on the namespace in SERVICEBUS_CONNECTION."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

from azure.servicebus import ServiceBusReceiveMode

from bridge.brokers.servicebus import ServiceBusBroker
from bridge.config.model.servicebus import ServiceBusBrokerConfig
from tests.brokers.consumer import Capabilities
from tests.servicebus import namespace
from tests.servicebus.sdk import Client
from tests.servicebus.server import QueueConfig, ServiceBusServer, emulator

QUEUES = namespace.CONTRACT
"""Queues of the contract suite; tests/brokers/servicebus/entities.json defines them for the emulator."""

REAL = os.environ.get("SERVICEBUS_CONNECTION")
"""Connection string of an emulator or a namespace that has the entities of entities.json."""


def contract_queues() -> tuple[QueueConfig, ...]:
    return tuple(QueueConfig(name, lock_duration=30) for name in QUEUES)


class ServiceBusHarness:
    """Namespace and brokers on it. server: None for a namespace outside of the test process."""

    def __init__(self, connection_string: str, server: ServiceBusServer | None) -> None:
        self.connection_string = connection_string
        self.server = server
        self.capabilities = Capabilities(
            commits=False, bytes_keys=False, repeated_headers=False, timestamps=False, ordered=False,
            max_message=200 * 1024,
        )  # fmt: skip
        self._brokers: list[ServiceBusBroker] = []

    def config(self, **config: Any) -> ServiceBusBrokerConfig:
        settings = {"type": "servicebus", "connection_string": self.connection_string}
        return ServiceBusBrokerConfig.model_validate(settings | config)

    async def broker(self, **config: Any) -> ServiceBusBroker:
        """Start another broker. config: settings of `ServiceBusBrokerConfig`."""
        broker = ServiceBusBroker("bus", self.config(**config), lambda field, value: Path(value))
        self._brokers.append(broker)
        await broker.start()
        return broker

    async def crash(self) -> None:
        """Drop the clients without settlement, and let their locks expire."""
        brokers, self._brokers = self._brokers, []
        for broker in brokers:
            for subscription in tuple(broker._subscriptions):
                for task in subscription._tasks:
                    task.cancel()
                await asyncio.wait(subscription._tasks)
                for receiver in subscription._receivers:
                    receiver.partition.revoke()
                subscription._closed = True
                subscription._buffer.notify()
                broker._subscriptions.discard(subscription)
        if self.server is not None:
            self.server.faults.drop()
            self.server.faults.lose_locks()
        else:
            await asyncio.sleep(namespace.LOCK + 1)
        for broker in brokers:
            await broker.stop()

    async def create_topic(self, name: str, partitions: int) -> None:
        """Do nothing: entities are created by administrators."""

    async def clear(self) -> None:
        """Empty the queues of the contract suite on an external namespace."""
        if self.server is not None:
            return
        async with Client.from_connection_string(self.connection_string) as client:

            async def empty(name: str) -> None:
                async with client.get_queue_receiver(
                    name, receive_mode=ServiceBusReceiveMode.RECEIVE_AND_DELETE
                ) as receiver:
                    while await receiver.receive_messages(100, max_wait_time=1):
                        pass

            # The emulator accepts ten connections
            await asyncio.gather(*map(empty, QUEUES[:4]))
            await asyncio.gather(*map(empty, QUEUES[4:]))

    async def stop(self) -> None:
        for broker in self._brokers:
            await broker.stop()


def write_entities(path: Path) -> None:
    """Write the entities of tests.servicebus.namespace in the emulator's form."""
    path.write_text(json.dumps(emulator.write(namespace.QUEUES, namespace.TOPICS), indent=2) + "\n")
