"""Splitting of fetched data into batches, whose offsets are compared with each other. Pure.

No checksum covers a base offset. A base offset is accepted when it continues the previous batch, or when the next batch
continues it. Gaps are compacted batches; they are accepted when both neighbours in the log are known.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from aiokafka.record.control_record import ABORT_MARKER, ControlRecord
from aiokafka.record.default_records import DefaultRecordBatch

from bridge.brokers.kafka.log.record_batch import BatchDamage, RecordBatch, base_at, read_batch, size_at
from bridge.brokers.kafka.log.records import HEADER

_TRANSACTIONAL, _CONTROL = 0x10, 0x20


@dataclass(frozen=True, slots=True)
class OffsetCheck:
    """Result of a fetch from the last offset of a batch. agrees: nothing contradicts the batch's offsets."""

    raw: bytes
    agrees: bool


def check_offsets(batch: RecordBatch, data: bytes) -> OffsetCheck | None:
    """Compare a batch with the data of a fetch from its last offset, which must contain it. None: more data is needed.

    A batch with wrong offsets has another batch in its place, either in the next segment or behind it in the same
    segment.
    """
    assert batch.last is not None
    at = data.find(batch.raw)
    if at < 0:
        return OffsetCheck(batch.raw, agrees=False)
    follows = base_at(data, at + len(batch.raw))
    return OffsetCheck(batch.raw, agrees=True) if follows is None or follows > batch.last else None


def split(
    data: bytes,
    position: int,
    end: int,
    aborted: Sequence[tuple[int, int]] | None,
    *,
    boundary: bool = False,
    asked: int | None = None,
    readable_end: int | None = None,
    settled: bool = False,
    deepest: bool = False,
    check: OffsetCheck | None = None,
) -> list[RecordBatch]:
    """Batches from `position` on in fetched data. The last may be damaged or doubtful; nothing after it is examined.

    end: the high watermark.
    aborted: producer id and first offset of aborted transactions that overlap the data; None to read uncommitted ones
    too.
    boundary: a batch is known to begin at the position, since the one before it ended there.
    asked: offset of the fetch, less than the position when the previous batch is needed; the result is empty when that
    batch shows nothing.
    readable_end: see `fetch_cursor.PartitionData`.
    settled: mark no batch doubtful, except an unfollowed one.
    deepest: no fetch can show the data in front of the first batch.
    check: of an unfollowed batch. An incomplete batch at the end is left out, because brokers cut data there, unless it
    is the first.
    """
    splitter = _Splitter(
        data,
        position,
        position if asked is None else asked,
        end,
        end if readable_end is None else readable_end,
        settled,
        deepest,
        check,
        _Transactions(aborted or ()),
    )
    return splitter.run(boundary=boundary)


class _Transactions:
    """Aborted transactions of the data: each begins at an offset and ends with a marker."""

    def __init__(self, aborted: Sequence[tuple[int, int]]) -> None:
        self._pending = deque(sorted(aborted, key=lambda each: each[1]))
        self._aborting: set[int] = set()
        """Ids of the producers whose present transaction was aborted."""

    def classify(self, batch: RecordBatch) -> bool:
        """Set the kind of the next batch; False when a marker cannot be read.

        Whether the marker ended an aborted transaction is then unknown. The broker states the transaction again in the
        answer to a fetch from the next offset.
        """
        if batch.magic < 2:
            return True
        header = HEADER.unpack_from(batch.raw)
        attributes, producer = header[5], header[9]
        while self._pending and self._pending[0][1] <= batch.base:
            self._aborting.add(self._pending.popleft()[0])
        if attributes & _CONTROL:
            batch.set_kind("control")
            marker = _marker(batch.raw)
            if marker == ABORT_MARKER:
                self._aborting.discard(producer)
            return marker is not None
        if attributes & _TRANSACTIONAL and producer in self._aborting:
            batch.set_kind("aborted")
        return True


def _marker(raw: bytes) -> ControlRecord | None:
    try:
        return ControlRecord.parse(next(iter(DefaultRecordBatch(raw))).key)
    except Exception:
        return None


