"""Record batches in a broker's answers: their boundaries and their records. Pure.

A fault of one record affects that record; a fault of a batch (checksum, codec, inflated size) affects that batch.
Formats: https://kafka.apache.org/documentation/#recordbatch (magic 2), KIP-98. Only aiokafka reads message
sets (magic 0 and 1).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from aiokafka.record.control_record import ABORT_MARKER, ControlRecord
from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.record.legacy_records import LegacyRecordBatch
from aiokafka.record.util import calc_crc32c

from bridge.brokers.kafka.compression import CodecError, decompress
from bridge.brokers.kafka.records import (
    HEADER,
    LOG_APPEND_TIME,
    SMALL,
    Bounds,
    Damaged,
    LogMessage,
    around_damage,
    as_message,
    sparing,
    too_many_headers,
)
from bridge.core.message import Message, Unreadable

_PREFIX = struct.Struct(">qiib")
"""Base offset, length, leader epoch (a CRC in old formats) and magic, at the same place in every format."""

_LENGTH_END = 12
_STAMP, _STAMP_END = struct.Struct(">q"), 26
"""Time in the header of a message of magic 1, and its end."""
_ATTRIBUTES_AT = 21
_MINIMUM = 14
"""Bytes after the length field in the smallest message of magic 0."""

_SEARCH_BYTES, _CANDIDATE_COST = 256 << 20, 16 << 10
"""Limit of the bytes whose checksums are computed to find a batch within a damaged one, and the bytes charged for each
candidate."""

_CODEC, _TRANSACTIONAL, _CONTROL = 0x07, 0x10, 0x20

BatchKind = Literal["records", "control", "aborted"]


@dataclass(slots=True)
class BatchDamage:
    """Damage of a batch, as seen once. A repeated read decides whether it is permanent.

    word, detail: see `Unreadable`.
    beyond: the only sign is that the log ends before the last offset.
    """

    word: str
    detail: str
    beyond: bool = False


@dataclass(slots=True, eq=False)
class RecordBatch:
    """One batch of an answer.

    base, last: offsets; `last` is None where the header that states it is damaged.
    raw: bytes of the batch, headers included.
    kind: `control` and `aborted` batches hold nothing for a consumer.
    fault: damage that was met so far.
    """

    base: int
    last: int | None
    raw: bytes
    kind: BatchKind = "records"
    fault: BatchDamage | None = None
    confirmed: bool = False
    count: int = 1
    """Number of records, as stated in the header."""
    inflated: int = 0
    """Decompressed size in bytes, while records are being handed out."""
    doubtful: bool = False
    """True when the offsets must be compared with those of the surrounding batches before they are accepted."""
    unfollowed: bool = False
    """True when the answer ends with this batch, and no following batch confirms its offsets; see `OffsetCheck`."""
    ambiguous: bool = False
    """True when either the offsets of this batch or those of the next one are wrong, and nothing shows which."""
    placed: bool = True
    """True when the damaged batch begins at its base. One at the beginning of an answer may lie before it, under a
    wrong header."""
    asked: int | None = None
    """Offset of the fetch that returned the batch, where it differs from its base."""
    _records: Iterator[LogMessage] | None = field(default=None, repr=False)

    @property
    def compressed(self) -> bool:
        """True when reading the batch may need more memory than its bytes."""
        return len(self.raw) > _ATTRIBUTES_AT + 1 and (
            self.raw[_PREFIX.size - 1] < 2 or bool(self.raw[_ATTRIBUTES_AT + 1] & _CODEC)
        )

    @property
    def time(self) -> float | None:
        """Time of the first record, in seconds since the Unix epoch, as the header states it; None where it states
        none, or is damaged.
        """
        magic = self.raw[_PREFIX.size - 1] if len(self.raw) >= _PREFIX.size else 0
        if self.fault is not None or magic == 0 or len(self.raw) < (HEADER.size if magic == 2 else _STAMP_END):
            return None
        if magic == 1:
            (stamp,) = _STAMP.unpack_from(self.raw, _STAMP_END - _STAMP.size)
        else:
            header = HEADER.unpack_from(self.raw)
            stamp = header[8] if header[5] & LOG_APPEND_TIME else header[7]
        return None if stamp < 0 else stamp / 1000

    def close(self) -> None:
        """Release the decompressed data; `records` then begins again at the offset it is given."""
        if self.fault is None:
            self._records = None
            self.inflated = 0

    def records(self, first: int, bounds: Bounds) -> Iterator[LogMessage]:
        """Messages from offset `first` on. The iterator continues where the last one stopped.

        Damage ends the iteration early and sets `fault`. After `confirmed` is set, the damage appears as unreadable
        messages.
        """
        if self._records is None:
            if self.fault is not None:
                self._records = iter(self._as_one(first))
            else:
                self._records = self._healthy(first, bounds)
        return self._records

    def confirm(self, first: int, last: int | None, bounds: Bounds) -> None:
        """Accept the damage. The rest of the batch from offset `first` is read around it.

        last: offset of the last record, found by means of the following batch; None where the batch's own header is
        valid.
        """
        assert self.fault is not None
        self.confirmed = True
        if last is not None:
            self.last = last
        if self.fault.word in ("record", "header_name"):
            self._records = self._damaged(first, bounds)
        else:
            self._records = iter(self._as_one(first))

    def _as_one(self, first: int) -> list[LogMessage]:
        assert self.fault is not None
        assert self.last is not None
        if self.last < first:
            return []  # the batch lies before the position, and the broker sends it nevertheless
        unreadable = Unreadable(self.fault.word, self.fault.detail, last=self.last)
        return [(first, self.last, Message(self.raw, unreadable=unreadable))]

    def _damaged(self, first: int, bounds: Bounds) -> Iterator[LogMessage]:
        assert self.last is not None
        yield from around_damage(_inflated(self.raw, bounds.size), self.base, self.last, first, bounds)

    def _healthy(self, first: int, bounds: Bounds) -> Iterator[LogMessage]:
        last = self.last
        assert last is not None
        # For an old compressed set, only the last offset is known before decompression
        expected = self.base if self.raw[_PREFIX.size - 1] == 2 else 0
        try:
            for record in self._parsed(bounds):
                offset = record.offset
                if not expected <= offset <= last:
                    self.fault = BatchDamage("record", "the offset of a record lies outside of its batch")
                    return
                expected = offset + 1
                if offset >= first:
                    headers = tuple(record.headers)
                    if len(headers) > bounds.headers:
                        raise too_many_headers(bounds.headers)
                    yield offset, offset, as_message(record.value, record.key, headers, record.timestamp)
        except CodecError as error:
            self.fault = BatchDamage(error.fault, error.detail)
        except Damaged as damage:
            self.fault = BatchDamage("record", damage.detail)
        except UnicodeDecodeError:
            self.fault = BatchDamage("header_name", "the name of a header is not UTF-8")
        except Exception as error:
            # Any error of aiokafka's parser is caused by these bytes
            self.fault = BatchDamage(
                "record" if self.raw[_PREFIX.size - 1] == 2 else "batch",
                f"the records cannot be parsed ({type(error).__name__})",
            )

    def _parsed(self, bounds: Bounds) -> Iterable[Any]:
        """aiokafka's records, with offset, timestamp, key, value and headers."""
        magic = self.raw[_PREFIX.size - 1]
        if magic < 2:
            codec = _legacy_codec(self.raw)
            if codec:
                # The parser itself has no size limit
                self.inflated = len(decompress(codec, _legacy_value(self.raw, magic), bounds.size))
            return cast(Iterable[Any], LegacyRecordBatch(self.raw, magic))
        count = HEADER.unpack_from(self.raw)[12]
        if count > bounds.records:
            raise CodecError("inflated_size", f"the batch holds more than {bounds.records} records (`max_records`)")
        plain = _inflated(self.raw, bounds.size)
        self.inflated = len(plain) if plain is not self.raw else 0
        records = DefaultRecordBatch(plain)
        return cast(Iterable[Any], records) if len(plain) <= SMALL else sparing(plain, records, bounds)


