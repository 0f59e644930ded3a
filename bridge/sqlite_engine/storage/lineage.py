"""Index of the engine's file: hashes of ids, and searches for them.

An id is found as the hash of its text. The caller checks each result by the data itself: two ids may have one hash.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from bridge.sqlite_engine.storage.payloads import RECORD, Payloads

_BYTES = 6
"""Bytes of a hash. SQLite stores a number of six bytes in six bytes."""

_HALF = 1 << (8 * _BYTES - 1)
_number = int.from_bytes

MOST = 1000
"""Most instances of one search."""


def hash_of(text: str) -> int:
    """Hash of an id, the same in every process."""
    return _number(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_BYTES).digest(), "big") - _HALF


@dataclass(frozen=True, slots=True)
class Begin:
    """Begin of the index. Instances up to `key`, which were created before `at`, may lack rows."""

    key: int
    at: int


@dataclass(frozen=True, slots=True)
class Hits:
    """Result of a search. records: (time in microseconds, kind, body). more: further instances were left out."""

    instances: tuple[str, ...]
    entities: tuple[str, ...]
    records: tuple[tuple[int, int, str], ...]
    more: bool


_INSTANCES = """
    WITH RECURSIVE ranges (n) AS (
        SELECT min(key >> 11) FROM lineage
        UNION ALL
        SELECT (SELECT min(key >> 11) FROM lineage WHERE (key >> 11) > n) FROM ranges WHERE n IS NOT NULL
    )
    SELECT DISTINCT i.id FROM ranges CROSS JOIN lineage l ON (l.key >> 11) = n AND l.hash IN ({})
    JOIN instances i ON i.key = l.key LIMIT ?
"""
_ENTITIES = "SELECT DISTINCT entity FROM lineage_entities WHERE hash IN ({}) LIMIT ?"
_RECORDS = """
    SELECT DISTINCT r.seq, r.at, r.kind, r.body FROM lineage_record_ids h JOIN lineage_records r USING (seq)
    WHERE h.hash IN ({}) ORDER BY r.seq LIMIT ?
"""


def search(connection: sqlite3.Connection, payloads: Payloads, ids: Sequence[str]) -> Hits:
    """Search for ids, which all mean the same. Raises: sqlite3.Error; DecodeError when a record cannot be decrypted."""
    hashes = [hash_of(each) for each in ids]
    marks = ",".join("?" * len(hashes))

    def found(query: str) -> list[tuple[object, ...]]:
        return connection.execute(query.format(marks), (*hashes, MOST + 1)).fetchall()

    instances = [str(row[0]) for row in found(_INSTANCES)]
    records = connection.execute(_RECORDS.format(marks), (*hashes, MOST)).fetchall()
    return Hits(
        tuple(instances[:MOST]),
        tuple(str(row[0]) for row in found(_ENTITIES)[:MOST]),
        tuple((at, kind, payloads.text(body, RECORD, seq) or "") for seq, at, kind, body in records),
        len(instances) > MOST,
    )


def begin_of(connection: sqlite3.Connection) -> Begin | None:
    """Begin of the index; None while it is not written. Raises: sqlite3.Error."""
    row = connection.execute("SELECT key, at FROM lineage_begin").fetchone()
    return None if row is None else Begin(*row)


def set_writing(connection: sqlite3.Connection, on: bool, now: int) -> None:
    """Record that the index is written from now on, or not any more. Raises: sqlite3.Error."""
    begun = begin_of(connection) is not None
    if on and not begun:
        connection.execute("INSERT INTO lineage_begin (key, at) SELECT coalesce(max(key), 0), ? FROM instances", (now,))
    elif begun and not on:
        connection.execute("DELETE FROM lineage_begin")


def count_records(connection: sqlite3.Connection) -> Counter[int]:
    """Number of records by kind. Raises: sqlite3.Error."""
    return Counter(dict(connection.execute("SELECT kind, count(*) FROM lineage_records GROUP BY kind").fetchall()))


def last_record(connection: sqlite3.Connection) -> int:
    """Number of the newest record; 0 without one. Raises: sqlite3.Error."""
    return int(connection.execute("SELECT coalesce(max(seq), 0) FROM lineage_records").fetchone()[0])


def hashes_of(ids: Iterable[str]) -> list[int]:
    return [hash_of(each) for each in ids]
