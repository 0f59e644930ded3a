"""Assignment and revocation of one consumer's partitions by its group."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from aiokafka import ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError

from bridge.brokers.base import Listener, SubscribeOptions
from bridge.brokers.kafka.cluster import Cluster
from bridge.brokers.kafka.commits import Commits, decode_metadata, decode_stamp, encode_metadata
from bridge.brokers.kafka.connection import Connection
from bridge.brokers.kafka.detectors import RebalanceStormDetector
from bridge.brokers.kafka.fetcher import Fetcher
from bridge.brokers.kafka.log.compression import OpenBatches
from bridge.brokers.kafka.log.partition_log import PartitionLog
from bridge.brokers.kafka.offset_lookup import look_up
from bridge.brokers.kafka.partition import KafkaPartition
from bridge.brokers.kafka.producer import DeadLetterProducer
from bridge.brokers.positions import Move, Moved, kept_done
from bridge.core.errors import BridgeError, BrokerError, BrokerUnavailable
from bridge.system.tasks import cancelled

_log = logging.getLogger(__name__)

_RETRY_SECONDS = 0.5


class RebalanceListener(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka is not typed
    """Listener that aiokafka calls from its own task, at any moment. Every assignment creates new partition objects."""

    def __init__(
        self,
        *,
        connection: Connection,
        cluster: Cluster,
        commits: Commits,
        fetcher: Fetcher,
        options: SubscribeOptions,
        listener: Listener,
        dead_letters: DeadLetterProducer,
        changed: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._cluster = cluster
        self._commits = commits
        self._fetcher = fetcher
        self._options = options
        self._listener = listener
        self._dead_letters = dead_letters
        self._changed = changed
        self._task: asyncio.Task[None] | None = None
        self._moving: asyncio.Task[dict[TopicPartition, Moved]] | None = None
        self._consumer: Any = None
        self.partitions: dict[TopicPartition, KafkaPartition] = {}
        self.settled = asyncio.Event()
        """Set while the assignment is known, even when it is empty; cleared during a rebalance."""
        self.error: BrokerError | None = None
        """Reason for which assigned partitions cannot be read yet."""
        self.rebalances = 0
        self.gaps: Counter[str] = Counter()
        """Passed offsets without a record for a consumer, by kind; see `PartitionLog`."""
        self.open_batches = OpenBatches(connection.config.max_batch)
        self.storms = RebalanceStormDetector()

    def attach(self, consumer: Any) -> None:
        """Use this client from now on."""
        self._consumer = consumer

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """Finish deliveries in flight, commit and release. The client joins the group again when this returns."""
        await self.release(self._connection.config.rebalance_timeout / 2)

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """Prepare the assigned partitions in a separate task, because the client sends no heartbeats before this
        returns.
        """
        # The client is only the member of the group: the fetcher reads records, from the bridge's own positions
        self._consumer.pause(*assigned)
        self.rebalances += 1
        self.storms.note(asyncio.get_running_loop().time())
        self._task = asyncio.create_task(self._take(sorted(assigned)))

    async def release(self, limit: float, *, notify: bool = True) -> None:
        """Release all partitions, after at most `limit` seconds and the time of one commit.

        notify: let the listener finish deliveries in flight.
        """
        self.settled.clear()
        self._changed()
        await cancelled(self._task, self._moving)
        self._task = self._moving = None
        gone = list(self.partitions.values())
        for partition in gone:
            partition.drain()
        if not gone:
            return
        try:
            if notify:
                await self._notify(gone, limit)
            self._commits.interrupt()
            await self._commits.commit(self._consumer, gone, max(1.0, limit / 2))
        except BrokerError as error:
            _log.warning("group %s: the last commit before a rebalance failed: %s", self._options.group, error)
        finally:
            for partition in gone:
                partition.revoke()
            self.partitions.clear()
            self._fetcher.assign({})
            self._commits.interrupt()

    async def _notify(self, gone: list[KafkaPartition], limit: float) -> None:
        try:
            async with asyncio.timeout(limit):
                await self._listener.revoked(gone)
        except TimeoutError:
            _log.warning(
                "group %s: the records in flight were not settled within %g s; the next owner of their partitions "
                "repeats them. If this repeats, raise `rebalance_timeout`",
                self._options.group, limit,
            )  # fmt: skip
        except Exception as error:
            _log.error(
                "group %s: the records of revoked partitions were not settled", self._options.group, exc_info=error
            )

    async def move(self, moves: Mapping[TopicPartition, Move], limit: float) -> dict[TopicPartition, Moved]:
        """See `MovableSubscription.move`. A rebalance ends it; its result then lacks the partitions.

        limit: seconds for the listener to finish deliveries in flight. One call at a time.
        """
        if not self.settled.is_set():
            return {}
        self._moving = moving = asyncio.create_task(self._move(moves, limit))
        try:
            await asyncio.wait({moving})
        finally:
            moving.cancel()
        return {} if moving.cancelled() else moving.result()

    async def _move(self, moves: Mapping[TopicPartition, Move], limit: float) -> dict[TopicPartition, Moved]:
        old = [each for tp, move in moves.items() if (each := self.partitions.get(tp)) and each.stamp < move.stamp]
        before: dict[TopicPartition, int] = {}
        if old:
            for partition in old:
                partition.drain()
            await self._notify(old, limit)
            positions: dict[TopicPartition, tuple[int, str]] = {}
            for partition in old:
                # Nothing is completed from here on, and no other commit includes the partition
                partition.revoke()
                offset, done = partition.snapshot()
                move = moves[partition.tp]
                metadata = encode_metadata(move.to, kept_done(offset, done, move.to), move.stamp)
                before[partition.tp], positions[partition.tp] = offset, (move.to, metadata)
            try:
                await self._commits.move(self._consumer, positions)
            except BridgeError as error:
                _log.warning("group %s: moving its position failed: %s", self._options.group, error)
            # The broker knows whether the commit was stored
            await self._open([partition.tp for partition in old])
        found = {}
        for tp, move in moves.items():
            now = self.partitions.get(tp)
            if now is not None and now.stamp >= move.stamp:
                found[tp] = Moved(move.to, before.get(tp))
        return found

    async def _take(self, assigned: list[TopicPartition]) -> None:
        self.partitions = {}
        await self._open(assigned)
        self.settled.set()
        self._changed()

    async def _open(self, assigned: list[TopicPartition]) -> None:
        """Read the positions of assigned partitions and begin to read there. Repeats failures without end."""
        partitions: list[KafkaPartition] | None = None
        while partitions is None:
            try:
                partitions = await self._prepare(assigned)
            except BrokerError as error:
                self.error = error
            except Exception as error:
                # Assigned partitions that are not read must not look idle, whatever the error
                _log.error(
                    "group %s: the assignment of partitions failed unexpectedly", self._options.group, exc_info=error
                )
                self.error = BrokerUnavailable(
                    f"{self._connection.name}: the assignment of partitions failed: unexpected {type(error).__name__}, "
                    "see the log"
                )
            if partitions is None:
                self._changed()
                await asyncio.sleep(_RETRY_SECONDS)
        self.error = None
        self.partitions |= {partition.tp: partition for partition in partitions}
        self._fetcher.assign({tp: partition.log for tp, partition in self.partitions.items()})
        if partitions:
            await self._listener.assigned(partitions)
        self._changed()

    async def _prepare(self, assigned: list[TopicPartition]) -> list[KafkaPartition]:
        # Complete, or an error: see `Cluster.committed`
        committed = await self._cluster.committed(self._options.group, assigned)
        fresh = [tp for tp in assigned if tp not in committed]
        starts = await self._starts(fresh, {tp.topic for tp in committed})
        partitions = []
        config = self._connection.config
        for tp in assigned:
            position = committed.get(tp)
            start = starts[tp] if position is None else position.offset
            metadata = "" if position is None else position.metadata or ""
            # Without a position the client would look up one of its own
            self._consumer.seek(tp, start)
            log = PartitionLog(
                tp.topic,
                tp.partition,
                start,
                bounds=self._connection.bounds,
                low_water=config.fetch_partition_bytes // 2,
                treatment=self._options.unreadable.of,
                gaps=self.gaps,
                open_batches=self.open_batches,
            )
            partitions.append(
                KafkaPartition(
                    tp,
                    cluster=self._cluster.id,
                    log=log,
                    done=decode_metadata(start, metadata),
                    committed=None if position is None else (position.offset, metadata),
                    dead_letters=self._dead_letters,
                    changed=self._changed,
                    stamp=decode_stamp(metadata),
                )
            )
        if fresh:
            # Decides `latest` once, and not again after a crash
            await self._commits.commit(self._consumer, [each for each in partitions if each.committed is None])
        return partitions

    async def _starts(self, fresh: list[TopicPartition], known: Iterable[str]) -> dict[TopicPartition, int]:
        """Start offsets of partitions in which the group has no position.

        A partition that was added to a known topic is read from its beginning even with `latest`: records written
        before its discovery came after the group's start.
        """
        if not fresh:
            return {}
        latest = [tp for tp in fresh if self._options.start == "latest" and tp.topic not in set(known)]
        earliest = [tp for tp in fresh if tp not in set(latest)]
        limit = self._connection.config.request_timeout
        try:
            starts = await look_up(self._consumer.beginning_offsets, earliest, limit)
            ends = await look_up(self._consumer.end_offsets, latest, limit)
        except (KafkaError, TimeoutError) as error:
            raise self._connection.translate(error, "look up the ends of topics") from error
        return {**starts, **ends}
