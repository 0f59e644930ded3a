"""An open consumer of Kafka topics."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.errors import ConsumerStoppedError, KafkaError, NoOffsetForPartitionError, OffsetOutOfRangeError

from bridge.brokers.base import Listener, Partition, SubscribeOptions
from bridge.brokers.kafka.cluster import Cluster
from bridge.brokers.kafka.commits import Commits
from bridge.brokers.kafka.connection import Connection, close
from bridge.brokers.kafka.detectors import StalledPartitionDetector
from bridge.brokers.kafka.fetcher import Fetcher
from bridge.brokers.kafka.log.compression import TakeBudget
from bridge.brokers.kafka.offset_lookup import look_up
from bridge.brokers.kafka.partition import KafkaDelivery
from bridge.brokers.kafka.positions import OutOfRangePolicy
from bridge.brokers.kafka.producer import DeadLetterProducer
from bridge.brokers.kafka.rebalance_listener import RebalanceListener
from bridge.brokers.kafka.sdk_internals import check_group, last_heartbeat
from bridge.brokers.positions import Move, Moved, Place
from bridge.core.errors import BridgeError, BrokerError, BrokerUnavailable, PartitionRevoked
from bridge.core.message import Message
from bridge.system.tasks import cancelled

_log = logging.getLogger(__name__)

WATCH_SECONDS = 1.0
"""Seconds between checks of the client for errors of its own tasks. Each check also shows the client that the consumer
is alive."""

PING_SECONDS = 10.0
"""Seconds without records after which the cluster is pinged: the client waits silently."""

REOPEN_AFTER = 3
"""Number of consecutive failures after which the client is replaced: its tasks do not recover from unexpected
errors."""


class KafkaSubscription:
    """Implementation of `bridge.brokers.base.Subscription`, `ObservedSubscription`, `AgingSubscription`,
    `RereadableSubscription` and `bridge.brokers.positions.MovableSubscription`.
    """

    def __init__(
        self,
        *,
        connection: Connection,
        cluster: Cluster,
        options: SubscribeOptions,
        listener: Listener,
        dead_letters: DeadLetterProducer,
        closed: Callable[[], None],
    ) -> None:
        """Create a Kafka subscription. closed: called once, at the end of `close`."""
        self._connection = connection
        self._cluster = cluster
        self._options = options
        self._kafka = options.kafka
        self._on_closed = closed
        self._closed = False
        self._changed = asyncio.Event()
        self._read = 0.0
        self._opened = self._settled = 0.0
        """Times from which the group has to accept heartbeats, and to bring an assignment."""
        self._turn = 0
        self._group_error: Exception | None = None
        self._commits = Commits(connection, options.group)
        self._out_of_range = OutOfRangePolicy(self._kafka.on_out_of_range)
        self._fetcher = Fetcher(
            connection,
            isolation=self._kafka.isolation,
            wake=self._wake,
            out_of_range=lambda tp, offset: self._out_of_range.found(tp, offset, self._assignment.partitions.get(tp)),
        )
        self._assignment = RebalanceListener(
            connection=connection,
            cluster=cluster,
            commits=self._commits,
            fetcher=self._fetcher,
            options=options,
            listener=listener,
            dead_letters=dead_letters,
            changed=self._wake,
        )
        self._consumer: Any = None
        self._tasks: list[asyncio.Task[None]] = []
        self._committing: asyncio.Task[None] | None = None
        self._failures = 0
        self._gone = False
        """The client was closed, and another one has not been opened yet."""
        self._closing: asyncio.Task[None] | None = None
        self._away = ""
        self._stalls = StalledPartitionDetector()
        self._waiting_since: dict[tuple[str, int], float] = {}
        """Wall time at which a record was found to wait whose own time is unknown, by topic and partition."""

    async def start(self) -> None:
        """Join the group. Raises: BrokerUnavailable."""
        await self._fetcher.start()
        try:
            await self._open()
        except BaseException:
            await self._fetcher.stop()
            raise
        limit = self._connection.config.request_timeout
        try:
            await asyncio.wait_for(self._assignment.settled.wait(), limit)
        except TimeoutError as error:
            await self.close()
            cause = self._assignment.error
            raise cause or BrokerUnavailable(
                f"{self._connection.name}: group {self._options.group} made no assignment within {limit:g} s"
            ) from error
        self._tasks.append(asyncio.create_task(self._watch()))

    async def _open(self) -> None:
        options, kafka, config = self._options, self._kafka, self._connection.config
        consumer = AIOKafkaConsumer(
            **self._connection.arguments,
            group_id=options.group,
            group_instance_id=kafka.instance_id,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level=kafka.isolation,
            session_timeout_ms=int(config.session_timeout * 1000),
            heartbeat_interval_ms=int(config.session_timeout * 100),
            rebalance_timeout_ms=int(config.rebalance_timeout * 1000),
            max_poll_interval_ms=int(config.max_poll_interval * 1000),
            partition_assignment_strategy=(RoundRobinPartitionAssignor,),
        )
        self._consumer = consumer
        self._assignment.attach(consumer)
        if kafka.pattern is not None:
            consumer.subscribe(pattern=kafka.pattern, listener=self._assignment)
        else:
            consumer.subscribe(list(options.topics), listener=self._assignment)
        try:
            # The client waits for its first assignment without a limit
            await asyncio.wait_for(self._connection.open(consumer.start), self._longest_rebalance)
        except TimeoutError as error:
            await close(consumer)
            raise BrokerUnavailable(
                f"{self._connection.name}: group {options.group} gave no assignment within "
                f"{self._longest_rebalance:g} s"
            ) from error
        except BaseException:
            await close(consumer)
            raise
        self._read = self._opened = self._settled = asyncio.get_running_loop().time()
        self._committing = asyncio.create_task(
            self._commits.run(consumer, lambda: list(self._assignment.partitions.values()))
        )

    async def _shut(self, *, notify: bool) -> None:
        """Commit, release the partitions, and stop the client. notify: see `RebalanceListener.release`."""
        await cancelled(self._committing)
        self._committing = None
        await self._assignment.release(self._connection.config.rebalance_timeout / 2, notify=notify)
        await close(self._consumer)

    async def receive(self, limit: int) -> Sequence[KafkaDelivery]:
        """See `Subscription.receive`."""
        while not self._closed:
            taken = self._take(limit)
            if taken:
                return taken
            self._changed.clear()
            self._raise_errors()
            await self._changed.wait()
        return ()

    def _take(self, limit: int) -> list[KafkaDelivery]:
        """Deliveries of all partitions in turn; no partition starves another."""
        partitions = list(self._assignment.partitions.values())
        taken: list[KafkaDelivery] = []
        if partitions:
            self._turn = (self._turn + 1) % len(partitions)
            budget, open_batches = TakeBudget(), self._assignment.open_batches
            again = True
            while again:
                open_batches.reset()
                for partition in partitions[self._turn :] + partitions[: self._turn]:
                    partition.take(limit, taken, budget)
                    self._fetcher.probe(partition.log)
                    if len(taken) >= limit or budget.left <= 0:
                        break
                # The open batch that blocked a partition may have held nothing more
                again = open_batches.refused and not taken
        if taken:
            self._read = asyncio.get_running_loop().time()
            self._away = ""
            self._failures = 0
        return taken

    def _raise_errors(self) -> None:
        """Raise a pending error. Raises: BrokerUnavailable when the cluster refuses the group or a topic."""
        if self._assignment.error is not None:
            raise BrokerUnavailable(str(self._assignment.error))
        error = self._group_error or self._fetcher.take_error()
        self._group_error = None
        if isinstance(error, BrokerError):
            raise BrokerUnavailable(str(error)) from error
        if error is not None:
            found = self._connection.translate(error, f"read as group {self._options.group}")
            # Any such error may be gone at the next call
            raise BrokerUnavailable(str(found)) from error

    def _wake(self) -> None:
        self._changed.set()

    async def reread(
        self, partition: Partition, offsets: Sequence[int], size: int
    ) -> Sequence[tuple[int, Message | None]]:
        """See `RereadableSubscription.reread`."""
        try:
            return await self._fetcher.reread(TopicPartition(partition.topic, partition.number), offsets, size)
        except Exception as error:
            if isinstance(error, BridgeError):
                raise
            found = self._connection.translate(error, f"read {partition.topic}/{partition.number} again")
            raise BrokerUnavailable(str(found)) from error

    async def move(self, moves: Mapping[Place, Move]) -> dict[Place, Moved]:
        """See `MovableSubscription.move`."""
        given = {TopicPartition(*place): move for place, move in moves.items()}
        moved = await self._assignment.move(given, self._connection.config.rebalance_timeout / 2)
        return {(tp.topic, tp.partition): each for tp, each in moved.items()}

    async def flush(self) -> None:
        """See `Subscription.flush`."""
        try:
            await self._commits.commit(self._consumer, list(self._assignment.partitions.values()))
        except PartitionRevoked as error:
            raise BrokerUnavailable(str(error)) from error

    async def close(self) -> None:
        """See `Subscription.close`. The listener is not notified: the caller has nothing in flight, or abandons it."""
        if self._closing is None:
            self._closed = True
            self._wake()
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        await cancelled(*self._tasks)
        await self._shut(notify=False)
        await self._fetcher.stop()
        self._on_closed()

    # -- checks beside the flow of records

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        # `wait_for` may return an answer and drop a simultaneous cancellation (Python 3.11); therefore `_closed` is
        # checked
        while not self._closed:
            await asyncio.sleep(WATCH_SECONDS)
            try:
                await self._check(loop.time())
            except BrokerError as error:
                self._group_error = error
                self._wake()
            except Exception as error:
                # Nobody else replaces the client, so whatever a broker made of it must not end this
                _log.error("group %s: the client failed unexpectedly", self._options.group, exc_info=error)
                self._group_error = error
                self._wake()

    async def _check(self, now: float) -> None:
        """Raises: BrokerError."""
        if self._out_of_range.lost:
            await self._out_of_range.settle(self._consumer, self._assignment.partitions)
            self._wake()
        lag = self.lag()
        if any(lag.values()):
            self.oldest()
        else:
            self._waiting_since = {}
        self._stalls.observe(
            {
                tp: (partition.progress, lag.get((partition.topic, partition.number), 0) > 0)
                for tp, partition in self._assignment.partitions.items()
            },
            now,
        )
        if self._gone:
            await self._open()
            self._gone = False
        await self._keep_membership()
        if not self._gone and self._stuck(now):
            await self._ping()
            if self._away:
                self._opened = self._settled = now  # after an outage the client has time to go on by itself
            else:
                await self._replace(f"{self._longest_rebalance:g} s without progress of the group")
                return
        await self._check_stopped()
        if now - self._read > PING_SECONDS:
            await self._ping()

    @property
    def _longest_rebalance(self) -> float:
        """Longest duration of a rebalance in seconds, with two attempts of each part."""
        config = self._connection.config
        return 2 * (config.rebalance_timeout + config.request_timeout) + config.session_timeout

    def _stuck(self, now: float) -> bool:
        """True when the client's own tasks neither bring an assignment nor keep the place in the group."""
        if self._assignment.settled.is_set():
            self._settled = now
        beat = last_heartbeat(self._consumer)
        lost = beat is not None and now - max(beat, self._opened) > self._longest_rebalance
        return lost or now - self._settled > self._longest_rebalance

    async def _replace(self, reason: str) -> None:
        """Close the client. The next check opens another one."""
        self._failures = 0
        _log.warning("group %s: the client is replaced after %s", self._options.group, reason)
        self._gone = True
        await self._shut(notify=True)

    async def _keep_membership(self) -> None:
        """Let the client report errors of its own tasks, and show it that the consumer is alive; otherwise it leaves
        the group.

        All partitions are paused in the client, which therefore returns no records.
        """
        try:
            if self._assignment.settled.is_set():
                await asyncio.wait_for(self._consumer.getmany(timeout_ms=0), WATCH_SECONDS)
            else:
                check_group(self._consumer)
        except (NoOffsetForPartitionError, OffsetOutOfRangeError, TimeoutError):
            pass  # it looks for positions that the bridge does not use, or a rebalance is in progress
        except Exception as error:
            if not isinstance(error, KafkaError | ConsumerStoppedError):
                _log.error("group %s: the client failed unexpectedly", self._options.group, exc_info=error)
            self._failures += 1
            if self._failures >= REOPEN_AFTER:
                await self._replace(type(error).__name__)
            self._group_error = error
            self._wake()
        else:
            self._failures = 0

    async def _check_stopped(self) -> None:
        """Update the lag of stopped partitions, from which no fetch reports the end."""
        stopped = {tp: each.log for tp, each in self._assignment.partitions.items() if each.log.stopped}
        if not stopped:
            return
        try:
            ends = await look_up(self._consumer.end_offsets, list(stopped), WATCH_SECONDS)
        except (KafkaError, TimeoutError):
            return
        for tp, end in ends.items():
            stopped[tp].note_end(end)

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
        found = ((each, each.lag()) for each in self._assignment.partitions.values())
        return {(each.topic, each.number): lag for each, lag in found if lag is not None}

    def oldest(self) -> dict[tuple[str, int], float]:
        """See `AgingSubscription.oldest`. The time of a record that cannot be read is when it was found to wait."""
        now, waiting, found = time.time(), {}, {}
        for each in self._assignment.partitions.values():
            if each.lag():
                place, oldest = (each.topic, each.number), each.oldest
                if oldest is None:
                    oldest = waiting[place] = self._waiting_since.get(place, now)
                found[place] = oldest
        self._waiting_since = waiting
        return found

    def stopped(self) -> dict[str, str]:
        """See `ObservedSubscription.stopped`."""
        found = {
            f"{each.topic}/{each.number}": each.stopped for each in self._assignment.partitions.values() if each.stopped
        }
        if self._away:
            found["broker"] = self._away
        storms = self._assignment.storms.message(asyncio.get_running_loop().time(), self._kafka.instance_id)
        if storms is not None:
            found["group"] = storms
        return found

    def stalled(self, seconds: float) -> dict[str, str]:
        """See `StallingSubscription.stalled`."""
        still = self._stalls.longer(seconds, asyncio.get_running_loop().time())
        return {
            f"{partition.topic}/{partition.number}": f"records wait, but none was read or settled for {still[tp]:.0f} s"
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
    def gaps(self) -> Mapping[str, int]:
        """See `ObservedSubscription.gaps`."""
        return self._assignment.gaps

    @property
    def commits(self) -> tuple[int, float]:
        """See `ObservedSubscription.commits`."""
        return self._commits.count, self._commits.seconds
