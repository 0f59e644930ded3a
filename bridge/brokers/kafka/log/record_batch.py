"""Record batches: their headers, their damage and their records. Pure.

A fault of one record affects that record; a fault of a batch (checksum, codec, inflated size) affects that batch.
Formats: https://kafka.apache.org/documentation/#recordbatch (magic 2), KIP-98. Only aiokafka reads message
sets (magic 0 and 1).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.record.legacy_records import LegacyRecordBatch
from aiokafka.record.util import calc_crc32c

from bridge.brokers.kafka.log.compression import CodecError, decompress
from bridge.brokers.kafka.log.records import (
    HEADER,
    LOG_APPEND_TIME,
    SMALL,
    Bounds,
    Damaged,
    LogMessage,
    around_damage,
    as_message,
    check_headers_first,
    too_many_headers,
)
from bridge.core.message import Message, Unreadable

_PREFIX = struct.Struct(">qiib")
"""Base offset, length, leader epoch (a CRC in old formats) and magic, at the same place in every format."""

_MAGIC_AT = _PREFIX.size - 1
_LENGTH_END = 12
_STAMP, _STAMP_END = struct.Struct(">q"), 26
"""Time in the header of a message of magic 1, and its end."""
_ATTRIBUTES_AT = 21
_MINIMUM = 14
"""Bytes after the length field in the smallest message of magic 0."""

_SEARCH_BYTES, _CANDIDATE_COST = 256 << 20, 16 << 10
"""Limit of the bytes whose checksums are computed to find a batch within a damaged one, and the bytes charged for each
candidate."""

_CODEC = 0x07

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
    """One batch of the data of a partition.

    base, last: offsets; `last` is None where the header that states it is damaged.
    raw: bytes of the batch, headers included.
    fault: damage that was met so far.
    kind: `control` and `aborted` batches hold nothing for a consumer.
    """

    base: int
    last: int | None
    raw: bytes
    fault: BatchDamage | None = None
    count: int = 1
    """Number of records, as stated in the header."""
    kind: BatchKind = field(default="records", init=False)
    confirmed: bool = field(default=False, init=False)
    """True after `confirm`: the damage is permanent."""
    inflated: int = field(default=0, init=False)
    """Decompressed size in bytes, while records are being handed out."""
    doubtful: bool = field(default=False, init=False)
    """True when the offsets must be compared with those of the surrounding batches before they are accepted."""
    unfollowed: bool = field(default=False, init=False)
    """True when the data ends with this batch, and no following batch confirms its offsets; see `OffsetCheck`."""
    ambiguous: bool = field(default=False, init=False)
    """True when either the offsets of this batch or those of the next one are wrong, and nothing shows which."""
    placed: bool = field(default=True, init=False)
    """True when the damaged batch begins at its base. One at the beginning of the data may lie before it, under a
    wrong header."""
    asked: int | None = field(default=None, init=False)
    """Offset of the fetch that returned the batch, where it differs from its base."""
    _records: Iterator[LogMessage] | None = field(default=None, init=False, repr=False)

    @property
    def magic(self) -> int:
        """Version of the format. Only of a batch that has a whole prefix."""
        return self.raw[_MAGIC_AT]

    @property
    def compressed(self) -> bool:
        """True when reading the batch may need more memory than its bytes."""
        return len(self.raw) > _ATTRIBUTES_AT + 1 and (self.magic < 2 or bool(self.raw[_ATTRIBUTES_AT + 1] & _CODEC))

    @property
    def states_base(self) -> bool:
        """True when the header states the offset of the first record: that of an old compressed set states the last
        one.
        """
        return self.magic == 2 or not _legacy_codec(self.raw)

    @property
    def time(self) -> float | None:
        """Time of the first record, in seconds since the Unix epoch, as the header states it; None where it states
        none, or is damaged.
        """
        magic = self.magic if len(self.raw) >= _PREFIX.size else 0
        if self.fault is not None or magic == 0 or len(self.raw) < (HEADER.size if magic == 2 else _STAMP_END):
            return None
        if magic == 1:
            (stamp,) = _STAMP.unpack_from(self.raw, _STAMP_END - _STAMP.size)
        else:
            header = HEADER.unpack_from(self.raw)
            stamp = header[8] if header[5] & LOG_APPEND_TIME else header[7]
        return None if stamp < 0 else stamp / 1000

    def set_kind(self, kind: BatchKind) -> None:
        """Record that the batch holds nothing for a consumer."""
        self.kind = kind

    def refuse_offsets(self, detail: str) -> None:
        """Record that the offsets in the header are wrong."""
        self.fault = BatchDamage("offsets", detail)

    def doubt_offsets(self, *, unfollowed: bool = False, ambiguous: bool = False) -> None:
        """Record that the offsets need a comparison with other batches; see the attributes."""
        self.doubtful = True
        self.unfollowed |= unfollowed
        self.ambiguous |= ambiguous

    def trust_offsets(self) -> None:
        """End the doubt, because the position of the group agrees with the offsets."""
        self.doubtful = self.ambiguous = False

    def end_doubt(self) -> None:
        """End the doubt, because no other batch can decide. Ambiguous offsets are damage."""
        self.doubtful = False
        if self.ambiguous:
            self.refuse_offsets("its offsets overlap with those of the next batch; one of the two is wrong")

    def locate(self, base: int, *, placed: bool, asked: int | None) -> None:
        """Give the damaged batch the place that its surroundings show. Its end is unknown."""
        self.base, self.last, self.placed, self.asked = base, None, placed, asked

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
        expected = self.base if self.magic == 2 else 0
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
                "record" if self.magic == 2 else "batch",
                f"the records cannot be parsed ({type(error).__name__})",
            )

    def _parsed(self, bounds: Bounds) -> Iterable[Any]:
        """aiokafka's records, with offset, timestamp, key, value and headers."""
        magic = self.magic
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
        return cast(Iterable[Any], records) if len(plain) <= SMALL else check_headers_first(plain, records, bounds)


