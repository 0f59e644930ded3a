"""The Service Bus broker: start and stop, publish and subscribe."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from pathlib import Path

from bridge.brokers.base import Features, Listener, ReadOptions, SubscribeOptions
from bridge.brokers.servicebus.amqp import copies
from bridge.brokers.servicebus.completing import complete
from bridge.brokers.servicebus.connection import SDK_ERRORS, Connection
from bridge.brokers.servicebus.dead_letters import DeadLetterQueue
from bridge.brokers.servicebus.entity import EntityPath
from bridge.brokers.servicebus.security import NamespaceAccess
from bridge.brokers.servicebus.sender import Senders
from bridge.brokers.servicebus.subscription import ServiceBusSubscription
from bridge.config.model.servicebus import ServiceBusBrokerConfig
from bridge.core.errors import BrokerError
from bridge.core.message import Message, Position


class ServiceBusBroker:
    """Implementation of `bridge.brokers.base.Broker` on a namespace of Azure Service Bus.

    A topic is the path of an entity: `queue`, `topic/Subscriptions/name`, either with `/$DeadLetterQueue`.
    """

    features = Features(groups=False)

    def __init__(self, name: str, config: ServiceBusBrokerConfig, resolve: Callable[[str, str], Path]) -> None:
        """Create a Service Bus broker. resolve: from a field below `tls` and its value to a path."""
        self.name = name
        self._config = config
        self._resolve = resolve
        self._connection: Connection | None = None
        self._senders: Senders | None = None
        self._subscriptions: set[ServiceBusSubscription] = set()

    async def start(self) -> None:
        """See `Broker.start`. Opens no connection yet, since connections belong to entities. Raises: BrokerError."""
        self._connection = Connection(self.name, self._config, NamespaceAccess(self.name, self._config, self._resolve))
        self._senders = Senders(self._connection)

    async def stop(self) -> None:
        """See `Broker.stop`. Closes open subscriptions."""
        for subscription in tuple(self._subscriptions):
            await subscription.close()
        senders, self._senders = self._senders, None
        if senders is not None:
            await senders.stop()
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.stop()

    async def publish(self, topic: str, messages: Sequence[Message]) -> None:
        """See `Broker.publish`. `topic` names a queue or a topic. Raises: BrokerUnavailable, PublishFailed."""
        assert self._senders is not None, "the broker is not started"
        if messages:
            await self._senders.publish(topic, messages)

    def read(self, options: ReadOptions) -> AsyncIterator[tuple[Position, Message]]:
        """See `ReadableBroker.read`."""
        return read(self._connected(), options)

    async def complete(self, topic: str, numbers: Collection[int]) -> int:
        """See `CompletingBroker.complete`."""
        return await complete(self._connected(), topic, numbers)

    async def subscribe(self, options: SubscribeOptions, listener: Listener) -> ServiceBusSubscription:
        """See `Broker.subscribe`. Raises: BrokerUnavailable when the service is away or refuses the connection."""
        assert self._senders is not None, "the broker is not started"
        queue = None if options.dead_letter is None else DeadLetterQueue(self._senders.publish, options.dead_letter)
        subscription = ServiceBusSubscription(
            connection=self._connected(),
            options=options,
            listener=listener,
            dead_letter_queue=queue,
            closed=lambda: self._subscriptions.discard(subscription),
        )
        self._subscriptions.add(subscription)
        try:
            await subscription.start()
        except BaseException:
            self._subscriptions.discard(subscription)
            raise
        return subscription

    def _connected(self) -> Connection:
        assert self._connection is not None, "the broker is not started"
        return self._connection


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
            except SDK_ERRORS as error:
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
