"""One partition during one assignment: records read ahead, handed out and completed, and their deliveries."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from bridge.brokers import dead_letter
from bridge.brokers.base import stop_reason
from bridge.brokers.local.commits import Commits
from bridge.brokers.local.encoding import CommittedPosition
from bridge.brokers.local.log import Fetch, FetchedRecords, Log, unpack
from bridge.brokers.log_partition import AssignedPartition, LogDelivery
from bridge.config.model.sources import OnUnreadable
from bridge.core.message import Message, Unreadable
from bridge.core.provenance import Cause

_log = logging.getLogger(__name__)

FETCH_RECORDS = 500
"""Number of records of one read; up to twice as many are buffered."""


class LocalPartition(AssignedPartition):
    """Implementation of `bridge.brokers.base.Partition`."""

    __slots__ = (
        "_at", "_batches", "_row", "_share", "_stopped_at", "buffered", "buffered_bytes", "commits",
        "dead_letter_topic", "end", "id", "is_end_known", "new_topic_partitions", "next_fetch", "stamp",
        "stopped", "treatment",
    )  # fmt: skip

    def __init__(
        self,
        *,
        partition: int,
        topic: str,
        number: int,
        cluster: str,
        committed: CommittedPosition,
        commits: Commits,
        dead_letter_topic: str,
        new_topic_partitions: int,
        treatment: Callable[[Unreadable], OnUnreadable],
        changed: Callable[[], None],
        stamp: int = 0,
    ) -> None:
        """Create a local partition.

        stamp: of the last move of the position; see `bridge.brokers.positions.Move`.
        treatment: of messages that cannot be parsed.
        changed: called when there may be records to hand out, or space to read more.
        """
        super().__init__(
            cluster=cluster, topic=topic, number=number, start=committed.next, done=committed.done, changed=changed
        )
        self.id = partition
        self.stamp = stamp
        self.commits = commits
        self.dead_letter_topic = dead_letter_topic
        self.new_topic_partitions = new_topic_partitions
        self.next_fetch = self.end = committed.next
        self.is_end_known = False
        """True when the end of the log was looked up; before, `end` is a guess."""
        self.buffered = 0
        self.buffered_bytes = 0
        self._share = 0
        """Bytes that may be read ahead; a single record may be larger."""
        self.treatment = treatment
        self.stopped = ""
        """Reason why nothing more is read, as a sentence for a person; empty while reading continues."""
        self._stopped_at: int | None = None
        """Time of the record that stopped the partition, in microseconds since the Unix epoch."""
        self._batches: deque[FetchedRecords] = deque()
        self._row = self._at = 0

    @property
    def lag(self) -> int:
        """Number of records up to the last known end that are not completed."""
        return max(self.end - self.next_fetch, 0) + self.buffered + self._tracker.outstanding

    @property
    def oldest(self) -> float | None:
        """Time of the oldest record that is not completed; None without one, or while it is not read yet."""
        if self._tracker.outstanding:
            return self._tracker.oldest
        stamp = self._stopped_at if not self._batches else self._batches[0].rows[self._row][1]
        return None if stamp is None else stamp / 1_000_000

    def drain(self) -> None:
        """See `AssignedPartition.drain`."""
        super().drain()
        self._batches.clear()
        self.buffered = self.buffered_bytes = 0

    @property
    def has_room(self) -> bool:
        """True when more may be read ahead."""
        return (
            self.buffered < FETCH_RECORDS
            and self.buffered_bytes < self._share
            and not self._paused
            and not self.draining
            and not self.stopped
        )

    def set_share(self, share: int) -> None:
        """Set the bytes that may be read ahead."""
        self._share = share

    def note_end(self, end: int) -> None:
        """Record the end of the log."""
        self.end, self.is_end_known = end, True

    def next_fetch_request(self) -> Fetch:
        """Next read of this partition, for use when `has_room` is true."""
        return Fetch(self.id, self.next_fetch, FETCH_RECORDS, self._share - self.buffered_bytes)

    def add(self, batch: FetchedRecords) -> None:
        """Add records that were read."""
        if self.draining or not batch.rows:
            return
        first = batch.rows[0][0]
        if first > self.next_fetch:
            _log.warning(
                "%s/%d: the log no longer has offsets %d to %d (retention); group %s continues at %d",
                self.topic, self.number, self.next_fetch, first - 1, self.commits.group, first,
            )  # fmt: skip
        self.next_fetch = batch.rows[-1][0] + 1
        self.buffered += len(batch.rows)
        self.buffered_bytes += len(batch.data)
        self._batches.append(batch)

    def take(self, limit: int) -> list[LocalDelivery]:
        """Hand out the next records in order, at most `limit`."""
        taken: list[LocalDelivery] = []
        if self._paused or self.draining:
            return taken
        if self._returned:
            self.take_returned(limit, taken, lambda message, offset: LocalDelivery(message, self, offset))
        fetched = self._tracker.fetched
        while self._batches and len(taken) < limit:
            batch = self._batches[0]
            data, row, at = batch.data, self._row, self._at
            stop = min(len(batch.rows), row + limit - len(taken))
            for described in batch.rows[row:stop]:
                message, at = unpack(data, at, described)
                unreadable = message.unreadable
                if unreadable is not None and self.treatment(unreadable) == "stop_partition":
                    self._stop(described[0], described[1], unreadable)
                    return taken
                if fetched(described[0], None, message.timestamp):
                    taken.append(LocalDelivery(message, self, described[0]))
            self.buffered -= stop - row
            self._row, self._at = stop, at
            if stop == len(batch.rows):
                self.buffered_bytes -= len(self._batches.popleft().data)
                self._row = self._at = 0
        return taken

    def _stop(self, offset: int, stamp: int, unreadable: Unreadable) -> None:
        self._stopped_at = stamp
        self._batches.clear()
        self.buffered = self.buffered_bytes = self._row = self._at = 0
        self.stopped = stop_reason((self.topic, self.number), offset, offset, unreadable)
        _log.error("%s/%d: %s", self.topic, self.number, self.stopped)

    def complete(self, offset: int) -> None:
        """Mark a delivery as completed."""
        if self._tracker.complete(offset):
            self.commits.commit_soon(self)

    def snapshot(self) -> CommittedPosition:
        """Position that may be committed now."""
        return CommittedPosition(self.prefix, tuple(self._tracker.completed_above))


class LocalDelivery(LogDelivery):
    """Implementation of `bridge.brokers.base.Delivery`."""

    __slots__ = ()

    partition: LocalPartition

    async def dead_letter(self, cause: Cause) -> None:
        """See `Delivery.dead_letter`. The dead letter and the settlement are one transaction."""
        if not self._open():
            return
        partition = self.partition
        topic, group, count = partition.dead_letter_topic, partition.commits.group, partition.new_topic_partitions
        done = CommittedPosition(0, (self._offset,))

        async def send(entry: Message) -> None:
            def work(log: Log) -> None:
                log.append(topic, (entry,), count)
                log.commit(group, partition.id, done, partition.stamp)

            written = partition.commits.writer.submit(work)
            written.add_done_callback(self._dead_lettered)
            # Cancellation of the caller must not undo the settlement by the transaction
            await asyncio.shield(written)

        await dead_letter.write(send, topic, self.message, self.position, cause)

    def _dead_lettered(self, written: asyncio.Future[None]) -> None:
        if not written.cancelled() and written.exception() is None:
            self._settled = True
            if not self.partition.revoked:
                self.partition.complete(self._offset)
