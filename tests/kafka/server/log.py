"""Partitions: batches as producers sent them, with the offsets that they got."""

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
"""Base offset, length, leader epoch, magic, CRC, attributes, last offset delta, two times, producer id and epoch,
first sequence, count."""

_TRANSACTIONAL, _CONTROL = 0x10, 0x20
_KEPT_SEQUENCES = 5

INDEX_INTERVAL = 7
"""Batches from one entry of the index to the next."""

SEGMENT = 40
"""Batches in a segment, the unit in which a log is stored: no answer goes beyond one."""


@dataclass(slots=True)
class Batch:
    """first, last: offsets. timestamp: the highest, milliseconds."""

    first: int
    last: int
    timestamp: int
    data: bytes


def _told_last(batch: Batch) -> int:
    """Last offset as the header has it."""
    if len(batch.data) < HEADER.size or batch.data[16] != 2:
        return int.from_bytes(batch.data[:8], signed=True)
    header = HEADER.unpack_from(batch.data)
    return int(header[0] + header[6])


@dataclass
class Producer:
    """What a partition remembers of an idempotent producer: first sequence, its offset and the next sequence."""

    epoch: int
    batches: list[tuple[int, int, int]] = field(default_factory=list)


class Partition:
    """One log."""

    def __init__(self, max_message: int) -> None:
        self.max_message = max_message
        self.start = 0
        self.end = 0
        self.waiters: set[asyncio.Future[None]] = set()
        self.aborted: list[tuple[int, int, int]] = []
        """Producer id, first and last offset of each aborted transaction."""
        self.transform: Callable[[bytes], bytes] = bytes
        """What a read makes of the bytes: a way for them to differ from one read to the next."""
        self.refusal: Callable[[], int] = int
        """Error code that a fetch is answered with, 0 for none."""
        self.segment = SEGMENT
        self._batches: list[Batch] = []
        self._producers: dict[int, Producer] = {}
        self._open: dict[int, int] = {}

    @property
    def stable_end(self) -> int:
        """Where the first open transaction begins, else the end."""
        return min(self._open.values(), default=self.end)

    def append(self, data: bytes) -> tuple[int, int]:
        """Error code and base offset."""
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
        """Put a batch of `size` offsets at the end as it is, whatever it holds: what a rotten disk would give.

        base: what its header tells of its first offset.
        """
        placed = bytearray(data)
        placed[:8] = self.end.to_bytes(8) if base is None else base
        self._batches.append(Batch(self.end, self.end + size - 1, 0, bytes(placed)))
        self.end += size
        self.wake()

    def fill(self, batches: Sequence[bytes], end: int) -> None:
        """Put batches at the end that tell their own offsets. end: offset after the last one."""
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
        """Bytes from the batch that holds `offset` by its own header, at least the whole of it, and `limit` at most.

        As Kafka does it: the segment is found by the offset it was begun with, the search in it begins at an entry of a
        sparse index that was written with the batches, and the last batch may be cut. The next segment is read where
        this one has nothing.
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

    def truncate(self, offset: int) -> None:
        """Delete what lies before `offset`."""
        self.start = self.end if offset < 0 else min(offset, self.end)
        self._batches = [batch for batch in self._batches if batch.last >= self.start]

    def compact(self) -> None:
        """Keep the last record of each key; the last batch stays as it is."""
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
        """Tell those who wait for records."""
        waiters, self.waiters = self.waiters, set()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
