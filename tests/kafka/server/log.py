"""Partition logs: batches as producers sent them, with the offsets assigned to them."""

from __future__ import annotations

import asyncio
import bisect
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from aiokafka.record import MemoryRecords
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c

from tests.kafka.server import errors

HEADER = struct.Struct(">qiibIhiqqqhii")
"""Layout of a batch header: base offset, length, leader epoch, magic, CRC, attributes, last offset delta, first and
highest timestamp, producer id and epoch, first sequence, record count."""

_TRANSACTIONAL, _CONTROL = 0x10, 0x20
_KEPT_SEQUENCES = 5

INDEX_INTERVAL = 7
"""Number of batches between two index entries."""

SEGMENT = 40
"""Number of batches in a segment, the unit of storage; no fetch response spans two segments."""


@dataclass(slots=True)
class Batch:
    """Stored batch. first, last: offsets. timestamp: the highest, in milliseconds."""

    first: int
    last: int
    timestamp: int
    data: bytes


def _told_last(batch: Batch) -> int:
    """Return the last offset that the batch header states."""
    if len(batch.data) < HEADER.size or batch.data[16] != 2:
        return int.from_bytes(batch.data[:8], signed=True)
    header = HEADER.unpack_from(batch.data)
    return int(header[0] + header[6])


@dataclass
class Producer:
    """State of an idempotent producer in one partition.

    batches: first sequence, offset and next sequence of recent batches.
    """

    epoch: int
    batches: list[tuple[int, int, int]] = field(default_factory=list)