@dataclass(frozen=True, slots=True)
class OffsetCheck:
    """Result of a fetch from the last offset of a batch. agrees: nothing contradicts the batch's offsets."""

    raw: bytes
    agrees: bool


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
    verdict: OffsetCheck | None = None,
) -> list[RecordBatch]:
    """Batches from `position` on in the answer to a fetch. The last may be damaged or doubtful; nothing after it is
    examined.

    boundary: a batch is known to begin at the position, since the one before it ended there.
    end: the high watermark.
    aborted: producer id and first offset of aborted transactions that overlap the answer; None to read uncommitted
    ones too.
    asked: offset of the fetch, less than the position when the previous batch is needed; the result is empty when
    that batch shows nothing.
    readable_end: see `partition_log.PartitionData`.
    settled: mark no batch doubtful, except an unfollowed one.
    deepest: no fetch can show the data in front of the first batch.
    verdict: of a fetch from the last offset of an unfollowed batch. An incomplete batch at the end is left out,
    because brokers cut answers there, unless it is the first. No checksum covers a base offset. A base offset is
    accepted when it continues the previous batch, or when the next batch continues it. Gaps are compacted batches.
    They are accepted when both neighbours in the log are known.
    """
    found: list[RecordBatch] = []
    pending = sorted(aborted or (), key=lambda each: each[1])
    aborting: set[int] = set()
    start = position if asked is None else asked
    before = start < position
    floor = None if before or not (boundary or position == 0) else position
    """Offset after the previous batch; None while it is unknown."""
    if floor is not None and (size := _size(data, 0)) is not None and _batch(data[:size], floor, end).fault is not None:
        data = data[_place(data, floor) :]
    at = 0
    while at < len(data):
        size = _size(data, at)
        if size is None:
            if at == 0 and not before:
                fault = BatchDamage("length", "the length of a batch contradicts the data of the broker")
                found.append(RecordBatch(position, None, bytes(data), fault=fault))
            break
        raw = bytes(data[at : at + size])
        first = position if floor is None else max(floor, position)
        batch = _batch(raw, position if floor is None else floor, end)
        if batch.fault is None:
            assert batch.last is not None
            if at == 0 and batch.last < start:
                # A broker answers from the batch that holds the position
                batch.fault = BatchDamage("offsets", f"the batch claims to end at offset {batch.last}, before {start}")
            elif floor is not None and batch.base < floor:
                batch.fault = BatchDamage(
                    "offsets", f"the batch claims to begin at offset {batch.base}, before {floor}"
                )
        if batch.fault is None and not (floor == batch.base and _states_base(raw)):
            _corroborate(batch, data, at + size, floor, end if readable_end is None else readable_end)
            # A broker skips a batch whose offsets are too low; only an answer from the batch before shows it
            batch.doubtful |= at == 0 and not before and batch.base > position
            if base_at(data, at + size) is None:
                _judge(batch, verdict)
            assert batch.last is not None
            hidden = before and floor is None and start > 0 and batch.last < position and not deepest
            if batch.ambiguous and batch.last + 1 == position:
                # The position of the group agrees with the batch
                batch.doubtful = batch.ambiguous = False
            elif settled and not found and not hidden and not batch.unfollowed:
                batch.doubtful = False
                if batch.ambiguous:
                    batch.fault = BatchDamage(
                        "offsets", "its offsets overlap with those of the next batch; one of the two is wrong"
                    )
        if batch.fault is not None:
            if before and floor != first and not batch.ambiguous:
                following = base_at(data, at + size)
                if following is None and at + size < len(data):
                    return []
                if following is not None and following <= position:
                    # The following batch lies before the position, like the one that was needed
                    floor = following
                    at += size
                    continue
            batch.base, batch.last, batch.placed = first, None, at > 0 or floor is not None
            if before and not found:
                batch.asked = start
        at += size
        if batch.fault is not None or batch.doubtful:
            found.append(batch)
            break
        assert batch.last is not None
        if batch.last >= position:
            found.append(batch)
        floor = batch.last + 1
        if raw[_PREFIX.size - 1] < 2:
            continue
        header = HEADER.unpack_from(raw)
        attributes, producer = header[5], header[9]
        while pending and pending[0][1] <= batch.base:
            aborting.add(pending.pop(0)[0])
        if attributes & _CONTROL:
            batch.kind = "control"
            marker = _marker(raw)
            if marker is None:
                # Whether the marker ended an aborted transaction is unknown: the broker states it again from the next
                # offset on
                break
            if marker == ABORT_MARKER:
                aborting.discard(producer)
        elif aborted is not None and attributes & _TRANSACTIONAL and producer in aborting:
            batch.kind = "aborted"
    return found


