"""Partitions that the group gives to one consumer and takes away."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from typing import Any

from aiokafka import ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError

from bridge.brokers.base import Listener, SubscribeOptions
from bridge.brokers.kafka import commit_metadata
from bridge.brokers.kafka.cluster import Cluster
from bridge.brokers.kafka.commits import Commits
from bridge.brokers.kafka.connection import Connection
from bridge.brokers.kafka.dead_letters import DeadLetters
from bridge.brokers.kafka.fetcher import Fetcher
from bridge.brokers.kafka.inflation import Inflation
from bridge.brokers.kafka.partition import KafkaPartition
from bridge.brokers.kafka.partition_log import PartitionLog
from bridge.brokers.kafka.rebalance_storms import RebalanceStormDetector
from bridge.errors import BrokerError, BrokerUnavailable

_log = logging.getLogger(__name__)

_RETRY_SECONDS = 0.5


class RebalanceListener(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka is not typed
    """Called by aiokafka from a task of its own, at any moment. Every assignment makes new partitions: new epochs."""

    def __init__(
        self,
        *,
        connection: Connection,
        cluster: Cluster,
        commits: Commits,
        fetcher: Fetcher,
        options: SubscribeOptions,
        listener: Listener,
        dead_letters: DeadLetters,
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
        self.consumer: Any = None
        self.partitions: dict[TopicPartition, KafkaPartition] = {}
        self.settled = asyncio.Event()
        """Set while partitions are ours, or known to be none; not while they change hands."""
        self.error: BrokerError | None = None
        """Why partitions that the group gave us cannot be read yet."""
        self.rebalances = 0
        self.gaps: Counter[str] = Counter()
        """Offsets without a record for us that were passed, by kind; see `PartitionLog`."""
        self.inflation = Inflation(connection.config.max_batch)
        self.storms = RebalanceStormDetector()

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """Finish what is in flight, commit, let go. The client joins the group again when this returns."""
        await self.release(self._connection.config.rebalance_timeout / 2)

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """The client sends no heartbeats before this returns, so the work is done beside it."""
        # The client is only the member of the group: records are read by the fetcher, from positions of our own
        self.consumer.pause(*assigned)
        self.rebalances += 1
        self.storms.note(asyncio.get_running_loop().time())
        self._task = asyncio.create_task(self._take(sorted(assigned)))

    async def release(self, limit: float, *, tell: bool = True) -> None:
        """Give all partitions up, after at most `patience` seconds and the time of one commit.

        tell: let the listener finish what is in flight.
        """
        self.settled.clear()
        self._changed()
        if self._task is not None:
            # `wait_for` may drop a cancellation that comes with its answer (Python 3.11): cancelled until it ends
            while not self._task.done():
                self._task.cancel()
                await asyncio.wait([self._task], timeout=1.0)
            self._task = None
        gone = list(self.partitions.values())
        for partition in gone:
            partition.drain()
        if not gone:
            return
        try:
            if tell:
                await self._tell(gone, limit)
            self._commits.interrupt()
            await self._commits.commit(self.consumer, gone, max(1.0, limit / 2))
        except BrokerError as error:
            _log.warning("group %s: the last commit before a hand-over failed: %s", self._options.group, error)
        finally:
            for partition in gone:
                partition.revoked = True
            self.partitions.clear()
            self._fetcher.assign({})
            self._commits.interrupt()

    async def _tell(self, gone: list[KafkaPartition], limit: float) -> None:
        try:
            async with asyncio.timeout(limit):
                await self._listener.revoked(gone)
        except TimeoutError:
            _log.warning("group %s: what is in flight did not end in %g s", self._options.group, limit)
        except Exception as error:
            _log.error("the listener failed", exc_info=error)

    async def _take(self, assigned: list[TopicPartition]) -> None:
        partitions: list[KafkaPartition] | None = None
        while partitions is None:
            try:
                partitions = await self._prepare(assigned)
            except BrokerError as error:
                self.error = error
            except Exception as error:
                # Whatever it is, partitions that are ours and not read must not look idle
                _log.error("group %s: taking partitions failed unexpectedly", self._options.group, exc_info=error)
                self.error = BrokerUnavailable(
                    f"{self._connection.name}: taking partitions failed: unexpected {type(error).__name__}, see the log"
                )
            if partitions is None:
                self._changed()
                await asyncio.sleep(_RETRY_SECONDS)
        self.error = None
        self.partitions = {partition.tp: partition for partition in partitions}
        self._fetcher.assign({partition.tp: partition.log for partition in partitions})
        if partitions:
            await self._listener.assigned(partitions)
        self.settled.set()
        self._changed()

    async def _prepare(self, assigned: list[TopicPartition]) -> list[KafkaPartition]:
        # Complete, or an error: see there
        committed = await self._cluster.committed(self._options.group, assigned)
        fresh = [tp for tp in assigned if tp not in committed]
        starts = await self._starts(fresh, {tp.topic for tp in committed})
        partitions = []
        config = self._connection.config
        for tp in assigned:
            position = committed.get(tp)
            start = starts[tp] if position is None else position.offset
            # Without a position the client would look for one of its own
            self.consumer.seek(tp, start)
            log = PartitionLog(
                tp.topic,
                tp.partition,
                start,
                limit=config.max_batch,
                low_water=config.fetch_partition_bytes // 2,
                treatment=self._options.unreadable.of,
                gaps=self.gaps,
                inflation=self.inflation,
            )
            partitions.append(
                KafkaPartition(
                    tp,
                    cluster=self._cluster.id,
                    log=log,
                    done=commit_metadata.decode(start, position.metadata or "") if position is not None else (),
                    committed=None if position is None else (position.offset, position.metadata or ""),
                    dead_letters=self._dead_letters,
                    changed=self._changed,
                )
            )
        if fresh:
            # So that `latest` is decided once, and not again after a crash
            await self._commits.commit(self.consumer, [each for each in partitions if each.committed is None])
        return partitions

    async def _starts(self, fresh: list[TopicPartition], known: Iterable[str]) -> dict[TopicPartition, int]:
        """Where partitions begin that the group has no position in.

        One that was added to a topic is read from its beginning also by `latest`: what was written to it before it was
        noticed came after the group's start.
        """
        if not fresh:
            return {}
        latest = [tp for tp in fresh if self._options.start == "latest" and tp.topic not in set(known)]
        earliest = [tp for tp in fresh if tp not in set(latest)]
        limit = self._connection.config.request_timeout
        try:
            # One lookup of all partitions: it raises when any has no answer, and moves no position of the client
            starts = await asyncio.wait_for(self.consumer.beginning_offsets(earliest), limit) if earliest else {}
            ends = await asyncio.wait_for(self.consumer.end_offsets(latest), limit) if latest else {}
        except (KafkaError, TimeoutError) as error:
            raise self._connection.translate(error, "look up the ends of topics") from error
        return {**starts, **ends}
