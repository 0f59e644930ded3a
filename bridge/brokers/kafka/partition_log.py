"""Reading state of one partition: fetched records, handed-out records and unreadable records. Pure.

Only the position kept here counts. It moves when records are handed out or a gap is passed, independently of the client
library.
"""

from __future__ import annotations

import sys
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bridge.brokers.base import stop_reason
from bridge.brokers.kafka.compression import Inflation, Room
from bridge.brokers.kafka.record_batch import (
    OffsetCheck,
    RecordBatch,
    base_at,
    begins_whole,
    check_offsets,
    is_cut,
    split,
)
from bridge.brokers.kafka.records import Bounds, LogMessage
from bridge.config.model.sources import OnUnreadable
from bridge.core.message import Unreadable

Treatment = Callable[[Unreadable], OnUnreadable]

LOW_WATER = 512
"""Number of fetched but not handed-out records below which more are fetched; enough work for the duration of one
fetch."""

_FAR = 4 << 20
"""Limit of the additional bytes requested to see the surroundings of a batch; exceeded at most about twofold."""

_SILENCES = 5
"""Number of answers without the records that exist there after which the partition reports trouble. A broker may
throttle, so one such answer is normal."""

_REMEDY = "restore the partition from a replica, or move the source past the damage with `bridge sources seek`"


@dataclass(frozen=True, slots=True)
class PartitionData:
    """A broker's answer for one partition.

    end: high watermark.
    readable_end: offset up to which this consumer may read, less than `end` while a transaction is open.
    aborted: see `record_batch.split`.
    start: first offset of the log.
    """

    data: bytes
    end: int
    readable_end: int
    aborted: Sequence[tuple[int, int]] | None
    start: int = 0