def _place(data: bytes, base: int) -> int:
    """Position in the data of the batch with this base offset; 0 where none is found.

    A broker also sends earlier batches when the first of them is damaged and states offsets that are too high.
    """
    at = 0
    while (size := _size(data, at)) is not None:
        if base_at(data, at) == base:
            return at
        at += size
    return 0


def _corroborate(batch: RecordBatch, data: bytes, at: int, floor: int | None, readable_end: int) -> None:
    """Compare the offsets of a batch that does not continue the previous one with those of the next batch, at `at`."""
    assert batch.last is not None
    behind = batch.last + 1
    follows = base_at(data, at)
    if follows is None:
        batch.doubtful = behind < readable_end
    elif follows > behind:
        batch.doubtful = floor is None
    elif follows < behind:
        # Either this batch's offsets are too high, or the next one's too low: check for room elsewhere
        room_before = floor is None or not _states_base(batch.raw) or floor <= follows - (behind - batch.base)
        next_end = _end_at(data, at, readable_end)
        room_behind = next_end is None or next_end[0] >= behind + next_end[1]
        if room_before == room_behind:
            batch.doubtful = batch.ambiguous = True
        elif room_before:
            batch.fault = BatchDamage("offsets", f"the batch claims to begin at offset {batch.base}, before {follows}")