class Partition:
    """Log of one partition."""

    def __init__(self, max_message: int) -> None:
        self.max_message = max_message
        self.start = 0
        self.end = 0
        self.waiters: set[asyncio.Future[None]] = set()
        self.aborted: list[tuple[int, int, int]] = []
        """Producer id, first offset and last offset of each aborted transaction."""
        self.transform: Callable[[bytes], bytes] = bytes
        """Applied to the bytes of each read; lets two reads of the same offset differ."""
        self.refusal: Callable[[], int] = int
        """Callback that returns the error code of the next fetch response; 0 for none."""
        self.segment = SEGMENT
        self._batches: list[Batch] = []
        self._producers: dict[int, Producer] = {}
        self._open: dict[int, int] = {}

    @property
    def stable_end(self) -> int:
        """First offset of the earliest open transaction, or the end of the log."""
        return min(self._open.values(), default=self.end)

    def append(self, data: bytes) -> tuple[int, int]:
        """Append a batch. Returns error code and base offset."""
        header = HEADER.unpack_from(data)
        attributes, delta, producer_id, epoch, sequence, count = header[5], header[6], *header[9:13]
        if header[3] != 2:
            return errors.UNSUPPORTED_FORMAT, -1
        if len(data) > self.max_message:
            return errors.MESSAGE_TOO_LARGE, -1
        first = self.end
        if producer_id >= 0 and not attributes & _CONTROL:
            producer = self._producers.setdefault(producer_id, Producer(epoch))
            if epoch < producer.epoch:
                return errors.INVALID_PRODUCER_EPOCH, -1
            if epoch > producer.epoch:
                producer = self._producers[producer_id] = Producer(epoch)
            for known, offset, _ in producer.batches:
                if known == sequence:
                    return errors.NONE, offset
            if producer.batches and producer.batches[-1][2] != sequence:
                return errors.OUT_OF_ORDER_SEQUENCE, -1
            producer.batches = [*producer.batches, (sequence, first, sequence + count)][-_KEPT_SEQUENCES:]
            if attributes & _TRANSACTIONAL:
                self._open.setdefault(producer_id, first)
        placed = bytearray(data)
        struct.pack_into(">q", placed, 0, first)
        struct.pack_into(">i", placed, 12, 0)
        self._batches.append(Batch(first, first + delta, header[8], bytes(placed)))
        self.end = first + delta + 1
        self.wake()
        return errors.NONE, first

    def place(self, data: bytes, size: int, *, base: bytes | None = None) -> None:
        """Append a batch of `size` offsets unchecked, as a corrupt disk would return it.

        base: first eight bytes, the base offset that the header states; None for the true one.
        """
        placed = bytearray(data)
        placed[:8] = self.end.to_bytes(8) if base is None else base
        self._batches.append(Batch(self.end, self.end + size - 1, 0, bytes(placed)))
        self.end += size
        self.wake()

    def fill(self, batches: Sequence[bytes], end: int) -> None:
        """Append batches whose headers state their own offsets. end: offset after the last one."""
        following = [int.from_bytes(data[:8]) for data in batches[1:]] + [end]
        for data, after in zip(batches, following, strict=True):
            self.place(data, after - self.end)

    def finish(self, producer_id: int, epoch: int, *, commit: bool) -> None:
        """End a transaction by a control record."""
        if producer_id not in self._open:
            return
        first = self._open.pop(producer_id)
        now = int(time.time() * 1000)
        key, value = struct.pack(">hh", 0, int(commit)), struct.pack(">hi", 0, 0)
        record = bytes([0, 0, 0, len(key) << 1]) + key + bytes([len(value) << 1]) + value + b"\0"
        body = HEADER.pack(0, 0, 0, 2, 0, _CONTROL | _TRANSACTIONAL, 0, now, now, producer_id, epoch, -1, 1)[21:]
        body += bytes([len(record) << 1]) + record
        if not commit:
            self.aborted.append((producer_id, first, self.end))
        self.append(struct.pack(">qiibI", 0, len(body) + 9, 0, 2, calc_crc32c(body)) + body)

    def read(self, offset: int, limit: int, end: int) -> bytes:
        """Return bytes from the batch whose header covers `offset`: at least that whole batch, otherwise at most
        `limit` bytes.

        The search follows Kafka: the segment is found by its base offset. The scan begins at an entry of a sparse
        index, which was written with the batches. The last batch may be cut. The next segment is read when this one has
        no matching batch.
        """
        at = max(bisect.bisect_right(self._batches, offset, key=lambda batch: batch.first) - 1, 0)
        begin = at - at % self.segment
        at -= (at - begin) % INDEX_INTERVAL
        found: list[bytes] = []
        size = 0
        for start in range(begin, len(self._batches), self.segment):
            for batch in self._batches[max(at, start) : start + self.segment]:
                if not found and _told_last(batch) < offset:
                    continue
                if batch.first >= end or (found and size >= limit):
                    break
                found.append(batch.data)
                size += len(batch.data)
            if found:
                break
        return self.transform(b"".join(found)[: max(limit, len(found[0]))] if found else b"")

    def at(self, milliseconds: int) -> tuple[int, int]:
        """Return time and offset of the first record with this time or a later one; -1 and -1 without one."""
        for batch in self._batches:
            if batch.timestamp >= milliseconds:
                for records in iter(MemoryRecords(batch.data).next_batch, None):
                    for record in records:
                        if record.timestamp >= milliseconds and record.offset >= self.start:
                            return record.timestamp, record.offset
        return -1, -1

    def truncate(self, offset: int) -> None:
        """Delete the records before `offset`; a negative offset deletes all."""
        self.start = self.end if offset < 0 else min(offset, self.end)
        self._batches = [batch for batch in self._batches if batch.last >= self.start]

    def compact(self) -> None:
        """Keep the last record of each key; the last batch stays unchanged."""
        latest: dict[bytes, int] = {}
        for batch in self._batches:
            for record in MemoryRecords(batch.data).next_batch():
                latest[record.key] = record.offset
        kept: list[Batch] = []
        for batch in self._batches[:-1]:
            records = [each for each in MemoryRecords(batch.data).next_batch() if latest[each.key] == each.offset]
            if not records:
                continue
            builder = DefaultRecordBatchBuilder(
                2, 0, is_transactional=0, producer_id=-1, producer_epoch=-1, base_sequence=-1, batch_size=1 << 24
            )
            for each in records:
                distance = each.offset - batch.first
                builder.append(distance, each.timestamp, each.key, each.value, list(each.headers))
            data = bytearray(builder.build())
            struct.pack_into(">q", data, 0, batch.first)
            kept.append(Batch(batch.first, batch.last, batch.timestamp, bytes(data)))
        self._batches = [*kept, *self._batches[-1:]]

    def wake(self) -> None:
        """Wake the fetch requests that wait for records."""
        waiters, self.waiters = self.waiters, set()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
