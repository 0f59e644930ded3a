"""One partition for as long as it is ours: what was read ahead, what is handed out, what is done."""

from __future__ import annotations

import logging
from bisect import insort
from collections import deque
from collections.abc import Callable

from bridge.brokers.local import headers
from bridge.brokers.local.commits import Commits
from bridge.brokers.local.delivery import LocalDelivery
from bridge.brokers.local.log import Batch, Fetch
from bridge.brokers.local.positions import CommittedPosition
from bridge.brokers.offsets import OffsetTracker
from bridge.message import Message

_log = logging.getLogger(__name__)

FETCH_RECORDS = 500
"""Records of one read; up to twice as many wait here."""


class LocalPartition:
    """Implements `bridge.brokers.base.Partition`. A new object for every assignment: the object is the epoch."""

    __slots__ = (
        "_at", "_batches", "_changed", "_paused", "_returned", "_row", "_start", "_tracker", "buffered",
        "buffered_bytes", "cluster", "commits", "dead_letter_topic", "draining", "end", "id",
        "new_topic_partitions", "next_fetch", "number", "revoked", "share", "skipped", "topic",
    )  # fmt: skip

    lost = False
    """Partitions are handed over, never lost."""

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
        changed: Callable[[], None],
    ) -> None:
        """`changed` is called when there may be something to hand out or to read again."""
        self.id = partition
        self.topic = topic
        self.number = number
        self.cluster = cluster
        self.commits = commits
        self.dead_letter_topic = dead_letter_topic
        self.new_topic_partitions = new_topic_partitions
        self.revoked = False
        self.draining = False
        self.next_fetch = self.end = self._start = committed.next
        self.buffered = 0
        self.buffered_bytes = 0
        self.share = 0
        """Bytes that may be read ahead; a single record may be larger. Set by the subscription."""
        self.skipped = 0
        self._tracker = OffsetTracker(committed.done)
        self._changed = changed
        self._paused = False
        self._batches: deque[Batch] = deque()
        self._row = self._at = 0
        self._returned: list[tuple[int, Message]] = []

    @property
    def gap(self) -> int:
        """Records handed out since the committable prefix ended; what is only read ahead does not count."""
        return self._tracker.gap

    @property
    def lag(self) -> int:
        """Records up to the end, as last known, that are not done."""
        return max(self.end - self.next_fetch, 0) + self.buffered + self._tracker.outstanding

    def pause(self) -> None:
        """Hand out no more; what is read ahead stays here."""
        self._paused = True

    def resume(self) -> None:
        """Hand out again."""
        if self._paused:
            self._paused = False
            self._changed()

    def drain(self) -> None:
        """Hand out no more, for good: the partition is about to be revoked."""
        self.draining = True
        self._batches.clear()
        self._returned.clear()
        self.buffered = self.buffered_bytes = 0

    @property
    def has_room(self) -> bool:
        """Whether more may be read ahead."""
        return (
            self.buffered < FETCH_RECORDS
            and self.buffered_bytes < self.share
            and not self._paused
            and not self.draining
        )

    def wish(self) -> Fetch:
        """What to read next, when there is room."""
        return Fetch(self.id, self.next_fetch, FETCH_RECORDS, self.share - self.buffered_bytes)

    def add(self, batch: Batch) -> None:
        """Take what was read."""
        if self.draining or not batch.rows:
            return
        first = batch.rows[0][0]
        if first > self.next_fetch:
            self.skipped += first - self.next_fetch
            _log.warning(
                "%s/%d: the log no longer has offsets %d to %d (retention); group %s goes on at %d",
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
            taken += [LocalDelivery(message, self, offset) for offset, message in self._returned[:limit]]
            del self._returned[:limit]
        fetched = self._tracker.fetched
        while self._batches and len(taken) < limit:
            batch = self._batches[0]
            data, row, at = batch.data, self._row, self._at
            stop = min(len(batch.rows), row + limit - len(taken))
            for offset, stamp, key_size, body_size, headers_size in batch.rows[row:stop]:
                key = body = None
                if key_size is not None:
                    key = data[at : at + key_size]
                    at += key_size
                if body_size is not None:
                    body = data[at : at + body_size]
                    at += body_size
                found: tuple[tuple[str, bytes], ...] = ()
                if headers_size:
                    found = headers.decode(data[at : at + headers_size])
                    at += headers_size
                if fetched(offset):
                    taken.append(LocalDelivery(Message(body, key, found, stamp / 1e6), self, offset))
            self.buffered -= stop - row
            self._row, self._at = stop, at
            if stop == len(batch.rows):
                self.buffered_bytes -= len(self._batches.popleft().data)
                self._row = self._at = 0
        return taken

    def give_back(self, offset: int, message: Message) -> None:
        """A delivery was abandoned: hand the record out again, before all later ones."""
        if not self.draining:
            insort(self._returned, (offset, message), key=lambda returned: returned[0])
            self._changed()

    def complete(self, offset: int) -> None:
        """A delivery is done."""
        if self._tracker.complete(offset):
            self.commits.soon(self)

    def snapshot(self) -> CommittedPosition:
        """What may be committed now."""
        committable = self._tracker.committable
        start = self._start if committable is None else committable
        return CommittedPosition(start, tuple(self._tracker.completed_above))