def _judge(batch: RecordBatch, verdict: OffsetCheck | None) -> None:
    """Mark a batch at the end of an answer as doubtful until a verdict exists, since no following batch confirms its
    offsets.

    Either the answer was cut there, or a segment of the log ends: an answer never spans two segments.
    """
    if verdict is None or verdict.raw != batch.raw:
        batch.doubtful = batch.unfollowed = True
    elif not verdict.agrees:
        batch.doubtful = batch.ambiguous = True


def check_offsets(batch: RecordBatch, data: bytes) -> OffsetCheck | None:
    """Compare a batch with the answer to a fetch from its last offset, which must contain it. None: more data is
    needed.

    A batch with wrong offsets has another batch in its place, either in the next segment or behind it in the same
    segment.
    """
    assert batch.last is not None
    at = data.find(batch.raw)
    if at < 0:
        return OffsetCheck(batch.raw, agrees=False)
    follows = base_at(data, at + len(batch.raw))
    return OffsetCheck(batch.raw, agrees=True) if follows is None or follows > batch.last else None


def base_at(data: bytes, at: int) -> int | None:
    """Base offset in the header at `at`; None when there is no header."""
    if len(data) - at < _PREFIX.size:
        return None
    base, length, _, magic = _PREFIX.unpack_from(data, at)
    return int(base) if length >= _MINIMUM and 0 <= magic <= 2 else None


def _end_at(data: bytes, at: int, readable_end: int) -> tuple[int, int] | None:
    """Offset in the header behind the batch at `at`, and the number of offsets of that batch; None when unknown."""
    size = _size(data, at)
    if size is None or size < HEADER.size:
        return None
    header = HEADER.unpack_from(data, at)
    following = readable_end if at + size == len(data) else base_at(data, at + size)
    return None if header[3] != 2 or following is None else (following, header[6] + 1)