class _Splitter:
    """One pass over fetched data. start: offset of the fetch; see `split` for the other parameters."""

    def __init__(
        self,
        data: bytes,
        position: int,
        start: int,
        end: int,
        readable_end: int,
        settled: bool,
        deepest: bool,
        check: OffsetCheck | None,
        transactions: _Transactions,
    ) -> None:
        self._data = data
        self._position = position
        self._start = start
        self._end = end
        self._readable_end = readable_end
        self._settled = settled
        self._deepest = deepest
        self._check = check
        self._transactions = transactions
        self._before = start < position
        """True when the data begins before the position, to show the previous batch."""
        self._floor: int | None = None
        """Offset after the previous batch; None while it is unknown."""
        self._at = 0
        self._found: list[RecordBatch] = []

    def run(self, *, boundary: bool) -> list[RecordBatch]:
        """Split the data."""
        if not self._before and (boundary or self._position == 0):
            self._floor = self._position
            self._skip_damage()
        while self._at < len(self._data) and self._take_next():
            pass
        return self._found

    def _skip_damage(self) -> None:
        """Begin at the batch with the wanted base offset, if the first batch is damaged and another one has this base.

        A broker also sends earlier batches when the first of them is damaged and states offsets that are too high.
        """
        size = size_at(self._data, 0)
        if size is None or read_batch(self._data[:size], self._position, self._end).fault is None:
            return
        at = 0
        while (size := size_at(self._data, at)) is not None:
            if base_at(self._data, at) == self._position:
                self._data = self._data[at:]
                return
            at += size

    def _take_next(self) -> bool:
        """Examine the next batch; False when nothing after it is examined."""
        size = size_at(self._data, self._at)
        if size is None:
            if self._at == 0 and not self._before:
                fault = BatchDamage("length", "the length of a batch contradicts the data of the broker")
                self._found.append(RecordBatch(self._position, None, bytes(self._data), fault))
            return False
        behind = self._at + size
        raw = bytes(self._data[self._at : behind])
        batch = read_batch(raw, self._position if self._floor is None else self._floor, self._end)
        self._check_place(batch)
        if batch.fault is None and not (self._floor == batch.base and batch.states_base):
            self._compare(batch, behind)
        if batch.fault is not None:
            is_early = self._floor is None or self._floor < self._position
            if self._before and is_early and not batch.ambiguous:
                following = base_at(self._data, behind)
                if following is None and behind < len(self._data):
                    return False
                if following is not None and following <= self._position:
                    # The following batch lies before the position, like the one that was needed
                    self._floor, self._at = following, behind
                    return True
            batch.locate(
                self._position if self._floor is None else max(self._floor, self._position),
                placed=self._at > 0 or self._floor is not None,
                asked=self._start if self._before and not self._found else None,
            )
        self._at = behind
        if batch.fault is not None or batch.doubtful:
            self._found.append(batch)
            return False
        assert batch.last is not None
        if batch.last >= self._position:
            self._found.append(batch)
        self._floor = batch.last + 1
        return self._transactions.classify(batch)

    def _check_place(self, batch: RecordBatch) -> None:
        """Refuse offsets that contradict the fetch or the previous batch."""
        if batch.fault is not None:
            return
        assert batch.last is not None
        if self._at == 0 and batch.last < self._start:
            # A broker answers from the batch that holds the position
            batch.refuse_offsets(f"the batch claims to end at offset {batch.last}, before {self._start}")
        elif self._floor is not None and batch.base < self._floor:
            batch.refuse_offsets(f"the batch claims to begin at offset {batch.base}, before {self._floor}")

    def _compare(self, batch: RecordBatch, behind: int) -> None:
        """Compare the offsets of a batch that does not continue the previous one with other batches.

        behind: place of the next batch in the data.
        """
        assert batch.last is not None
        follows = base_at(self._data, behind)
        self._compare_with_next(batch, behind, follows)
        if self._at == 0 and not self._before and batch.base > self._position:
            # A broker skips a batch whose offsets are too low; only an answer from the batch before shows it
            batch.doubt_offsets()
        if follows is None:
            # Either the data was cut there, or a segment of the log ends: an answer never spans two segments
            if self._check is None or self._check.raw != batch.raw:
                batch.doubt_offsets(unfollowed=True)
            elif not self._check.agrees:
                batch.doubt_offsets(ambiguous=True)
        hides_previous = self._before and self._floor is None and self._start > 0 and not self._deepest
        if batch.ambiguous and batch.last + 1 == self._position:
            batch.trust_offsets()
        elif (
            self._settled
            and not self._found
            and not batch.unfollowed
            and not (hides_previous and batch.last < self._position)
        ):
            batch.end_doubt()

    def _compare_with_next(self, batch: RecordBatch, behind: int, follows: int | None) -> None:
        """Compare the end of a batch with the base offset of the next one. follows: this offset; None without one."""
        assert batch.last is not None
        expected = batch.last + 1
        if follows is None:
            if expected < self._readable_end:
                batch.doubt_offsets()
        elif follows > expected:
            if self._floor is None:
                batch.doubt_offsets()
        elif follows < expected:
            # Either this batch's offsets are too high, or the next one's too low: check for room elsewhere
            room_before = (
                self._floor is None or not batch.states_base or self._floor <= follows - (expected - batch.base)
            )
            room_behind = self._has_room_for_next(behind, expected)
            if room_before == room_behind:
                batch.doubt_offsets(ambiguous=True)
            elif room_before:
                batch.refuse_offsets(f"the batch claims to begin at offset {batch.base}, before {follows}")

    def _has_room_for_next(self, at: int, first: int) -> bool:
        """True when the batch at a place of the data may begin at an offset; also when its size is unknown."""
        size = size_at(self._data, at)
        if size is None or size < HEADER.size:
            return True
        header = HEADER.unpack_from(self._data, at)
        is_last = at + size == len(self._data)
        following = self._readable_end if is_last else base_at(self._data, at + size)
        return header[3] != 2 or following is None or following >= first + header[6] + 1
