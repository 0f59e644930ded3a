"""Records of one batch of magic 2: as messages, and read around damage. Pure.

aiokafka's own parser reads healthy records. Its error would end the whole fetch; therefore this module reads the
records of a damaged batch. Format: https://kafka.apache.org/documentation/#record.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from bridge.core.bytetext import text_of
from bridge.core.message import EXACT_MS, Headers, Message, Unreadable

HEADER = struct.Struct(">qiibIhiqqqhii")
"""Base offset, length, leader epoch, magic, CRC, attributes, last offset delta, first and highest timestamp, producer
id and epoch, base sequence, number of records."""

SMALL = 1 << 20
"""Bytes of a batch up to which headers take limited memory (50 MB) before they are counted."""

LOG_APPEND_TIME = 0x08
"""Attribute of a batch whose records all have its highest timestamp."""

LogMessage = tuple[int, int, Message]
"""A message with the first and last offset that it stands for. The two differ for damaged data only."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bounds of one batch.

    size: bytes when decompressed.
    records: of the batch; a reader that goes on within one reads all before its position again.
    headers: of a record; each takes two bytes of a batch and 100 of memory.
    """

    size: int
    records: int
    headers: int

    @property
    def safe_record_size(self) -> int:
        """Bytes of the largest record that cannot have too many headers."""
        return 2 * self.headers


def as_message(
    body: bytes | None, key: bytes | None, headers: Headers, stamp: int | None, unreadable: Unreadable | None = None
) -> Message:
    """Message of a record.

    stamp: milliseconds since the epoch; -1 is Kafka's "no timestamp".
    """
    if stamp is None or stamp == -1:
        return Message(body, key, headers, unreadable=unreadable)
    exact = -EXACT_MS < stamp < EXACT_MS
    return Message(body, key, headers, stamp / 1000, unreadable=unreadable, timestamp_ms=None if exact else stamp)


class Damaged(Exception):
    """A field of a record cannot be read."""

    def __init__(self, word: str, detail: str) -> None:
        super().__init__(detail)
        self.word = word
        self.detail = detail


def check_headers_first(data: bytes, records: Iterable[Any], bounds: Bounds) -> Iterator[Any]:
    """Check the number of a record's headers before they are created. Raises: Damaged."""
    at, remaining = HEADER.size, iter(records)
    while True:
        if at < len(data):
            size, begin = data[at] >> 1, at + 1
            if data[at] >= 0x80:
                size, begin = _varint(data, at, len(data))
            at = begin + size
            if size > bounds.safe_record_size:
                _check_headers(data, begin, min(at, len(data)), bounds.headers)
        try:
            record = next(remaining)
        except StopIteration:
            return
        yield record


def _check_headers(data: bytes, at: int, end: int, most: int) -> None:
    """Check the number of headers of the record in `data[at:end]`. Raises: Damaged."""
    _, at = _varint(data, at + 1, end)
    _, at = _varint(data, at, end)
    for _ in range(2):
        size, at = _varint(data, at, end)
        at += max(size, 0)
    count, _ = _varint(data, at, end)
    if count > most:
        raise too_many_headers(most)


def too_many_headers(most: int) -> Damaged:
    return Damaged("headers", f"the record has more than {most} headers (`max_headers`)")


def around_damage(data: bytes, base: int, end: int, first: int, bounds: Bounds) -> Iterator[LogMessage]:
    """Records of a batch of magic 2 from offset `first` on, with damaged ones as unreadable messages.

    data: the batch with its records decompressed.
    base, end: offsets of its first and last record. The length in front of each record leads past a damaged one.
    Damaged records without a readable offset take the offsets up to the next healthy record. After an unusable
    length, the rest of the batch is one unreadable message.
    """
    header = HEADER.unpack_from(data)
    at, expected = HEADER.size, base
    lost: tuple[int, Damaged] | None = None
    """Position in the data of the first damaged record without an offset, and the first damage."""
    for _ in range(header[12]):
        start = at
        try:
            size, begin = _varint(data, at, len(data))
            if not 0 < size <= len(data) - begin:
                raise Damaged("record", "the length of a record does not fit its batch")
        except Damaged as damage:
            lost = lost or (start, damage)
            break
        at = begin + size
        try:
            offset, message = _record(data, begin, at, header, bounds.headers)
            if not expected <= offset <= end:
                raise Damaged("record", "the offset of a record lies outside of its batch")
        except Damaged as damage:
            lost = lost or (start, damage)
            continue
        if lost is not None:
            yield from _run(data[lost[0] : start], max(expected, first), offset - 1, lost[1])
            lost = None
        expected = offset + 1
        if offset >= first:
            yield offset, offset, message
    if lost is None and at < len(data):
        lost = (at, Damaged("record", "bytes follow the last record"))
    if lost is not None:
        yield from _run(data[lost[0] :], max(expected, first), end, lost[1])


def _run(raw: bytes, first: int, last: int, damage: Damaged) -> Iterator[LogMessage]:
    """One unreadable message for a run of offsets, unless the run is empty."""
    if first <= last:
        yield first, last, Message(raw, unreadable=Unreadable(damage.word, damage.detail, last=last))


def _record(data: bytes, at: int, end: int, header: tuple[int, ...], most: int) -> tuple[int, Message]:
    """Offset and message of the record in `data[at:end]`. Raises: Damaged when not even the offset can be read."""
    begin = at
    delta, at = _varint(data, at + 1, end)  # behind the attributes, which have no meaning yet
    timestamp = header[8] if header[5] & LOG_APPEND_TIME else header[7] + delta
    delta, at = _varint(data, at, end)
    offset = header[0] + delta
    key_known = False
    key: bytes | None = None
    headers: list[tuple[str, bytes | None]] = []
    try:
        key, at = _bytes(data, at, end)
        key_known = True
        body, at = _bytes(data, at, end)
    except Damaged as damage:
        unreadable = Unreadable(damage.word, damage.detail, key_known)
        return offset, as_message(data[begin:end], key, (), timestamp, unreadable)
    name_fault = False
    try:
        count, at = _varint(data, at, end)
        if count < 0:
            raise Damaged("record", "the number of headers is negative")
        if count > most:
            raise too_many_headers(most)
        for _ in range(count):
            name, at = _bytes(data, at, end)
            value, at = _bytes(data, at, end)
            if name is None:
                raise Damaged("record", "a header has no name")
            text = text_of(name)
            name_fault = name_fault or not _is_utf8(name)
            headers.append((text, value))
        if at != end:
            raise Damaged("record", "bytes follow the last header of a record")
    except Damaged as damage:
        # All bytes of the record: the payload among them cannot be identified
        unreadable = Unreadable(damage.word, damage.detail, key_known)
        return offset, as_message(data[begin:end], key, tuple(headers), timestamp, unreadable)
    found = Unreadable("header_name", "the name of a header is not UTF-8", key_known) if name_fault else None
    return offset, as_message(body, key, tuple(headers), timestamp, found)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _bytes(data: bytes, at: int, end: int) -> tuple[bytes | None, int]:
    size, at = _varint(data, at, end)
    if size < 0:
        return None, at
    if size > end - at:
        raise Damaged("record", "a length within a record points past its end")
    return data[at : at + size], at + size


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Read a zigzag varint, as Protocol Buffers writes it, and return its value and the next position. Raises:
    Damaged.
    """
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), at
        shift += 7
    raise Damaged("record", "a number within a record does not end")
