"""Reading state of one partition: fetched records, handed-out records and unreadable records. Pure.

Only the position kept here counts. It moves when records are handed out or a gap is passed, independently of the client
library.
"""

from __future__ import annotations

import sys
from collections import Counter, deque
from collections.abc import Callable

from bridge.brokers.base import stop_reason
from bridge.brokers.kafka.log.compression import OpenBatches, TakeBudget
from bridge.brokers.kafka.log.fetch_cursor import REMEDY, FetchCursor, PartitionData
from bridge.brokers.kafka.log.record_batch import RecordBatch
from bridge.brokers.kafka.log.records import Bounds, LogMessage
from bridge.config.model.sources import OnUnreadable
from bridge.core.message import Unreadable

Treatment = Callable[[Unreadable], OnUnreadable]

LOW_WATER = 512
"""Number of fetched but not handed-out records below which more are fetched; enough work for the duration of one
fetch."""


class PartitionLog:
    """Ordered reading of one partition from `start` on.

    cursor: decides the next fetch.
    position: offset of the next record to hand out.
    """

    def __init__(
        self,
        topic: str,
        number: int,
        start: int,
        *,
        bounds: Bounds,
        low_water: int,
        treatment: Treatment,
        gaps: Counter[str] | None = None,
        open_batches: OpenBatches | None = None,
    ) -> None:
        """Start reading at `start`.

        bounds: of one batch.
        low_water: bytes fetched and not handed out below which more are fetched.
        treatment: of messages that cannot be parsed.
        gaps: counter of offsets without a record for a consumer, by kind: `control`, `aborted`, `compacted`, and
        `deleted` for those before the start of the log.
        open_batches: decompressed bytes of all partitions of the consumer; None: of this partition alone.
        """
        self.topic = topic
        self.number = number
        self.position = start
        self.cursor = FetchCursor(start, low_water)
        self.end: int | None = None
        """High watermark; None before the first answer."""
        self.stopped = ""
        """Reason why nothing more is read, as a sentence for a person; empty while reading continues."""
        self._bounds = bounds
        self._low_water = low_water
        self._treatment = treatment
        self._gaps: Counter[str] = Counter() if gaps is None else gaps
        self._open_batches = open_batches or OpenBatches(bounds.size)
        self._batches: deque[RecordBatch] = deque()
        self._count = self._bytes = 0
        self._blocked = False
        """True behind a damaged batch: the beginning of the next one is unknown."""
        self._stopped_time: float | None = None
        """Time of the message that stopped the partition."""
        self._taken_time: float | None = None
        """Time of the record before the position, where both are in one batch."""

    def __str__(self) -> str:
        return f"{self.topic}/{self.number}"

    @property
    def wants(self) -> bool:
        """True when more is to be fetched."""
        if self.stopped or self._blocked:
            return False
        return self._count < LOW_WATER and self._bytes < self._low_water

    @property
    def empty(self) -> bool:
        """True when no fetched record waits to be handed out."""
        return not self._batches

    @property
    def next_time(self) -> float | None:
        """Time of the next record to hand out, in seconds since the Unix epoch; None while it is not fetched, or where
        its time is unknown.

        Within a batch, the time of the record before, since only the time of the first one is in its header.
        """
        if not self._batches:
            return self._stopped_time
        if self._taken_time is not None:
            return self._taken_time
        return next((batch.time for batch in self._batches if batch.kind == "records"), None)

    @property
    def suspect(self) -> RecordBatch | None:
        """The damaged batch at the position that must be read again before its damage is accepted; None without one."""
        if not self._batches:
            return None
        head = self._batches[0]
        return head if head.fault is not None and not head.confirmed else None

    def accept(self, offset: int, answer: PartitionData) -> None:
        """Process the answer to a fetch from `offset`. An answer that a seek has overtaken is ignored."""
        if offset != self.cursor.fetch_offset or self._blocked or self.stopped:
            return
        self.end = answer.end
        for batch in self.cursor.accept(answer):
            self._batches.append(batch)
            self._count += batch.count
            self._bytes += len(batch.raw)
            self._blocked = batch.fault is not None

    def take(self, limit: int, budget: TakeBudget | None = None) -> list[LogMessage]:
        """Return at most `limit` messages from the position on, in order. Gaps are passed and counted.

        budget: bytes that may be handed out; the message that exceeds them is the last. None: no limit.
        """
        found: list[LogMessage] = []
        budget = budget or TakeBudget(sys.maxsize)
        while self._batches and len(found) < limit and budget.left > 0:
            batch = self._batches[0]
            if batch.compressed and not self._open_batches.admits(self):
                break
            if batch.kind != "records":
                assert batch.last is not None
                self._pass(batch.base)
                self._pass(batch.last + 1, batch.kind)
                self._leave(batch)
                continue
            if batch.fault is not None and not batch.confirmed:
                break
            for entry in batch.records(self.position, self._bounds):
                first, last, message = entry
                if message.unreadable is not None and self._treatment(message.unreadable) == "stop_partition":
                    self._stop_at(first, last, message.unreadable, message.timestamp)
                    return found
                if first > self.position:
                    self._pass(first)
                self.position = last + 1
                found.append(entry)
                budget.spend(message.size)
                if len(found) == limit or budget.left <= 0:
                    self._taken_time = message.timestamp
                    self._open_batches.note(self, batch.inflated)
                    return found
            if batch.fault is not None and not batch.confirmed:
                break
            assert batch.last is not None
            self._pass(batch.last + 1)
            self._leave(batch)
        return found

    def note_end(self, end: int) -> None:
        """Record the high watermark from a lookup, for a partition that is no longer fetched."""
        self.end = end

    def seek(self, offset: int) -> None:
        """Continue at `offset`. Fetched batches are dropped; offsets before `offset` count as deleted from the log."""
        self._forget()
        self.cursor.seek(offset)
        self._pass(offset, "deleted")
        self.position = offset
        self.stopped = ""
        self._stopped_time = None

    def reread(self, batch: RecordBatch) -> None:
        """Fetch a damaged batch and the following ones again, because another read returned different bytes."""
        if self._batches and self._batches[0] is batch:
            self._forget()
            self.cursor.restart(self.position, batch.base)

    def confirm(self, batch: RecordBatch, following: int | None) -> None:
        """Accept the damage of the batch. following: base offset of the next batch, where the damaged header cannot
        state it.
        """
        if not self._batches or self._batches[0] is not batch:
            return
        batch.confirm(self.position, None if following is None else following - 1, self._bounds)
        if following is not None:
            self._blocked = False
            self.cursor.pass_batch(following, batch.raw)

    def stop(self, reason: str) -> None:
        """Fetch nothing more until the next seek. reason: a sentence. Fetched records are still handed out."""
        self.stopped = reason

    def stop_at_damage(self, batch: RecordBatch) -> None:
        """Stop reading because the end of the damaged batch cannot be determined."""
        if self._batches and self._batches[0] is batch:
            fault = batch.fault
            assert fault is not None
            self._forget()
            self.stopped = (
                f"offset {self.position} and later ones cannot be read: {fault.detail}, and the start of the next "
                f"batch is unknown; {REMEDY}"
            )

    def _stop_at(self, first: int, last: int, unreadable: Unreadable, time: float | None) -> None:
        self._stopped_time = time
        self._forget()
        self.stopped = stop_reason((self.topic, self.number), first, last, unreadable)

    def _pass(self, offset: int, kind: str = "compacted") -> None:
        """Move the position up to `offset` over offsets without records."""
        if offset > self.position:
            self._gaps[kind] += offset - self.position
            self.position = offset

    def close(self) -> None:
        """Release decompressed data for a pause; the batch at the position is decompressed again afterwards."""
        if self._batches:
            self._batches[0].close()
            self._open_batches.note(self, 0)

    def _leave(self, batch: RecordBatch) -> None:
        self._taken_time = None
        self._open_batches.note(self, 0)
        self._batches.popleft()
        self._count -= batch.count
        self._bytes -= len(batch.raw)

    def _forget(self) -> None:
        self._taken_time = None
        self._open_batches.note(self, 0)
        self._batches.clear()
        self._count = self._bytes = 0
        self._blocked = False
