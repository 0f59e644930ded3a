"""The Kafka broker: start and stop, publish and subscribe."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from pathlib import Path

from bridge.brokers.base import Features, Listener, LogRanges, Positions, ReadOptions, SubscribeOptions
from bridge.brokers.kafka import group_positions
from bridge.brokers.kafka.cluster import Cluster
from bridge.brokers.kafka.connection import Connection
from bridge.brokers.kafka.offset_lookup import OffsetLookup
from bridge.brokers.kafka.producer import DeadLetterProducer, Producer
from bridge.brokers.kafka.reading import ranges, read
from bridge.brokers.kafka.subscription import KafkaSubscription
from bridge.brokers.positions import GroupPosition, Move, Place
from bridge.config.model.brokers import KafkaBrokerConfig
from bridge.config.model.sources import DEAD_LETTER_TOPIC
from bridge.core.errors import BrokerError, BrokerUnavailable, PublishFailed
from bridge.core.message import Message, Position


class KafkaBroker:
    """Implementation of `bridge.brokers.base.Broker` on a Kafka cluster."""

    features = Features(groups=True, keyless_tombstones=False)

    def __init__(self, name: str, config: KafkaBrokerConfig, resolve: Callable[[str, str], Path]) -> None:
        """Create a Kafka broker. resolve: from a field below `tls` and its value to a path."""
        self.name = name
        self._connection = Connection(name, config, resolve)
        self._cluster = Cluster(self._connection)
        self._producer = Producer(self._connection)
        self._lookup = OffsetLookup(self._connection)
        self._subscriptions: set[KafkaSubscription] = set()

    async def start(self) -> None:
        """See `Broker.start`. Raises: BrokerUnavailable, BrokerError when a certificate cannot be read."""
        await self._cluster.start()

    async def stop(self) -> None:
        """See `Broker.stop`. Closes open subscriptions."""
        for subscription in tuple(self._subscriptions):
            await subscription.close()
        await self._producer.stop()
        await self._lookup.aclose()
        await self._cluster.stop()

    async def publish(self, topic: str, messages: Sequence[Message]) -> Positions:
        """See `Broker.publish`. Records with one key go to one partition, the same that Java clients choose.

        Raises: BrokerUnavailable, PublishFailed.
        """
        if not messages:
            return []
        try:
            await self._cluster.ensure({topic})
        except BrokerUnavailable:
            raise
        except BrokerError as error:
            raise PublishFailed(str(error)) from error
        try:
            places = await self._producer.publish(topic, messages)
        except BrokerUnavailable:
            self._cluster.forget(topic)
            raise
        # Without an offset the cluster had the record before: it acknowledged a repeat
        return [Position(self.cluster, topic, *place) if place[1] >= 0 else None for place in places]

    @property
    def cluster(self) -> str:
        """See `TopicBroker.cluster`."""
        return self._cluster.id

    async def ensure(self, topics: Collection[str]) -> None:
        """See `TopicBroker.ensure`."""
        await self._cluster.ensure(topics)

    async def topics(self) -> dict[str, int]:
        """Number of partitions by topic. Raises: BrokerUnavailable."""
        return await self._cluster.topics()

    async def start_reading(self) -> None:
        """See `BacklogBroker.start_reading`."""
        await self.start()

    async def backlog(self, options: SubscribeOptions) -> dict[tuple[str, int], int]:
        """See `BacklogBroker.backlog`. Records of open and aborted transactions count."""
        return {each.place: each.lag for each in await self.positions(options)}

    async def positions(self, options: SubscribeOptions) -> list[GroupPosition]:
        """See `PositionedBroker.positions`."""
        return await group_positions.positions(self._connection, self._cluster, options)

    async def offsets_at(self, places: Mapping[Place, GroupPosition], time: float) -> dict[Place, int]:
        """See `PositionedBroker.offsets_at`."""
        return await group_positions.offsets_at(self._connection, places, time)

    def scan(
        self, options: SubscribeOptions, ranges: dict[Place, tuple[int, int]]
    ) -> AsyncIterator[tuple[Place, int, Message]]:
        """See `PositionedBroker.scan`."""
        return group_positions.scan(self._connection, self._cluster, options, ranges)

    async def move(self, options: SubscribeOptions, moves: Mapping[Place, Move]) -> None:
        """See `PositionedBroker.move`."""
        await group_positions.move(self._connection, self._cluster, options, moves)

    def read(self, options: ReadOptions) -> AsyncIterator[tuple[Position, Message]]:
        """See `ReadableBroker.read`."""
        return read(self._connection, self._cluster, options)

    async def ranges(self, topic: str) -> LogRanges:
        """See `LogBroker.ranges`."""
        return await ranges(self._connection, self._cluster, self._lookup, topic)

    async def subscribe(self, options: SubscribeOptions, listener: Listener) -> KafkaSubscription:
        """See `Broker.subscribe`. Returns once the group has assigned partitions.

        Raises: BrokerUnavailable, BrokerError when a topic is missing.
        """
        await self._cluster.ensure(options.topics)
        subscription = KafkaSubscription(
            connection=self._connection,
            cluster=self._cluster,
            options=options,
            listener=listener,
            dead_letters=DeadLetterProducer(self._cluster, self._producer, options.dead_letter or DEAD_LETTER_TOPIC),
            closed=lambda: self._subscriptions.discard(subscription),
        )
        self._subscriptions.add(subscription)
        try:
            await subscription.start()
        except BaseException:
            self._subscriptions.discard(subscription)
            raise
        return subscription