def _states_base(raw: bytes) -> bool:
    """Return whether the header states the offset of the first record. The header of an old compressed set states the
    last one.
    """
    return raw[_PREFIX.size - 1] == 2 or not _legacy_codec(raw)


def hides_batch(raw: bytes, base: int, end: int) -> bool:
    """Return whether a damaged batch contains a whole batch, and its length is therefore wrong; also True when the
    search takes too long.

    base: offset of the damaged batch.
    end: the high watermark. A payload that contains copies of batches looks the same.
    """
    if len(raw) >= HEADER.size and calc_crc32c(raw[_ATTRIBUTES_AT:]) == HEADER.unpack_from(raw)[4]:
        return False  # the checksum covers the length indirectly
    formats = rb"\x02" if raw[_PREFIX.size - 1] == 2 else rb"[\x00-\x02]"
    # Leading bytes that all offsets from `base` to `end` share; a lookahead finds headers within headers
    varying = ((base ^ end).bit_length() + 7) // 8
    shared = re.escape(base.to_bytes(8)[: 8 - varying])
    pattern = rb"(?s)(?=%s.{%d}[\x00-\x7f].{7}%s)" % (shared, varying, formats)
    budget = _SEARCH_BYTES
    for match in re.finditer(pattern, raw):
        at = match.start()
        size = _size(raw, at)
        if at == 0 or size is None or not base < _PREFIX.unpack_from(raw, at)[0] < end:
            continue
        budget -= size + _CANDIDATE_COST
        if budget < 0 or _batch(raw[at : at + size], base, end).fault is None:
            return True
    return False


def next_base(data: bytes, size: int, position: int, end: int, bounds: Bounds) -> int | None:
    """Base offset of the batch that follows a damaged one of `size` bytes; None when no plausible one follows.

    end: the high watermark.
    """
    if len(data) < size + _PREFIX.size:
        return None
    base: int
    base, length, _, magic = _PREFIX.unpack_from(data, size)
    if not position < base < end or length < _MINIMUM:
        return None
    if base == claimed_next(data[:size]):
        return base  # two headers agree, whatever else is damaged
    behind = _size(data, size)
    if behind is None:
        return base if 0 <= magic <= 2 else None
    raw = bytes(data[size : size + behind])
    # Where the length is damaged, payload is at this place and may look like a header
    if _batch(raw, base, end).fault is not None:
        return base if 0 <= magic <= 2 and _header_at(data, size + behind, base, end) else None
    # The offset of an old compressed set is that of its last message
    return (
        base if magic == 2 else next((first for first, _, _ in RecordBatch(base, base, raw).records(0, bounds)), base)
    )


def _header_at(data: bytes, at: int, position: int, end: int) -> bool:
    """Return whether another batch seems to begin at `at`, or the data ends there."""
    if len(data) - at < _PREFIX.size:
        return len(data) == at
    base, length, _, magic = _PREFIX.unpack_from(data, at)
    return bool(position < base < end and length >= _MINIMUM and 0 <= magic <= 2)


def was_early(batch: RecordBatch, end: int) -> bool:
    """Return whether the log has meanwhile reached the offsets of the batch. A broker determines the end first and then
    reads data that may lie beyond.
    """
    claimed = claimed_next(batch.raw)
    return batch.fault is not None and batch.fault.beyond and claimed is not None and claimed <= end


def whole(raw: bytes) -> bool:
    """Return whether the data has the size that its own length field states."""
    return _size(raw, 0) == len(raw)


def is_cut(data: bytes) -> bool:
    """Return whether an answer ends within a batch."""
    at = 0
    while (size := _size(data, at)) is not None:
        at += size
    return at < len(data)


def begins_whole(data: bytes) -> bool:
    """Return whether the first batch is complete according to its length field."""
    return _size(data, 0) is not None


