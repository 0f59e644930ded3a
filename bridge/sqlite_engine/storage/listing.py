"""List of instances, newest first, in parts: read from the engine's file, whichever process hosts the engine."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from durabletask.internal import orchestrator_service_pb2 as pb
from google.protobuf.message import DecodeError

from bridge.sqlite_engine.model.instance import FINISHED, SUSPENDED, Instance
from bridge.sqlite_engine.storage.payloads import Payloads
from bridge.sqlite_engine.storage.schema import INSTANCE_COLUMNS
from bridge.sqlite_engine.storage.store import instance_of, unreadable_instance

_REPORTED = f"CASE WHEN suspended AND finished_at IS NULL THEN {SUSPENDED} ELSE status END"
_AFTER_ALL = "\U0010ffff"
_FEW = 5_000
"""Matches up to which an index on statuses is faster than a walk from the newest instance."""


@dataclass(frozen=True, slots=True)
class Wanted:
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


def newest(
    connection: sqlite3.Connection,
    payloads: Payloads,
    wanted: Wanted,
    limit: int,
    before: int | None = None,
    declared: str = "",
) -> list[Listed]:
    """At most `limit` instances, the newest first, without inputs and outputs.

    before: position of the last instance of the part before. declared: orchestration whose instances are known by the
    name of their saga only.
    """
    where, values = _conditions(wanted, declared)
    expected, statuses = _expected(connection, wanted, declared)
    if not expected:
        return []
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
    rows = connection.execute(
        f"SELECT {INSTANCE_COLUMNS} FROM instances WHERE {' AND '.join(where) or '1'} ORDER BY key DESC LIMIT ?",  # noqa: S608 -- fixed parts
        (*values, min(limit, expected)),
    )
    found = (_instance(row, payloads) for row in rows)
    return [Listed(each.key, each.state(False), each.saga, each.outcome) for each in found]


def _conditions(wanted: Wanted, declared: str) -> tuple[list[str], list[Any]]:
    where: list[str] = []
    values: list[Any] = []
    if wanted.statuses:
        where.append(f"{_REPORTED} IN ({','.join('?' * len(wanted.statuses))})")
        values += wanted.statuses
    if wanted.outcomes:
        where.append(f"outcome IN ({','.join('?' * len(wanted.outcomes))})")
        values += wanted.outcomes
    if wanted.name is not None:
        where.append("(saga = ? OR (name = ? AND name <> ?))")
        values += [wanted.name, wanted.name, declared]
    if wanted.prefix:
        where.append("key IN (SELECT key FROM instances WHERE id >= ? AND id < ?)")
        values += [wanted.prefix, wanted.prefix + _AFTER_ALL]
    for value, sign in ((wanted.created_from, ">="), (wanted.created_to, "<")):
        if value is not None:
            where.append(f"created_at {sign} ?")
            values.append(value)
    for text in wanted.status_text:
        where.append("(typeof(custom_status) = 'blob' OR instr(custom_status, ?))")
        values.append(text)
    return where, values


def _expected(connection: sqlite3.Connection, wanted: Wanted, declared: str) -> tuple[int, frozenset[int]]:
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


def _instance(row: tuple[Any, ...], payloads: Payloads) -> Instance:
    try:
        return instance_of(row, payloads)
    except DecodeError:  # an unreadable payload must not keep the other instances from being listed
        return unreadable_instance(row)
