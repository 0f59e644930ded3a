"""Offset of the next fetch of one partition, and the search for batches that decide doubtful offsets. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bridge.brokers.kafka.log.record_batch import RecordBatch, base_at, begins_with_whole_batch, is_cut
from bridge.brokers.kafka.log.splitting import OffsetCheck, check_offsets, split

REMEDY = "restore the partition from a replica, or move the source past the damage with `bridge sources seek`"

_FAR = 4 << 20
"""Limit of the additional bytes requested to see the surroundings of a batch; exceeded at most about twofold."""

_SILENCES = 5
"""Number of answers without the records that exist there after which the partition reports a problem. A broker may
throttle, so one such answer is normal."""


@dataclass(frozen=True, slots=True)
class PartitionData:
    """A broker's answer for one partition, named as in Kafka's protocol.

    end: high watermark.
    readable_end: offset up to which this consumer may read, less than `end` while a transaction is open.
    aborted: see `splitting.split`.
    start: first offset of the log.
    """

    data: bytes
    end: int
    readable_end: int
    aborted: Sequence[tuple[int, int]] | None
    start: int = 0


class FetchCursor:
    """Fetches of one partition from `start` on.

    A fetch begins before the next expected offset when the batches around a doubtful batch are needed. The search for
    them ends with the next accepted batch.
    """

    def __init__(self, start: int, low_water: int) -> None:
        """Begin at `start`. low_water: bytes up to which an answer counts as short."""
        self.problem = ""
        """Reason why the broker does not answer for this partition at present, as a sentence; empty while it
        answers."""
        self._low_water = low_water
        self._readable_end: int | None = None
        self._silences = 0
        """Number of answers without records from the next expected offset, although records exist there."""
        self._unsent = False
        """True when the last answer was empty although the broker has records."""
        self._passed = b""
        """Bytes of a damaged batch that was passed. A broker sends the batch again where its header states later
        offsets."""
        self._size = 0
        """Size of the last accepted batch in bytes."""
        self._move_to(start, boundary=False)

    def _move_to(self, offset: int, *, boundary: bool) -> None:
        """Expect a batch at `offset` next. boundary: a batch is known to begin there. Ends a search."""
        self.fetch_offset = self._next = offset
        """Offset of the next fetch, and the next expected one: the offset after the accepted batches."""
        self._boundary = boundary
        self.extra = 0
        """Bytes to request beyond the usual number, to see the surroundings of a batch."""
        self._settled = False
        """True when the surroundings of a doubtful batch are being fetched, or cannot be seen."""
        self._unfollowed: RecordBatch | None = None
        """Batch that the next answer is to show from its last offset on."""
        self._resume = offset
        """Offset of the fetch that returned this batch."""
        self._check: OffsetCheck | None = None
        """Result of the answer from its last offset on."""
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
        if self._silences:
            self.problem = ""
        self._silences = 0

    @property
    def is_behind(self) -> bool:
        """True when the broker is known to have more records: a fetch is answered at once."""
        return self._readable_end is not None and self.fetch_offset < self._readable_end

    def seek(self, offset: int) -> None:
        """Continue at an offset that a batch need not begin at."""
        self._move_to(offset, boundary=False)
        self._passed = b""

    def restart(self, offset: int, base: int) -> None:
        """Fetch again from the position at `offset`, where a batch with the offset `base` was read."""
        # Either the previous batch ended at its beginning, or reading began in the middle of it
        self._move_to(offset, boundary=self._boundary and base >= offset)

    def pass_batch(self, following: int, raw: bytes) -> None:
        """Continue behind a damaged batch with these bytes. following: base offset of the next batch."""
        self._move_to(following, boundary=True)
        self._passed = raw
        self.extra = len(raw)

    def refused(self, reason: str) -> None:
        """Record why the broker does not answer for this partition; the next answer clears the reason."""
        self.problem = reason

    def search_ahead(self, offset: int) -> bool:
        """Fetch from the next expected offset again, after an answer to a fetch from `offset`; False when that fetch
        already began there.
        """
        if offset != self.fetch_offset or offset == self._next:
            return False
        self._unfollowed = None
        self.fetch_offset = self._next
        return True

    def accept(self, answer: PartitionData) -> list[RecordBatch]:
        """Batches of the answer to the fetch from `fetch_offset` on, in order; only the last may be damaged.

        The result is empty when another answer has to decide.
        """
        offset, start = self.fetch_offset, max(answer.start, 0)
        self._readable_end = answer.readable_end
        unsent = not answer.data and offset < answer.readable_end
        if not (unsent or self._silences):
            self.problem = ""
        if self._unfollowed is not None:
            self._finish_check(self._unfollowed, answer.data)
            return []
        data = self._behind_passed(answer.data)
        first = base_at(data, 0)
        if start < offset < self._next and (unsent or (first is not None and first > self._next)):
            self._search_before(offset, start)
            return []
        if unsent and self._unsent and self._next == offset:
            self._note_silence(offset, answer.readable_end, start)
            return []
        self._unsent = unsent
        if offset < self._next and not self._deepest:
            if self._landmark not in data:
                self._search_elsewhere(offset, data)
                return []
            if self._useless >= 0 and self._landmark:
                self._deepest = offset == self._useless + 1
                if not self._deepest:
                    self._probe_offset, self.fetch_offset = offset, (offset + self._useless) // 2
                    return []
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
            check=self._check,
        )
        if answer.data and not batches:
            self._search_elsewhere(offset, answer.data)
        for number, batch in enumerate(batches):
            if batch.doubtful:
                self._search_for(batch, offset, start)
                return batches[:number]
            if batch.fault is None:
                assert batch.last is not None
                self._move_to(batch.last + 1, boundary=True)
                self._size = len(batch.raw)
        return batches

    def _behind_passed(self, data: bytes) -> bytes:
        """Data without the damaged batch that was passed."""
        if not self._passed or (at := data.find(self._passed)) < 0:
            return data
        data = data[at + len(self._passed) :]
        return data if begins_with_whole_batch(data) else b""  # cut by the size of the answer

    def _note_silence(self, offset: int, readable_end: int, start: int) -> None:
        """Count an answer without records that exist: a broker skips a batch whose offsets are too low."""
        self._silences += 1
        if self._silences == _SILENCES:
            self.problem = (
                f"offset {offset} cannot be read: the log ends at {readable_end}, and the broker sends nothing from "
                "this offset on, as it does where the length of a batch is damaged on its disk. The source goes on "
                f"trying; {REMEDY}"
            )
        self.fetch_offset = max(start, offset - 1)
        self.extra = self._size
        self._settled = True

    def _search_for(self, batch: RecordBatch, offset: int, start: int) -> None:
        """Fetch the batches that decide a doubtful one."""
        ends_early = batch.unfollowed and batch.last is not None and batch.last < self._next
        if ends_early and offset + 1 < self._above:
            # The next segment, if it begins between these offsets, shows more
            self._under = offset
            self.fetch_offset = (offset + self._above + 1) // 2
        elif batch.unfollowed and self._settled:
            assert batch.last is not None
            self._unfollowed, self._resume = batch, offset
            self.fetch_offset = batch.last
        else:
            self._search_around(batch, start)

    def _search_around(self, batch: RecordBatch, start: int) -> None:
        """Fetch a doubtful batch again, together with its surroundings."""
        distance = max(self._next - min(batch.base, self._next) + 1, 2 * (self._next - self.fetch_offset))
        if self.fetch_offset < self._next:
            self._probe_offset = self.fetch_offset
        lower = min(self._next, max(self._next - distance, start, self._useless + 1))
        self._deepest |= self._settled and lower >= self.fetch_offset
        self.fetch_offset = lower
        if batch.base <= self._next:
            self._landmark = batch.raw
        self.extra = max(self.extra, self._size + 2 * len(batch.raw))
        self._settled = True

    def _search_before(self, offset: int, start: int) -> None:
        """Continue after an answer that does not show the batch before the next expected offset."""
        self._above = offset
        if self._under >= 0:
            self.fetch_offset = (self._under + offset) // 2
            return
        lower = max(start, self._useless + 1, self._next - 2 * (self._next - offset))
        self._deepest |= lower >= offset
        self.fetch_offset = self._next if self._deepest else lower

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

    def _finish_check(self, batch: RecordBatch, data: bytes) -> None:
        """Check an unfollowed batch by the data from its last offset on, and fetch the batch again."""
        self._unfollowed = None
        self.fetch_offset = self._resume
        self._check = check_offsets(batch, data)
        if self._check is None or (not self._check.agrees and self.extra < _FAR):
            # A following batch of the same segment appears together with the batch itself
            self._check = None
            self.extra = 2 * (self.extra + len(data))