def claimed_next(raw: bytes) -> int | None:
    """Offset after a batch according to its own header, which may be wrong; None when the header cannot be read."""
    if len(raw) >= _PREFIX.size and raw[_PREFIX.size - 1] in (0, 1):
        return int(_PREFIX.unpack_from(raw)[0]) + 1
    if len(raw) < HEADER.size:
        return None
    header = HEADER.unpack_from(raw)
    return header[0] + header[6] + 1 if header[6] >= 0 else None


def _size(data: bytes, at: int) -> int | None:
    """Size in bytes of the batch at `at`; None when it is incomplete."""
    if len(data) - at < _PREFIX.size:
        return None
    length: int = _PREFIX.unpack_from(data, at)[1]
    return _LENGTH_END + length if _MINIMUM <= length <= len(data) - at - _LENGTH_END else None


def _batch(raw: bytes, position: int, end: int) -> RecordBatch:
    base, _, _, magic = _PREFIX.unpack_from(raw)
    if magic in (0, 1):
        return _legacy(raw, magic, base, position, end)
    if magic != 2:
        return RecordBatch(position, None, raw, fault=BatchDamage("magic", f"the batch has the unknown format {magic}"))
    if len(raw) < HEADER.size:
        return RecordBatch(position, None, raw, fault=BatchDamage("length", "the batch is shorter than its header"))
    header = HEADER.unpack_from(raw)
    if calc_crc32c(memoryview(raw)[_ATTRIBUTES_AT:]) != header[4]:
        return RecordBatch(position, None, raw, fault=BatchDamage("crc", "the checksum of the batch is wrong"))
    last = base + header[6]
    # The checksum covers neither the base offset nor the leader epoch
    if header[6] < 0 or base < 0 or last >= end >= 0:
        detail = f"the batch claims offsets {base} to {last}, but the log ends at {end}"
        beyond = header[6] >= 0 and base >= 0
        return RecordBatch(position, None, raw, fault=BatchDamage("offsets", detail, beyond=beyond))
    return RecordBatch(base, last, raw, count=max(1, header[12]))


def _legacy(raw: bytes, magic: int, offset: int, position: int, end: int) -> RecordBatch:
    try:
        healthy = LegacyRecordBatch(raw, magic).validate_crc()
    except Exception:
        healthy = False
    if not healthy:
        return RecordBatch(position, None, raw, fault=BatchDamage("crc", "the checksum of the message is wrong"))
    # The checksum does not cover the offset
    if offset >= end:
        detail = f"the message claims offset {offset}, but the log ends at {end}"
        return RecordBatch(position, None, raw, fault=BatchDamage("offsets", detail, beyond=True))
    # The offset of compressed messages is that of the last one
    return RecordBatch(min(position, offset) if _legacy_codec(raw) else offset, offset, raw)


def _legacy_codec(raw: bytes) -> int:
    return raw[_PREFIX.size] & _CODEC


def _legacy_value(raw: bytes, magic: int) -> bytes:
    at = _PREFIX.size + 1 + (8 if magic else 0)
    (key,) = struct.unpack_from(">i", raw, at)
    at += 4 + max(key, 0)
    (size,) = struct.unpack_from(">i", raw, at)
    return raw[at + 4 : at + 4 + max(size, 0)]


def _marker(raw: bytes) -> ControlRecord | None:
    try:
        return ControlRecord.parse(next(iter(DefaultRecordBatch(raw))).key)
    except Exception:
        return None


def _inflated(raw: bytes, limit: int) -> bytes:
    """The batch with its records decompressed. Raises: CodecError."""
    (attributes,) = struct.unpack_from(">h", raw, _ATTRIBUTES_AT)
    codec = attributes & _CODEC
    if not codec:
        return raw
    records = decompress(codec, raw[HEADER.size :], limit)
    plain = struct.pack(">h", attributes & ~_CODEC)
    return b"".join((raw[:_ATTRIBUTES_AT], plain, raw[_ATTRIBUTES_AT + 2 : HEADER.size], records))
