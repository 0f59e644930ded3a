"""Queries of the log, on one connection.

One statement writes or reads many records, packed in JSON and one blob. SQLite's Python module releases the interpreter
lock at every row step, and beside a busy event loop each step takes up to 5 ms to get the lock back.
"""

from __future__ import annotations

import itertools
import secrets
import sqlite3
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import orjson

from bridge.brokers.local.encoding import (
    CommittedPosition,
    decode_headers,
    decode_offsets,
    encode_headers,
    encode_offsets,
)
from bridge.brokers.positions import GroupPosition, Move, kept_done
from bridge.core.errors import PublishFailed
from bridge.core.message import EXACT_MS, Headers, Message, Unreadable

_OFFSET_BITS = 40
_APPEND_BYTES = 32 * 1024 * 1024
_EXACT = EXACT_MS * 1000
_LARGEST = 2**63

_INSERT = """
INSERT INTO records (id, timestamp, appended, key_size, body_size, headers_size, data)
SELECT value ->> 0, value ->> 1, ?, value ->> 2, value ->> 3, value ->> 4, substr(?, value ->> 5, value ->> 6)
FROM json_each(?)
"""
_ADVANCE = """
UPDATE partitions SET next = given.value ->> 1 FROM json_each(?) AS given WHERE partitions.id = given.value ->> 0
"""
_SIZES = """
SELECT json_group_array(json_array(id - ?1, timestamp, key_size, body_size, headers_size, size)) FROM (
  SELECT id, timestamp, key_size, body_size, headers_size, length(data) AS size FROM records
  WHERE id >= ?2 AND id < ?3 ORDER BY id LIMIT ?4
)
"""
_DATA = (
    "SELECT CAST(group_concat(data, '') AS BLOB) FROM (SELECT data FROM records WHERE id BETWEEN ? AND ? ORDER BY id)"
)
_ENDS = "SELECT json_group_array(json_array(id, next)) FROM partitions WHERE id IN (SELECT value FROM json_each(?))"
_EXPIRE = """
DELETE FROM records WHERE id IN (SELECT id FROM records WHERE id >= ? AND id < ? ORDER BY id LIMIT ?) AND appended < ?
"""

_FIRST = "SELECT min(id) FROM records WHERE id BETWEEN ? AND ?"
_AT = "SELECT min(id) FROM records WHERE id BETWEEN ? AND ? AND timestamp >= ?"
# Versions of the bridge without moves ignore the table
_MOVES = """
CREATE TABLE IF NOT EXISTS moves (
  consumer_group TEXT NOT NULL, partition INTEGER NOT NULL REFERENCES partitions, stamp INTEGER NOT NULL,
  PRIMARY KEY (consumer_group, partition)
) STRICT, WITHOUT ROWID
"""
_HAS_MOVES = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'moves'"

RecordRow = tuple[int, int, int | None, int | None, int, int]
"""Offset, timestamp in microseconds, sizes of key, body and headers, and the size of all data; sizes in bytes."""


@dataclass(slots=True)
class FetchedRecords:
    """Records of one partition in order: their rows, and their keys, bodies and headers in one piece."""

    rows: list[RecordRow]
    data: bytes

    def messages(self) -> Iterator[tuple[int, Message]]:
        """Messages with their offsets."""
        at = 0
        for row in self.rows:
            message, at = unpack(self.data, at, row)
            yield row[0], message


