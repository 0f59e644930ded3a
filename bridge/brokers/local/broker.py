"""The local broker: start and stop, publish and subscribe."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from bridge.brokers.base import Features, Listener, LogRanges, ReadOptions, SubscribeOptions
from bridge.brokers.local import group_positions
from bridge.brokers.local.commits import Commits
from bridge.brokers.local.database import translate
from bridge.brokers.local.encoding import CommittedPosition
from bridge.brokers.local.log import Log
from bridge.brokers.local.membership import Membership
from bridge.brokers.local.ownership import Ownership
from bridge.brokers.local.partition import LocalPartition
from bridge.brokers.local.reading import read
from bridge.brokers.local.subscription import CHECK_SECONDS, LocalSubscription
from bridge.brokers.local.threads import LogReader, LogWriter
from bridge.brokers.local.waker import Wake, Waker
from bridge.brokers.positions import GroupPosition, Move, Place
from bridge.config.model.brokers import LocalBrokerConfig
from bridge.config.model.sources import DEAD_LETTER_TOPIC
from bridge.core.errors import BrokerError, BrokerUnavailable
from bridge.core.message import Message, Position
from bridge.system import private
from bridge.system.tasks import cancelled

_log = logging.getLogger(__name__)

REVOKE_SECONDS = 10.0
"""Seconds for which a partition that moves to another member may wait for deliveries in flight."""

POLL_SECONDS = 0.25
"""Seconds between polls for records where a consumer cannot be woken."""

EXPIRE_RECORDS = 500
"""Most records of a partition deleted in one transaction; a small number keeps waits of publishers short."""


class LocalBroker:
    """Implementation of `bridge.brokers.base.Broker` on one directory, shared by processes of this machine."""

    features = Features(groups=True)

    def __init__(
        self, name: str, directory: Path, config: LocalBrokerConfig, *, revoke_timeout: float = REVOKE_SECONDS
    ) -> None:
        """Create a local broker.

        directory: place of the log; `config.path` is not used.
        revoke_timeout: seconds for the release of partitions.
        """
        self.name = name
        self._directory = directory
        self._config = config
        self._revoke_timeout = revoke_timeout
        self._waker = Waker(directory, self._wake)
        self._writer = LogWriter(directory, lambda: self._waker.notify(Wake.RECORDS))
        self._reader = LogReader(directory)
        self._subscriptions: set[LocalSubscription] = set()
        self._cluster = ""
        self._expiry: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """See `Broker.start`. Creates a missing directory, and makes it and its files private to this user.

        Raises: BrokerUnavailable, BrokerError when the log is of a newer version of the bridge.
        """
        try:
            await asyncio.to_thread(private.directory, self._directory)
            self._waker.start()
        except OSError as error:
            raise translate(error, self._directory) or error from error
        self._reader.start()
        self._writer.start()
        try:
            # On the writer: a log that cannot be written fails now
            self._cluster = await self._writer.submit(Log.cluster)
        except BaseException:
            await self.stop()
            raise
        if self._config.retention is not None:
            self._expiry = asyncio.create_task(self._expire(self._config.retention))

    async def stop(self) -> None:
        """See `Broker.stop`. Closes open subscriptions."""
        await cancelled(self._expiry)
        self._expiry = None
        for subscription in tuple(self._subscriptions):
            await subscription.close()
        await self._writer.stop()
        await self._reader.stop()
        self._waker.stop()

    async def publish(self, topic: str, messages: Sequence[Message]) -> Sequence[Position]:
        """See `Broker.publish`. Either all messages are written, or none. A missing topic is created.

        Records with one key go to one partition, the same in every process; those without a key are distributed over
        all.
        """
        given, partitions = tuple(messages), self._config.partitions
        if not given:
            return []
        places = await self._writer.submit(lambda log: log.append(topic, given, partitions))
        return [Position(self._cluster, topic, partition, offset) for partition, offset in places]

    async def topics(self) -> dict[str, int]:
        """Number of partitions by topic. Raises: BrokerUnavailable."""
        return await self._reader.query(lambda log: log.topics())

    async def start_reading(self) -> None:
        """See `BacklogBroker.start_reading`. Without a log, no topic has records."""
        self._reader.start(reads_only=True)

    async def backlog(self, options: SubscribeOptions) -> dict[tuple[str, int], int]:
        """See `BacklogBroker.backlog`."""
        return {each.place: each.lag for each in await self.positions(options)}

    async def positions(self, options: SubscribeOptions) -> list[GroupPosition]:
        """See `PositionedBroker.positions`."""
        return await group_positions.positions(self._reader, self._directory, options)

    async def offsets_at(self, places: Mapping[Place, GroupPosition], time: float) -> dict[Place, int]:
        """See `PositionedBroker.offsets_at`."""
        return await group_positions.offsets_at(self._reader, places, time)

    def scan(
        self, options: SubscribeOptions, ranges: dict[Place, tuple[int, int]]
    ) -> AsyncIterator[tuple[Place, int, Message]]:
        """See `PositionedBroker.scan`."""
        return group_positions.scan(self._reader, ranges)

    async def move(self, options: SubscribeOptions, moves: Mapping[Place, Move]) -> None:
        """See `PositionedBroker.move`."""
        await group_positions.move(self._reader, self._writer, self._directory, options, moves)

    def read(self, options: ReadOptions) -> AsyncIterator[tuple[Position, Message]]:
        """See `ReadableBroker.read`."""
        return read(self.name, self._cluster, self._reader, options)

    async def ranges(self, topic: str) -> LogRanges:
        """See `LogBroker.ranges`."""
        ids = await self._reader.query(lambda log: log.partitions(topic))
        if not ids:
            raise BrokerError(f"{self.name}: there is no topic {topic}")
        found = await self._reader.query(lambda log: log.ranges(ids))
        return LogRanges(self._cluster, {number: found[key] for number, key in enumerate(ids)}, whole=True)

    async def subscribe(self, options: SubscribeOptions, listener: Listener) -> LocalSubscription:
        """See `Broker.subscribe`. Missing topics are created. Raises: BrokerUnavailable."""
        latest, count = options.start == "latest", self._config.partitions
        places = await self._writer.submit(lambda log: log.enter(options.group, options.topics, count, latest))
        self._waker.listen()
        commits = Commits(self._writer, options.group, self._config.commit_interval)

        def make(key: int, topic: str, number: int, committed: CommittedPosition, stamp: int) -> LocalPartition:
            return LocalPartition(
                partition=key,
                topic=topic,
                number=number,
                cluster=self._cluster,
                committed=committed,
                commits=commits,
                dead_letter_topic=(options.dead_letter or DEAD_LETTER_TOPIC).replace("{topic}", topic),
                new_topic_partitions=count,
                treatment=options.unreadable.of,
                changed=subscription.changed,
                stamp=stamp,
            )

        ownership = Ownership(
            membership=Membership(self._directory, options.group, options.topics),
            places=places,
            reader=self._reader,
            waker=self._waker,
            listener=listener,
            commits=commits,
            make=make,
            revoke_timeout=self._revoke_timeout,
        )
        subscription = LocalSubscription(
            ownership=ownership,
            commits=commits,
            reader=self._reader,
            check=CHECK_SECONDS if self._waker.listening else POLL_SECONDS,
            closed=lambda: self._subscriptions.discard(subscription),
        )
        self._subscriptions.add(subscription)
        try:
            await subscription.start()
        except BaseException:
            self._subscriptions.discard(subscription)
            raise
        return subscription

    def _wake(self, wake: Wake) -> None:
        for subscription in self._subscriptions:
            subscription.wake(wake)

    async def _expire(self, retention: float) -> None:
        while True:
            pause = min(max(retention / 10, 1.0), 60.0)
            try:
                if await self._writer.submit(lambda log: log.expire(time.time() - retention, EXPIRE_RECORDS)):
                    # There may be more expired records, but publishers have priority
                    pause = 0.01
            except BrokerUnavailable as error:
                _log.warning("local broker %s: expired records are not deleted yet: %s", self.name, error)
            await asyncio.sleep(pause)
