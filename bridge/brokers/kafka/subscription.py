"""A live consumer of Kafka topics."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.errors import ConsumerStoppedError, KafkaError, NoOffsetForPartitionError, OffsetOutOfRangeError

from bridge.brokers.base import Listener, SubscribeOptions
from bridge.brokers.kafka.assignment import Assignment
from bridge.brokers.kafka.cluster import Cluster
from bridge.brokers.kafka.commits import Commits
from bridge.brokers.kafka.connection import Connection, close
from bridge.brokers.kafka.dead_letters import DeadLetters
from bridge.brokers.kafka.delivery import KafkaDelivery
from bridge.brokers.kafka.range import OutOfRange
from bridge.brokers.kafka.stalls import Stalls
from bridge.brokers.kafka.wishes import KafkaWishes
from bridge.errors import BrokerUnavailable, PartitionRevoked

_log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
"""How long one wait for records lasts; errors of the client's own tasks show at its end."""

WATCH_SECONDS = 1.0
PING_SECONDS = 10.0
"""How long nothing may be read before the cluster is asked whether it is there: the client waits silently."""

REOPEN_AFTER = 3
"""Failures in a row after which the client is replaced: its tasks do not come back from what they did not expect."""


class KafkaSubscription:
    """Implements `bridge.brokers.base.Subscription` and `ObservedSubscription`."""

    def __init__(
        self,
        *,
        connection: Connection,
        cluster: Cluster,
        options: SubscribeOptions,
        listener: Listener,
        dead_letters: DeadLetters,
        closed: Callable[[], None],
    ) -> None:
        """`closed` is called once, at the end of `close`."""
        self._connection = connection
        self._cluster = cluster
        self._options = options
        self._wishes = KafkaWishes.of(options)
        self._on_closed = closed
        self._closed = False
        self._changed = asyncio.Event()
        self._polling: asyncio.Task[Any] | None = None
        self._polled = self._read = 0.0
        self._commits = Commits(connection, options.group, self._settled)
        self._assignment = Assignment(
            connection=connection,
            cluster=cluster,
            commits=self._commits,
            options=options,
            listener=listener,
            dead_letters=dead_letters,
            changed=self._wake,
        )
        self._out_of_range = OutOfRange(self._wishes.on_out_of_range)
        self._consumer: Any = None
        self._tasks: list[asyncio.Task[None]] = []
        self._committing: asyncio.Task[None] | None = None
        self._failures = 0
        self._closing: asyncio.Task[None] | None = None
        self._away = ""
        self._stalls = Stalls()

    async def start(self) -> None:
        """Join the group. Raises: BrokerUnavailable."""
        await self._open()
        limit = self._connection.config.request_timeout
        try:
            await asyncio.wait_for(self._assignment.settled.wait(), limit)
        except TimeoutError as error:
            await self.close()
            cause = self._assignment.error
            raise cause or BrokerUnavailable(
                f"{self._connection.name}: group {self._options.group} gave no assignment within {limit:g} s"
            ) from error
        self._tasks.append(asyncio.create_task(self._watch()))

    async def _open(self) -> None:
        options, wishes, config = self._options, self._wishes, self._connection.config
        consumer = AIOKafkaConsumer(
            **self._connection.arguments,
            group_id=options.group,
            group_instance_id=wishes.instance_id,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level=wishes.isolation,
            session_timeout_ms=int(config.session_timeout * 1000),
            heartbeat_interval_ms=int(config.session_timeout * 100),
            rebalance_timeout_ms=int(config.rebalance_timeout * 1000),
            max_poll_interval_ms=int(config.max_poll_interval * 1000),
            max_partition_fetch_bytes=config.fetch_partition_bytes,
            fetch_max_bytes=config.fetch_bytes,
            partition_assignment_strategy=(RoundRobinPartitionAssignor,),
        )
        self._consumer = self._assignment.consumer = consumer
        if wishes.pattern is not None:
            consumer.subscribe(pattern=wishes.pattern, listener=self._assignment)
        else:
            consumer.subscribe(list(options.topics), listener=self._assignment)
        try:
            await self._connection.open(consumer.start)
        except BaseException:
            await close(consumer.stop)
            raise
        self._polled = self._read = asyncio.get_running_loop().time()
        self._committing = asyncio.create_task(
            self._commits.keep(consumer, lambda: list(self._assignment.partitions.values()))
        )

    async def _shut(self, *, tell: bool) -> None:
        """Commit, give the partitions up, and end the client."""
        if self._committing is not None:
            self._committing.cancel()
            await asyncio.wait([self._committing])
            self._committing = None
        await self._assignment.release(self._connection.config.rebalance_timeout / 2, tell=tell)
        await close(self._consumer.stop)

    async def receive(self, limit: int) -> Sequence[KafkaDelivery]:
        """See `Subscription.receive`."""
        while not self._closed:
            taken: list[KafkaDelivery] = []
            partitions = self._assignment.partitions
            for partition in partitions.values():
                partition.take(limit - len(taken), taken)
            if taken:
                return taken
            self._changed.clear()
            if self._assignment.error is not None:
                raise BrokerUnavailable(str(self._assignment.error))
            wanted = [tp for tp, partition in partitions.items() if partition.fetchable]
            if self._assignment.settled.is_set() and (wanted or not partitions):
                self._admit(await self._poll(wanted, limit), limit, taken)
                if taken:
                    return taken
            else:
                # Everything is paused or changing hands: the watch keeps our membership
                await self._changed.wait()
        return ()

    def _admit(self, records: Mapping[Any, list[Any]], limit: int, into: list[KafkaDelivery]) -> None:
        for tp, batch in records.items():
            partition = self._assignment.partitions.get(tp)
            # Gone when it was revoked meanwhile: the next owner reads it again
            if partition is not None:
                partition.add(batch, limit, into)

    async def _poll(self, wanted: list[Any], limit: int) -> Mapping[Any, list[Any]]:
        """Records, or none when something changed. Raises: BrokerUnavailable."""
        loop = asyncio.get_running_loop()
        consumer = self._consumer
        try:
            # Without a wait it does not suspend, so nothing can change hands before its records are taken
            records: Mapping[Any, list[Any]] = await consumer.getmany(*wanted, timeout_ms=0, max_records=limit)
            self._polled = loop.time()
            if not records:
                records = await self._wait(consumer, wanted, limit)
        except NoOffsetForPartitionError:
            return {}  # the client looked before the position was set
        except OffsetOutOfRangeError as error:
            self._out_of_range.found(error.args[0], self._assignment.partitions)
            return {}
        except (KafkaError, ConsumerStoppedError) as error:
            self._failures += 1
            if self._failures >= REOPEN_AFTER:
                self._failures = 0
                _log.warning("group %s: the client is replaced after %s", self._options.group, type(error).__name__)
                await self._shut(tell=True)
                await self._open()
            found = self._connection.translate(error, f"read as group {self._options.group}")
            # Whatever it is, it may be over at the next call
            raise BrokerUnavailable(str(found)) from error
        except Exception as error:
            _log.error("group %s: the client failed unexpectedly", self._options.group, exc_info=error)
            raise BrokerUnavailable(
                f"{self._connection.name}: read as group {self._options.group}: "
                f"unexpected {type(error).__name__}, see the log"
            ) from error
        self._failures = 0
        if records:
            self._read = loop.time()
            self._away = ""
        return records

    async def _wait(self, consumer: Any, wanted: list[Any], limit: int) -> Mapping[Any, list[Any]]:
        polling = asyncio.create_task(consumer.getmany(*wanted, timeout_ms=int(POLL_SECONDS * 1000), max_records=limit))
        changed = asyncio.create_task(self._changed.wait())
        self._polling = polling
        try:
            await asyncio.wait({polling, changed}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            if polling.done() and not polling.cancelled() and polling.exception() is None:
                for tp, batch in polling.result().items():
                    if tp in self._assignment.partitions:
                        self._assignment.partitions[tp].keep(batch)
            raise
        finally:
            self._polling = None
            changed.cancel()
            # Not done, it has taken nothing from the client and never will
            polling.cancel()
        self._polled = asyncio.get_running_loop().time()
        return polling.result() if polling.done() and not polling.cancelled() else {}

    def _settled(self) -> bool:
        return self._polling is None or not self._polling.done()

    def _wake(self) -> None:
        self._changed.set()

    async def flush(self) -> None:
        """See `Subscription.flush`."""
        try:
            await self._commits.commit(self._consumer, list(self._assignment.partitions.values()))
        except PartitionRevoked as error:
            raise BrokerUnavailable(str(error)) from error

    async def close(self) -> None:
        """See `Subscription.close`. The listener is not asked: who closes has nothing in flight, or gives it up."""
        if self._closing is None:
            self._closed = True
            self._wake()
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._shut(tell=False)
        self._on_closed()

    # -- what is watched beside the flow of records

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            if self._out_of_range.lost:
                await self._out_of_range.settle(self._consumer, self._assignment.partitions)
                self._wake()
            now = loop.time()
            lag = self.lag()
            self._stalls.look(
                {
                    tp: (partition.progress, lag.get((partition.topic, partition.number), 0) > 0)
                    for tp, partition in self._assignment.partitions.items()
                },
                now,
            )
            if self._polling is None and now - self._polled > self._connection.config.max_poll_interval / 4:
                await self._stay()
            if now - self._read > PING_SECONDS:
                await self._ping()

    async def _stay(self) -> None:
        """Tell the client that we are alive though we want no records, or it leaves the group.

        What it fetched ahead is dropped by the pause and fetched again: seldom, and it keeps memory bounded.
        """
        with contextlib.suppress(KafkaError):
            held = tuple(self._assignment.partitions)
            self._consumer.pause(*held)
            try:
                records = await asyncio.wait_for(self._consumer.getmany(timeout_ms=0), POLL_SECONDS)
            finally:
                still = [tp for tp in held if tp in self._assignment.partitions]
                self._consumer.resume(*still)
            for tp, batch in records.items():
                if tp in self._assignment.partitions:
                    self._assignment.partitions[tp].keep(batch)
        self._polled = asyncio.get_running_loop().time()

    async def _ping(self) -> None:
        try:
            await self._cluster.ping()
        except BrokerUnavailable as error:
            self._away = str(error)
        else:
            self._away = ""
            self._read = asyncio.get_running_loop().time()

    def lag(self) -> dict[tuple[str, int], int]:
        """See `Subscription.lag`."""
        found: dict[tuple[str, int], int] = {}
        for tp, partition in self._assignment.partitions.items():
            try:
                end = self._consumer.highwater(tp)
            except (KafkaError, AssertionError):
                end = None  # it is being taken away at this moment
            found[partition.topic, partition.number] = partition.lag(end)
        return found

    def stopped(self) -> dict[str, str]:
        """See `ObservedSubscription.stopped`."""
        found = {
            f"{each.topic}/{each.number}": each.stopped for each in self._assignment.partitions.values() if each.stopped
        }
        if self._away:
            found["broker"] = self._away
        restless = self._assignment.restless.told(asyncio.get_running_loop().time(), self._wishes.instance_id)
        if restless is not None:
            found["group"] = restless
        return found

    def stalled(self, seconds: float) -> dict[str, str]:
        """See `StallingSubscription.stalled`."""
        still = self._stalls.longer(seconds, asyncio.get_running_loop().time())
        return {
            f"{partition.topic}/{partition.number}": f"records wait, and none was read or settled for {still[tp]:.0f} s"
            for tp, partition in self._assignment.partitions.items()
            if tp in still
        }

    @property
    def rebalances(self) -> int:
        """See `ObservedSubscription.rebalances`."""
        return self._assignment.rebalances

    @property
    def skipped(self) -> int:
        """See `ObservedSubscription.skipped`."""
        return self._out_of_range.skipped

    @property
    def commits(self) -> tuple[int, float]:
        """See `ObservedSubscription.commits`."""
        return self._commits.count, self._commits.seconds