def unpack(data: bytes, at: int, row: RecordRow) -> tuple[Message, int]:
    """Message that begins at `at`, and the position of its end. A message with damaged sizes or headers is
    unreadable.
    """
    _, stamp, key_size, body_size, headers_size, size = row
    sizes = (key_size or 0, body_size or 0, headers_size)
    if sum(sizes) != size or min(sizes) < 0:
        unreadable = Unreadable("record", "the sizes of the record do not fit its data")
        return Message(data[at : at + size], timestamp=stamp / 1_000_000, unreadable=unreadable), at + size
    key = body = None
    if key_size is not None:
        key = data[at : at + key_size]
        at += key_size
    if body_size is not None:
        body = data[at : at + body_size]
        at += body_size
    found: Headers = ()
    if headers_size:
        encoded = data[at : at + headers_size]
        at += headers_size
        try:
            found = decode_headers(encoded)
        except ValueError:
            unreadable = Unreadable("headers", "the headers of the record are damaged", key_known=True)
            return Message(body, key, (), stamp / 1_000_000, unreadable=unreadable), at
    exact = -_EXACT < stamp < _EXACT or stamp % 1000
    return Message(body, key, found, stamp / 1_000_000, timestamp_ms=None if exact else stamp // 1000), at


def _microseconds(message: Message, now: float) -> int:
    """Time of a message in microseconds for the log, which stores 64 bits. Raises: PublishFailed."""
    milliseconds = message.milliseconds
    if milliseconds is None:
        return int(now * 1e6)
    if not -_LARGEST < milliseconds * 1000 < _LARGEST:
        raise PublishFailed("the timestamp is more than 292,000 years from 1970, which the log cannot store")
    if message.timestamp is None or message.timestamp_ms is not None:
        return milliseconds * 1000
    if abs(message.timestamp) < 2**32:
        return round(message.timestamp * 1e6)
    return round(Fraction(message.timestamp) * 1_000_000)  # The product of two floats is not exact here


@dataclass(frozen=True, slots=True)
class Fetch:
    """Request for records of a partition from `offset` on: at most `limit` records and `size` bytes, but at least one
    record.
    """

    partition: int
    offset: int
    limit: int
    size: int


def _last_id(partition: int) -> int:
    return ((partition + 1) << _OFFSET_BITS) - 1


class Log:
    """The log, seen through one connection. Only one thread at a time may use it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.appended = False
        """True when the present transaction has appended records."""
        self._has_moves = False
        self._topics: dict[str, list[int]] = {}
        # Records without a key go to the partitions in turn, from a start that differs between processes
        self._turn = itertools.count(secrets.randbelow(1 << 16))

    def begin(self) -> None:
        """Begin a transaction that writes."""
        self.appended = False
        self.connection.execute("BEGIN IMMEDIATE")

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def cluster(self) -> str:
        """Stable identity of this log."""
        return str(self.connection.execute("SELECT id FROM cluster").fetchone()[0])

    def topics(self) -> dict[str, int]:
        """Number of partitions by topic."""
        rows = self.connection.execute(
            "SELECT name, count(*) FROM topics JOIN partitions ON topic = topics.id GROUP BY name ORDER BY name"
        )
        return dict(rows.fetchall())

    def partitions(self, name: str) -> list[int]:
        """Ids of the topic's partitions by number; empty when there is no such topic."""
        query = "SELECT partitions.id FROM partitions JOIN topics ON topic = topics.id WHERE name = ? ORDER BY number"
        return [row[0] for row in self.connection.execute(query, (name,))]

    def topic(self, name: str, partitions: int) -> list[int]:
        """Ids of the topic's partitions by number. A missing topic is created with `partitions`.

        Call only within a write transaction. After a rollback, drop the connection: created topics are cached in it.
        """
        known = self._topics.get(name)
        if known is not None:
            return known
        found = self.connection.execute("SELECT id FROM topics WHERE name = ?", (name,)).fetchone()
        if found is None:
            topic = self.connection.execute("INSERT INTO topics (name) VALUES (?)", (name,)).lastrowid
            rows = [(topic, number) for number in range(partitions)]
            self.connection.executemany("INSERT INTO partitions (topic, number, next) VALUES (?, ?, 0)", rows)
        else:
            topic = found[0]
        ids = self.connection.execute("SELECT id FROM partitions WHERE topic = ? ORDER BY number", (topic,)).fetchall()
        self._topics[name] = [row[0] for row in ids]
        return self._topics[name]

    def append(self, topic: str, messages: Sequence[Message], partitions: int) -> list[tuple[int, int]]:
        """Append to a topic; return partition and offset of each message. Call only within a write transaction.

        A missing topic is created with `partitions`.
        """
        ids = self.topic(topic, partitions)
        ends = self.ends(ids)
        now = time.time()
        rows: list[tuple[int, int, int | None, int | None, int, int, int]] = []
        # SQLite passes an empty blob to its functions as NULL; the first byte is therefore never used
        parts, at = [b"\0"], 2
        places: list[tuple[int, int]] = []
        for message in messages:
            key, body = message.key, message.body
            turn = next(self._turn) if key is None else zlib.crc32(key)
            number = turn % len(ids)
            partition = ids[number]
            offset = ends[partition]
            places.append((number, offset))
            ends[partition] = offset + 1
            packed = encode_headers(message.headers) if message.headers else b""
            data = b"".join((key or b"", body or b"", packed))
            stamp = _microseconds(message, now)
            key_size = None if key is None else len(key)
            body_size = None if body is None else len(body)
            record = (partition << _OFFSET_BITS) + offset
            rows.append((record, stamp, key_size, body_size, len(packed), at, len(data)))
            parts.append(data)
            at += len(data)
            if at > _APPEND_BYTES:
                self._insert(rows, parts, int(now))
                rows, parts, at = [], [b"\0"], 2
        self._insert(rows, parts, int(now))
        self.connection.execute(_ADVANCE, (orjson.dumps(list(ends.items())).decode(),))
        self.appended = True
        return places

    def _insert(
        self, rows: list[tuple[int, int, int | None, int | None, int, int, int]], parts: list[bytes], now: int
    ) -> None:
        if rows:
            self.connection.execute(_INSERT, (now, b"".join(parts), orjson.dumps(rows).decode()))

    def ends(self, partitions: Sequence[int]) -> dict[int, int]:
        """Next offset to be written, by partition id."""
        return dict(orjson.loads(self.connection.execute(_ENDS, (orjson.dumps(partitions).decode(),)).fetchone()[0]))

    def ranges(self, partitions: Sequence[int]) -> dict[int, tuple[int, int]]:
        """First offset and next offset to be written, by partition id. They are equal in an empty partition."""
        ends = self.ends(partitions)
        query = "SELECT min(id) FROM records WHERE id >= ? AND id < ?"
        found = {}
        for key, end in ends.items():
            base = key << _OFFSET_BITS
            [first] = self.connection.execute(query, (base, (key + 1) << _OFFSET_BITS)).fetchone()
            found[key] = (end if first is None else first - base, end)
        return found

    def fetch(
        self, partitions: Sequence[int], fetches: Sequence[Fetch]
    ) -> tuple[dict[int, int], dict[int, FetchedRecords]]:
        """Ends of all `partitions`, and records for those fetches that have any, read in one transaction."""
        self.connection.execute("BEGIN")
        try:
            ends = self.ends(partitions)
            batches = {fetch.partition: self._read(fetch) for fetch in fetches if fetch.offset < ends[fetch.partition]}
        finally:
            self.connection.execute("COMMIT")
        return ends, batches

    def at(self, partition: int, offsets: Sequence[int], size: int) -> list[tuple[int, Message | None]]:
        """Records at these offsets up to `size` bytes, but at least one; None for a missing record."""
        found: list[tuple[int, Message | None]] = []
        for offset in offsets:
            if found and size <= 0:
                break
            batch = self._read(Fetch(partition, offset, 1, size))
            [(there, message)] = batch.messages() if batch.rows else [(-1, None)]
            found.append((offset, message if there == offset else None))
            size -= len(batch.data)
        return found

    def _read(self, fetch: Fetch) -> FetchedRecords:
        base = fetch.partition << _OFFSET_BITS
        end = (fetch.partition + 1) << _OFFSET_BITS
        sizes = self.connection.execute(_SIZES, (base, base + fetch.offset, end, fetch.limit)).fetchone()[0]
        rows: list[RecordRow] = orjson.loads(sizes)
        if not rows:
            return FetchedRecords([], b"")
        total = 0
        for count, (*_, size) in enumerate(rows):
            total += size
            if total > fetch.size and count:
                del rows[count:]
                break
        data = self.connection.execute(_DATA, (base + rows[0][0], base + rows[-1][0])).fetchone()[0]
        return FetchedRecords(rows, data or b"")

    def enter(self, group: str, topics: Sequence[str], partitions: int, latest: bool) -> dict[str, list[int]]:
        """Partition ids of the topics by name. Stores the group's start position in partitions that are new to the
        group.
        """
        found = {name: self.topic(name, partitions) for name in topics}
        ids = [partition for topic in found.values() for partition in topic]
        starts = self.ends(ids) if latest else dict.fromkeys(ids, 0)
        self.connection.executemany(
            "INSERT INTO positions VALUES (?, ?, ?, '[]') ON CONFLICT DO NOTHING",
            [(group, partition, start) for partition, start in starts.items()],
        )
        return found

    def group_positions(self, group: str, topics: Sequence[str], *, latest: bool) -> list[tuple[int, GroupPosition]]:
        """Ids of the topics' partitions with the group's positions.

        latest: a group without a position begins at the end.
        """
        found: list[tuple[int, GroupPosition]] = []
        for topic in topics:
            ids = self.partitions(topic)
            ends = self.ends(ids)
            for number, partition in enumerate(ids):
                end, position = ends[partition], self._committed(group, partition)
                first = self.connection.execute(_FIRST, (partition << _OFFSET_BITS, _last_id(partition))).fetchone()[0]
                begin = end if first is None else first - (partition << _OFFSET_BITS)
                start = (end if latest else begin) if position is None else max(position.next, begin)
                done = () if position is None else tuple(each for each in position.done if each >= start)
                committed = None if position is None else position.next
                stamp = self.stamp(group, partition)
                found.append((partition, GroupPosition(topic, number, begin, end, committed, start, done, stamp=stamp)))
        return found

    def offset_at(self, partition: int, time: float) -> int | None:
        """First offset of a record with this time or a later one; None without one. time: seconds since the epoch."""
        base = partition << _OFFSET_BITS
        found = self.connection.execute(_AT, (base, _last_id(partition), int(time * 1_000_000))).fetchone()[0]
        return None if found is None else int(found) - base

    def position(self, group: str, partition: int) -> CommittedPosition:
        """Committed position of the group."""
        return self._committed(group, partition) or CommittedPosition(0)

    def _committed(self, group: str, partition: int) -> CommittedPosition | None:
        query = "SELECT next, done FROM positions WHERE consumer_group = ? AND partition = ?"
        found = self.connection.execute(query, (group, partition)).fetchone()
        return None if found is None else CommittedPosition(found[0], decode_offsets(found[1]))

    def commit(self, group: str, partition: int, given: CommittedPosition, stamp: int = 0) -> None:
        """Merge a position into the committed one. Call only within a write transaction.

        stamp: of the assignment. A commit from before a move of the position is ignored: it would undo the move.
        """
        if self.stamp(group, partition) != stamp:
            return
        merged = self.position(group, partition).merge(given)
        self.connection.execute(
            "INSERT OR REPLACE INTO positions VALUES (?, ?, ?, ?)",
            (group, partition, merged.next, encode_offsets(merged.done)),
        )

    def stamp(self, group: str, partition: int) -> int:
        """Stamp of the last move of the group's position in a partition; 0 before the first."""
        self._has_moves = self._has_moves or self.connection.execute(_HAS_MOVES).fetchone() is not None
        if not self._has_moves:
            return 0
        query = "SELECT stamp FROM moves WHERE consumer_group = ? AND partition = ?"
        found = self.connection.execute(query, (group, partition)).fetchone()
        return 0 if found is None else int(found[0])

    def move(self, group: str, partition: int, move: Move) -> int:
        """Move the group's position, unless it was moved by this stamp or a later one; return the position before.

        Call only within a write transaction.
        """
        before = self.position(group, partition)
        if self.stamp(group, partition) < move.stamp:
            done = encode_offsets(kept_done(before.next, before.done, move.to))
            self.connection.execute(
                "INSERT OR REPLACE INTO positions VALUES (?, ?, ?, ?)", (group, partition, move.to, done)
            )
            self.connection.execute(_MOVES)
            self.connection.execute("INSERT OR REPLACE INTO moves VALUES (?, ?, ?)", (group, partition, move.stamp))
        return before.next

    def expire(self, before: float, limit: int) -> int:
        """Delete the oldest records that were appended before a time, and return their number.

        before: seconds since the epoch.
        limit: most records deleted per partition. Call only within a write transaction.
        """
        deleted = 0
        for (partition,) in self.connection.execute("SELECT id FROM partitions").fetchall():
            base, end = partition << _OFFSET_BITS, (partition + 1) << _OFFSET_BITS
            deleted += self.connection.execute(_EXPIRE, (base, end, limit, int(before))).rowcount
        return deleted