def base_at(data: bytes, at: int) -> int | None:
    """Base offset in the header at `at`; None when there is no header."""
    if len(data) - at < _PREFIX.size:
        return None
    base, length, _, magic = _PREFIX.unpack_from(data, at)
    return int(base) if length >= _MINIMUM and 0 <= magic <= 2 else None


def hides_batch(raw: bytes, base: int, end: int) -> bool:
    """Return whether a damaged batch contains a whole batch, and its length is therefore wrong; also True when the
    search takes too long.

    base: offset of the damaged batch.
    end: the high watermark. A payload that contains copies of batches looks the same.
    """
    if len(raw) >= HEADER.size and calc_crc32c(raw[_ATTRIBUTES_AT:]) == HEADER.unpack_from(raw)[4]:
        return False  # the checksum covers the length indirectly
    formats = rb"\x02" if raw[_MAGIC_AT] == 2 else rb"[\x00-\x02]"
    # Leading bytes that all offsets from `base` to `end` share; a lookahead finds headers within headers
    varying = ((base ^ end).bit_length() + 7) // 8
    shared = re.escape(base.to_bytes(8)[: 8 - varying])
    pattern = rb"(?s)(?=%s.{%d}[\x00-\x7f].{7}%s)" % (shared, varying, formats)
    budget = _SEARCH_BYTES
    for match in re.finditer(pattern, raw):
        at = match.start()
        size = size_at(raw, at)
        if at == 0 or size is None or not base < _PREFIX.unpack_from(raw, at)[0] < end:
            continue
        budget -= size + _CANDIDATE_COST
        if budget < 0 or read_batch(raw[at : at + size], base, end).fault is None:
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
    behind = size_at(data, size)
    if behind is None:
        return base if 0 <= magic <= 2 else None
    raw = bytes(data[size : size + behind])
    # Where the length is damaged, payload is at this place and may look like a header
    if read_batch(raw, base, end).fault is not None:
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


def is_whole(raw: bytes) -> bool:
    """Return whether the data has the size that its own length field states."""
    return size_at(raw, 0) == len(raw)


def is_cut(data: bytes) -> bool:
    """Return whether an answer ends within a batch."""
    at = 0
    while (size := size_at(data, at)) is not None:
        at += size
    return at < len(data)


def begins_with_whole_batch(data: bytes) -> bool:
    """Return whether the first batch is complete according to its length field."""
    return size_at(data, 0) is not None


def claimed_next(raw: bytes) -> int | None:
    """Offset after a batch according to its own header, which may be wrong; None when the header cannot be read."""
    if len(raw) >= _PREFIX.size and raw[_MAGIC_AT] in (0, 1):
        return int(_PREFIX.unpack_from(raw)[0]) + 1
    if len(raw) < HEADER.size:
        return None
    header = HEADER.unpack_from(raw)
    return header[0] + header[6] + 1 if header[6] >= 0 else None


def size_at(data: bytes, at: int) -> int | None:
    """Size in bytes of the batch at `at`; None when it is incomplete."""
    if len(data) - at < _PREFIX.size:
        return None
    length: int = _PREFIX.unpack_from(data, at)[1]
    return _LENGTH_END + length if _MINIMUM <= length <= len(data) - at - _LENGTH_END else None


def read_batch(raw: bytes, position: int, end: int) -> RecordBatch:
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


def _inflated(raw: bytes, limit: int) -> bytes:
    """The batch with its records decompressed. Raises: CodecError."""
    (attributes,) = struct.unpack_from(">h", raw, _ATTRIBUTES_AT)
    codec = attributes & _CODEC
    if not codec:
        return raw
    records = decompress(codec, raw[HEADER.size :], limit)
    plain = struct.pack(">h", attributes & ~_CODEC)
    return b"".join((raw[:_ATTRIBUTES_AT], plain, raw[_ATTRIBUTES_AT + 2 : HEADER.size], records))