class PartitionLog:
    """Ordered reading of one partition from `start` on.

    `fetch_offset` is the offset of the next fetch, `position` the offset of the next record to hand out. A fetch begins
    before the next expected offset when the batches around a doubtful batch are needed.
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
        inflation: Inflation | None = None,
    ) -> None:
        """Start reading at `start`.

        bounds: of one batch.
        low_water: bytes fetched and not handed out below which more are fetched.
        treatment: of messages that cannot be parsed.
        gaps: counter of offsets without a record for a consumer, by kind: `control`, `aborted`, `compacted`, and
        `deleted` for those before the start of the log.
        inflation: decompressed bytes of all partitions of the consumer; None: of this partition alone.
        """
        self._inflation = inflation or Inflation(bounds.size)
        self.topic = topic
        self.number = number
        self.position = self.fetch_offset = start
        self.extra = 0
        """Bytes to request beyond the usual number, to see the surroundings of a batch."""
        self.end: int | None = None
        """High watermark; None before the first answer."""
        self.stopped = ""
        """Reason why nothing more is read, as a sentence for a person; empty while reading continues."""
        self.trouble = ""
        """Reason why the broker does not answer for this partition at present, as a sentence; empty while it
        answers."""
        self._stopped_time: float | None = None
        """Time of the message that stopped the partition."""
        self._taken_time: float | None = None
        """Time of the record before the position, where both are in one batch."""
        self._gaps: Counter[str] = Counter() if gaps is None else gaps
        self._bounds = bounds
        self._low_water = low_water
        self._treatment = treatment
        self._batches: deque[RecordBatch] = deque()
        self._count = self._bytes = 0
        self._readable_end: int | None = None
        self._blocked = False
        self._next = start
        """Next expected offset: the offset after the fetched records."""
        self._boundary = False
        """True when a batch is known to begin at the next expected offset."""
        self._settled = False
        """True when the surroundings of a doubtful batch are being fetched, or cannot be seen."""
        self._unfollowed: RecordBatch | None = None
        """Batch that the next answer is to show from its last offset on."""
        self._resume = start
        """Offset of the fetch that returned this batch."""
        self._verdict: OffsetCheck | None = None
        self._probe_offset: int | None = None
        """Lowest offset before the next expected one from which a fetch showed something doubtful."""
        self._deepest = False
        """True when no fetch from a lower offset can show more."""
        self._useless = -1
        """Answers from this offset and lower ones do not reach the next expected offset."""
        self._under = self._above = -1
        """Offsets between which the segment of the next expected offset may begin, during the search for its start."""
        self._landmark = b""
        """Bytes of a doubtful batch that such answers have to contain."""
        self._passed = b""
        """Bytes of a damaged batch that was passed. A broker sends the batch again where its header states later
        offsets."""
        self._unsent = False
        """True when the last answer was empty although the broker has records."""
        self._silences = 0
        """Number of answers without records from the next expected offset, although records exist there."""
        self._size = 0
        """Size of the last fetched batch in bytes."""

    def __str__(self) -> str:
        return f"{self.topic}/{self.number}"

    @property
    def wants(self) -> bool:
        """True when more is to be fetched."""
        if self.stopped or self._blocked:
            return False
        return self._count < LOW_WATER and self._bytes < self._low_water

    @property
    def behind(self) -> bool:
        """True when the broker is known to have more records: a fetch is answered at once."""
        return self._readable_end is not None and self.fetch_offset < self._readable_end

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
        if offset != self.fetch_offset or self._blocked or self.stopped:
            return
        self.end = answer.end
        self._readable_end = answer.readable_end
        unsent = not answer.data and offset < answer.readable_end
        if not (unsent or self._silences):
            self.trouble = ""
        if self._unfollowed is not None:
            self._search_behind(self._unfollowed, answer)
            return
        data = answer.data
        if self._passed and (at := data.find(self._passed)) >= 0:
            data = data[at + len(self._passed) :]
            if not begins_whole(data):
                data = b""  # cut by the size of the answer
        first = base_at(data, 0)
        if max(answer.start, 0) < offset < self._next and (unsent or (first is not None and first > self._next)):
            # The batch before was not shown
            self._above = offset
            lower = max(answer.start, 0, self._useless + 1, self._next - 2 * (self._next - offset))
            if self._under >= 0:
                self.fetch_offset = (self._under + offset) // 2
                return
            self._deepest |= lower >= offset
            self.fetch_offset = self._next if self._deepest else lower
            return
        if unsent and self._unsent and self._next == offset:
            # A broker skips a batch whose offsets are too low
            self._silences += 1
            if self._silences == _SILENCES:
                self.trouble = (
                    f"offset {offset} cannot be read: the log ends at {answer.readable_end}, and the broker sends "
                    "nothing from this offset on, as it does where the length of a batch is damaged on its disk. The "
                    f"source goes on trying; {_REMEDY}"
                )
            self.fetch_offset = max(answer.start, 0, offset - 1)
            self.extra = self._size
            self._settled = True
            return
        self._unsent = unsent
        if offset < self._next and not self._deepest and self._landmark not in data:
            self._search_elsewhere(offset, data)
            return
        if self._useless >= 0 and offset < self._next and self._landmark and not self._deepest:
            self._deepest = offset == self._useless + 1
            if not self._deepest:
                self._probe_offset, self.fetch_offset = offset, (offset + self._useless) // 2
                return
        batches = split(
            data,
            self._next,
            answer.end,
            answer.aborted,
            boundary=self._boundary,
            asked=offset,
            readable_end=answer.readable_end,
            settled=self._settled,
            deepest=self._deepest,
            verdict=self._verdict,
        )
        if answer.data and not batches:
            self._search_elsewhere(offset, answer.data)
        for batch in batches:
            if batch.doubtful:
                ends = batch.unfollowed and batch.last is not None and batch.last < self._next
                if ends and offset + 1 < self._above:
                    # The next segment, if it begins between these offsets, shows more
                    self._under = offset
                    self.fetch_offset = (offset + self._above + 1) // 2
                elif batch.unfollowed and self._settled:
                    assert batch.last is not None
                    self._unfollowed, self._resume = batch, offset
                    self.fetch_offset = batch.last
                else:
                    self._search_around(batch, answer)
                return
            self._batches.append(batch)
            self._count += batch.count
            self._bytes += len(batch.raw)
            if batch.fault is not None:
                # The beginning of the next batch is unknown
                self._blocked = True
                return
            assert batch.last is not None
            self._fetch_from(batch.last + 1, boundary=True)
            self._size = len(batch.raw)

    def _fetch_from(self, offset: int, *, boundary: bool) -> None:
        self._next = self.fetch_offset = offset
        self._boundary = boundary
        self._settled = False
        self._unfollowed = self._verdict = self._probe_offset = None
        self._deepest = False
        self._useless = self._under = self._above = -1
        self._landmark = b""
        if self._silences:
            self.trouble = ""
        self.extra = self._silences = 0

    def _search_around(self, batch: RecordBatch, answer: PartitionData) -> None:
        """Fetch a doubtful batch again, together with its surroundings."""
        distance = max(self._next - min(batch.base, self._next) + 1, 2 * (self._next - self.fetch_offset))
        if self.fetch_offset < self._next:
            self._probe_offset = self.fetch_offset
        lower = min(self._next, max(self._next - distance, answer.start, self._useless + 1, 0))
        self._deepest |= self._settled and lower >= self.fetch_offset
        self.fetch_offset = lower
        if batch.base <= self._next:
            self._landmark = batch.raw
        self.extra = max(self.extra, self._size + 2 * len(batch.raw))
        self._settled = True

    def _search_elsewhere(self, offset: int, data: bytes) -> None:
        """Continue after an answer that does not reach the batches seen from a later offset.

        Either the answer was cut, or a segment of the log ends there. In the second case, search for the lowest offset
        of the next segment.
        """
        if self._deepest:
            self.search_ahead(offset)
        elif self.extra < _FAR and (is_cut(data) or len(data) >= 2 * self._low_water + self.extra - 1):
            self.extra = 2 * (self.extra + len(data))
        else:
            self._useless = offset
            probed = self._next if self._probe_offset is None else self._probe_offset
            self.fetch_offset = (offset + probed + 1) // 2
            self._deepest = self.fetch_offset == probed

    def _search_behind(self, batch: RecordBatch, answer: PartitionData) -> None:
        """Judge a batch by an answer from its last offset on, and fetch the batch again."""
        self._unfollowed = None
        self.fetch_offset = self._resume
        self._verdict = check_offsets(batch, answer.data)
        if self._verdict is None or (not self._verdict.agrees and self.extra < _FAR):
            # A following batch of the same segment appears together with the batch itself
            self._verdict = None
            self.extra = 2 * (self.extra + len(answer.data))

    def search_ahead(self, offset: int) -> bool:
        """Fetch from the next expected offset again; False when the answered fetch already began there. offset: see
        `accept`.
        """
        if offset != self.fetch_offset or offset == self._next:
            return False
        self._unfollowed = None
        self.fetch_offset = self._next
        return True

    def take(self, limit: int, room: Room | None = None) -> list[LogMessage]:
        """Return at most `limit` messages from the position on, in order. Gaps are passed and counted.

        room: bytes that may be handed out; the message that exceeds them is the last. None: no limit.
        """
        found: list[LogMessage] = []
        room = room or Room(sys.maxsize)
        while self._batches and len(found) < limit and room.left > 0:
            batch = self._batches[0]
            if batch.compressed and not self._inflation.admits(self):
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
                room.spend(message.size)
                if len(found) == limit or room.left <= 0:
                    self._taken_time = message.timestamp
                    self._inflation.note(self, batch.inflated)
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
        self._fetch_from(offset, boundary=False)
        self._passed = b""
        self._pass(offset, "deleted")
        self.position = offset
        self.stopped = ""
        self._stopped_time = None

    def reread(self, batch: RecordBatch) -> None:
        """Fetch a damaged batch and the following ones again, because another read returned different bytes."""
        if self._batches and self._batches[0] is batch:
            self._forget()
            # Either the previous batch ended at its beginning, or reading began in the middle of it
            self._fetch_from(self.position, boundary=self._boundary and batch.base >= self.position)

    def confirm(self, batch: RecordBatch, following: int | None) -> None:
        """Accept the damage of the batch. following: base offset of the next batch, where the damaged header cannot
        state it.
        """
        if not self._batches or self._batches[0] is not batch:
            return
        batch.confirm(self.position, None if following is None else following - 1, self._bounds)
        if following is not None:
            self._blocked = False
            self._fetch_from(following, boundary=True)
            self._passed = batch.raw
            self.extra = len(batch.raw)

    def refused(self, reason: str) -> None:
        """Record why the broker does not answer for this partition; the next answer clears the reason."""
        self.trouble = reason

    def stop(self, reason: str) -> None:
        """Fetch nothing more until the next seek. reason: a sentence. Fetched records are still handed out."""
        self.stopped = reason

    def distrust(self, batch: RecordBatch) -> None:
        """Stop reading because the end of the damaged batch cannot be determined."""
        if self._batches and self._batches[0] is batch:
            fault = batch.fault
            assert fault is not None
            self._forget()
            self.stopped = (
                f"offset {self.position} and later ones cannot be read: {fault.detail}, and the start of the next "
                f"batch is unknown; {_REMEDY}"
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
            self._inflation.note(self, 0)

    def _leave(self, batch: RecordBatch) -> None:
        self._taken_time = None
        self._inflation.note(self, 0)
        self._batches.popleft()
        self._count -= batch.count
        self._bytes -= len(batch.raw)

    def _forget(self) -> None:
        self._taken_time = None
        self._inflation.note(self, 0)
        self._batches.clear()
        self._count = self._bytes = 0
        self._blocked = False
