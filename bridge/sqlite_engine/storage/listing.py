"""List of instances, newest first, in parts: read from the engine's file, whichever process hosts the engine."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from durabletask.internal import orchestrator_service_pb2 as pb
from google.protobuf.message import DecodeError

from bridge.sqlite_engine.model.instance import FINISHED, StoredInstance
from bridge.sqlite_engine.storage.payloads import Payloads
from bridge.sqlite_engine.storage.schema import AFTER_ALL, INSTANCE_COLUMNS
from bridge.sqlite_engine.storage.store import REPORTED, instance_of, unreadable_instance

_CREATED = "created_at >= ? AND created_at < ?"
_END_OF_TIME = 1 << 62
_FEW = 5_000
"""Matches up to which an index on statuses or times is faster than a walk from the newest instance."""
MOST_EXAMINED = 20_000
"""Instances whose custom status is searched for one part of a list."""


@dataclass(frozen=True, slots=True)
class ListFilter:
    """Filter of a list. Empty and None mean any.

    statuses: numbers, as clients see them. name: of the orchestration, or own name of the saga.
    created_from, created_to: microseconds since the Unix epoch.
    status_text: texts in the custom status, as far as it is not encrypted: a first choice, to be looked at again.
    """

    statuses: tuple[int, ...] = ()
    prefix: str = ""
    name: str | None = None
    outcomes: tuple[str, ...] = ()
    created_from: int | None = None
    created_to: int | None = None
    status_text: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Listed:
    """Instance of a list. key: its position; a smaller one is older."""

    key: int
    state: pb.OrchestrationState
    saga: str | None
    outcome: str | None


@dataclass(frozen=True, slots=True)
class ListPart:
    """Part of a list. before: position from which the next part begins; None after the last instance."""

    listed: list[Listed]
    before: int | None


def newest(
    connection: sqlite3.Connection,
    payloads: Payloads,
    wanted: ListFilter,
    limit: int,
    before: int | None = None,
    declared: str = "",
) -> ListPart:
    """At most `limit` instances, the newest first, without inputs and outputs.

    A search in custom statuses ends after `MOST_EXAMINED` instances; the part may then have fewer than `limit`.
    before: position of the last instance of the part before. declared: orchestration whose instances are known by the
    name of their saga only.
    """
    where, values = _conditions(wanted, declared)
    expected, statuses = _expected(connection, wanted, declared)
    if not expected:
        return ListPart([], None)
    if _are_few_created(connection, wanted):
        where.append(f"key IN (SELECT key FROM instances INDEXED BY instances_created WHERE {_CREATED})")  # noqa: S608 -- fixed parts
        values += _created(wanted)
    if expected <= _FEW and statuses <= FINISHED:
        marks = ",".join("?" * len(statuses))
        where.append(
            "key IN (SELECT key FROM instances INDEXED BY instances_finished"  # noqa: S608 -- only marks
            f" WHERE finished_at IS NOT NULL AND status IN ({marks}))"
        )
        values += sorted(statuses)
    elif not statuses & FINISHED:
        where.append("finished_at IS NULL")
    if before is not None:
        where.append("key < ?")
        values.append(before)
    condition = " AND ".join(where) or "1"
    end = None
    if wanted.status_text:
        end = _end_of_search(connection, condition, values)
        searched = [] if end is None else [("key >= ?", end)]
        texts = (("(typeof(custom_status) = 'blob' OR instr(custom_status, ?))", text) for text in wanted.status_text)
        for part, value in (*searched, *texts):
            condition += f" AND {part}"
            values.append(value)
    rows = connection.execute(
        f"SELECT {INSTANCE_COLUMNS} FROM instances WHERE {condition} ORDER BY key DESC LIMIT ?",  # noqa: S608 -- fixed parts
        (*values, min(limit + 1, expected)),
    )
    found = [_instance(row, payloads) for row in rows]
    if len(found) > limit:
        end = found[limit - 1].key
    return ListPart([Listed(each.key, each.state(False), each.saga, each.outcome) for each in found[:limit]], end)


def _end_of_search(connection: sqlite3.Connection, condition: str, values: Sequence[Any]) -> int | None:
    """Position of the last instance that a search may look at; None when it may look at all."""
    row = connection.execute(
        f"SELECT key FROM instances WHERE {condition} ORDER BY key DESC LIMIT 1 OFFSET ?",  # noqa: S608 -- fixed parts
        (*values, MOST_EXAMINED - 1),
    ).fetchone()
    return None if row is None else int(row[0])


def _conditions(wanted: ListFilter, declared: str) -> tuple[list[str], list[Any]]:
    where: list[str] = []
    values: list[Any] = []
    if wanted.statuses:
        where.append(f"{REPORTED} IN ({','.join('?' * len(wanted.statuses))})")
        values += wanted.statuses
    if wanted.outcomes:
        where.append(f"outcome IN ({','.join('?' * len(wanted.outcomes))})")
        values += wanted.outcomes
    if wanted.name is not None:
        where.append("(saga = ? OR (name = ? AND name <> ?))")
        values += [wanted.name, wanted.name, declared]
    if wanted.prefix:
        where.append("key IN (SELECT key FROM instances WHERE id >= ? AND id < ?)")
        values += [wanted.prefix, wanted.prefix + AFTER_ALL]
    if wanted.created_from is not None or wanted.created_to is not None:
        # The sign keeps SQLite from the index, where it would sort all that it finds
        where.append("+created_at >= ? AND +created_at < ?")
        values += _created(wanted)
    return where, values


def _created(wanted: ListFilter) -> tuple[int, int]:
    """Limits of the time of creation."""
    first, end = wanted.created_from, wanted.created_to
    return 0 if first is None else first, _END_OF_TIME if end is None else end


def _are_few_created(connection: sqlite3.Connection, wanted: ListFilter) -> bool:
    """True when few instances were created in the time of a filter."""
    if wanted.created_from is None and wanted.created_to is None:
        return False
    count: int = connection.execute(
        f"SELECT count(*) FROM (SELECT 1 FROM instances INDEXED BY instances_created WHERE {_CREATED} LIMIT ?)",  # noqa: S608 -- fixed parts
        (*_created(wanted), _FEW + 1),
    ).fetchone()[0]
    return count <= _FEW


def _expected(connection: sqlite3.Connection, wanted: ListFilter, declared: str) -> tuple[int, frozenset[int]]:
    """Most instances that match, and their statuses, by the counts that the file keeps."""
    counted: Sequence[tuple[str, str, int, str, int]] = connection.execute(
        "SELECT name, saga, status, outcome, number FROM counts WHERE day = 0 AND number > 0"
    ).fetchall()
    found = [
        (status, number)
        for name, saga, status, outcome, number in counted
        if (not wanted.statuses or status in wanted.statuses)
        and (not wanted.outcomes or outcome in wanted.outcomes)
        and (wanted.name is None or wanted.name == saga or (wanted.name == name != declared))
    ]
    return sum(number for _, number in found), frozenset(status for status, _ in found)


def _instance(row: tuple[Any, ...], payloads: Payloads) -> StoredInstance:
    try:
        return instance_of(row, payloads)
    except DecodeError:  # an unreadable payload must not keep the other instances from being listed
        return unreadable_instance(row)
