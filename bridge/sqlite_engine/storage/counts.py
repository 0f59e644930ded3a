"""Counts of instances by orchestration, saga, status and outcome, kept in the transactions that change the instances.

A row with day 0 counts instances that exist. Rows of other days count the instances that ended on that day, in days
since 1970 (UTC), and stay when the instances are removed. A row with day -1 shows that the instances of the file are
counted: a file of an earlier version is counted when an engine opens it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from durabletask.internal import orchestrator_service_pb2 as pb
from google.protobuf.message import DecodeError

from bridge.sqlite_engine.model.instance import (
    COMPLETED,
    FAILED,
    FINISHED,
    RUNNING,
    CountKey,
    Finish,
    StoredInstance,
    last_failure,
)
from bridge.sqlite_engine.options import HostRules
from bridge.sqlite_engine.storage.ends import EndRecorder
from bridge.sqlite_engine.storage.payloads import CUSTOM_STATUS, START, Payloads
from bridge.sqlite_engine.storage.statements import Statement
from bridge.sqlite_engine.storage.store import REPORTED

DAY = 86_400_000_000
"""Microseconds of a day."""

KEPT_DAYS = 1
"""Days before today whose ends stay counted."""

MAX_DAY_KEYS = 1000
"""Most counts of one day. Ends beyond them are counted under the name OTHER."""

OTHER = "(other)"

_STEP = 1000
"""Instances of an earlier version that one transaction gives the name and outcome of their saga."""

_COUNTED = -1
_EXISTING = 0
_BY_QUERY = (
    f"SELECT name, coalesce(saga, ''), {REPORTED}, coalesce(outcome, ''), count(*)"  # noqa: S608 -- fixed parts
    " FROM instances GROUP BY 1, 2, 3, 4"
)
_HEAD = "INSERT INTO counts (day, name, saga, status, outcome, number) VALUES"
_TAIL = "ON CONFLICT (day, name, saga, status, outcome) DO UPDATE SET number = number + excluded.number"
_ADD_ONE = f"{_HEAD} (?, ?, ?, ?, ?, ?) {_TAIL}"
_ADD = Statement(_HEAD, 6, _TAIL, large=(1, 2))
_FEW = 2
"""Rows up to which a statement for each is faster than one for all."""


class Counts:
    """Changes of the counts in the current transaction. A finished instance is also kept for `take_finished`."""

    def __init__(self, connection: sqlite3.Connection, ends: EndRecorder | None = None) -> None:
        """Create the counts. ends: recorder of the ends; None where none are announced."""
        self._connection = connection
        self._ends = ends
        self._changes: dict[tuple[int, CountKey], int] = {}
        self._finished: list[Finish] = []
        self._day = 0
        self._day_keys: set[CountKey] = set()
        """Counts of the day that this process has used."""

    def move(self, instance: StoredInstance) -> None:
        """Count an instance where it belongs now."""
        now, before, changes = instance.counted_as, instance.counted, self._changes
        if now == before:
            return
        if before is not None:
            changes[_EXISTING, before] = changes.get((_EXISTING, before), 0) - 1
        changes[_EXISTING, now] = changes.get((_EXISTING, now), 0) + 1
        instance.counted = now
        if instance.finished_at is None or (before is not None and before[2] in FINISHED):
            return
        name, saga, status, outcome = now
        finish = Finish(
            instance.id, instance.execution, name, saga, status, outcome,
            status == COMPLETED or (before is not None and before[2] == RUNNING),
            (instance.finished_at - instance.created_at) / 1_000_000,
            instance.custom_status, instance.failure, None, instance.parent,
            instance.start.executionStarted.parentTraceContext.traceParent,
        )  # fmt: skip
        if finish.is_failure and instance.history is not None:
            finish = replace(finish, cause=last_failure(instance.history))
        self._finish(instance.finished_at, now, finish)

    def remove(self, instance: StoredInstance) -> None:
        """Count an instance no more."""
        if instance.counted is not None:
            self._add(_EXISTING, instance.counted, -1)

    def fail_unseen(self, key: int, now: int, failure: pb.TaskFailureDetails) -> bool:
        """Count an instance as failed whose payloads are not read. Returns False when it does not run."""
        row = self._connection.execute(
            f"SELECT id, execution, name, coalesce(saga, ''), {REPORTED}, coalesce(outcome, ''), created_at, parent"  # noqa: S608 -- fixed parts
            " FROM instances WHERE key=? AND finished_at IS NULL",
            (key,),
        ).fetchone()
        if row is None:
            return False
        id_, execution, name, saga, status, outcome, created_at, parent = row
        failed = (name, saga, FAILED, outcome)
        self._add(_EXISTING, (name, saga, status, outcome), -1)
        self._add(_EXISTING, failed, 1)
        seconds, has_run = (now - created_at) / 1_000_000, status == RUNNING
        self._finish(
            now,
            failed,
            Finish(id_, execution, name, saga, FAILED, outcome, has_run, seconds, None, failure, None, parent),
        )
        return True

    def _add(self, day: int, key: CountKey, number: int) -> None:
        self._changes[day, key] = self._changes.get((day, key), 0) + number

    def _finish(self, at: int, key: CountKey, finish: Finish) -> None:
        day = max(1, at // DAY)
        if day != self._day:
            self._day = day
            self._day_keys.clear()
            self._connection.execute(
                "DELETE FROM counts WHERE day > 0 AND day < ? OR day = 0 AND number = 0", (day - KEPT_DAYS,)
            )
        if key not in self._day_keys:
            if len(self._day_keys) >= MAX_DAY_KEYS:
                key = (OTHER, "", key[2], key[3])
            self._day_keys.add(key)
        self._add(day, key, 1)
        self._finished.append(finish)
        if self._ends is not None:
            self._ends.add(finish, at)

    def write(self) -> None:
        """Write the changes, in the open transaction. Raises: sqlite3.Error."""
        if self._ends is not None:
            self._ends.write()
        if not self._changes:
            return
        rows = [(day, *key, number) for (day, key), number in self._changes.items() if number]
        self._changes.clear()
        if len(rows) > _FEW:
            _ADD.run(self._connection, rows)
        else:
            for row in rows:
                self._connection.execute(_ADD_ONE, row)

    def wipe(self) -> None:
        """Delete all counts, with all instances."""
        self._connection.execute("DELETE FROM counts WHERE day >= 0")

    def take_finished(self) -> list[Finish]:
        """Ends of instances since the last call. Call it after the commit."""
        finished = self._finished
        if finished:
            self._finished = []
        return finished

    def rollback(self) -> None:
        self._changes.clear()
        self._finished.clear()
        self._day = 0
        if self._ends is not None:
            self._ends.rollback()


def is_counted(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM counts WHERE day=?", (_COUNTED,)).fetchone() is not None


def count_all(connection: sqlite3.Connection, payloads: Payloads, rules: HostRules) -> int:
    """Count the instances of a file that an earlier version wrote; return their number.

    Instances are read one by one, and changed in steps. When the process is killed, the next call begins again.
    Raises: sqlite3.Error.
    """
    last: int | None = 0
    while last is not None:
        found: list[tuple[str, str | None, int]] = []
        last = _find_sagas(connection, payloads, rules, last, found)
        if found:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("UPDATE instances SET saga=?, outcome=? WHERE key=?", found)
            connection.execute("COMMIT")
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("DELETE FROM counts WHERE day=?", (_EXISTING,))
    connection.execute(f"INSERT INTO counts SELECT {_EXISTING}, * FROM ({_BY_QUERY})")  # noqa: S608 -- fixed parts
    connection.execute("INSERT INTO counts VALUES (?, '', '', 0, '', 0)", (_COUNTED,))
    connection.execute("COMMIT")
    return int(connection.execute("SELECT total(number) FROM counts WHERE day=?", (_EXISTING,)).fetchone()[0])


def _find_sagas(
    connection: sqlite3.Connection,
    payloads: Payloads,
    rules: HostRules,
    last: int,
    found: list[tuple[str, str | None, int]],
) -> int | None:
    """Append name, outcome and key of the sagas behind a key; return the key to continue with, or None at the end."""
    rows = connection.execute(
        "SELECT key, name, status, finished_at, custom_status, start FROM instances WHERE key > ? ORDER BY key", (last,)
    )
    for key, name, status, finished_at, custom_status, start in rows:
        try:
            saga, end = None, None
            if name in rules.sagas:
                saga = rules.saga_of(payloads.event(start, START, key).executionStarted.input.value)
            if finished_at is not None and (custom_status is not None or saga is not None):
                end = rules.saga_end(saga, payloads.text(custom_status, CUSTOM_STATUS, key), status)
            if end is not None:
                found.append((*end, key))
            elif saga is not None:
                found.append((saga, None, key))
        except DecodeError:
            continue  # `bridge engine check` names it
        if len(found) >= _STEP:
            return int(key)
    return None


def differences(connection: sqlite3.Connection) -> Iterator[str]:
    """Counts that differ from the instances in the file, one sentence each. The engine may run."""
    connection.execute("BEGIN")  # both queries see the same commit
    try:
        if not is_counted(connection):
            return
        kept = {
            tuple(row[:4]): row[4]
            for row in connection.execute(
                "SELECT name, saga, status, outcome, number FROM counts WHERE day=? AND number<>0", (_EXISTING,)
            )
        }
        found = {tuple(row[:4]): row[4] for row in connection.execute(_BY_QUERY)}
    finally:
        connection.execute("ROLLBACK")
    for key in sorted(kept.keys() | found.keys()):
        if kept.get(key, 0) != found.get(key, 0):
            name, saga, status, outcome = key
            what = " ".join(filter(None, (name, saga, _status(status), outcome)))
            yield f"counts: {kept.get(key, 0)} instances are counted as {what}, and {found.get(key, 0)} are there"


def _status(status: int) -> str:
    return str(pb.OrchestrationStatus.Name(status)).removeprefix("ORCHESTRATION_STATUS_")


def read(path: Path) -> list[tuple[int, str, str, str, str, int]] | None:
    """Rows of the counts with their status as a word: day, name, saga, status, outcome, number.

    None when the file has no counts yet, or cannot be read.
    """
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5)) as connection:
            if not is_counted(connection):
                return None
            rows = connection.execute(
                "SELECT day, name, saga, status, outcome, number FROM counts WHERE day >= 0 AND number > 0"
            ).fetchall()
    except sqlite3.Error:
        return None
    return [(day, name, saga, _status(status), outcome, number) for day, name, saga, status, outcome, number in rows]


MAX_VERSIONS = 1000
"""Most pairs of orchestration and version that are counted."""


def read_versions(path: Path) -> list[tuple[str, str, int]]:
    """Unfinished instances by name and version, of those with a version; empty when the file cannot be read."""
    query = (
        "SELECT name, version, count(*) FROM instances WHERE version IS NOT NULL AND finished_at IS NULL"
        " GROUP BY 1, 2 LIMIT ?"
    )
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5)) as connection:
            return connection.execute(query, (MAX_VERSIONS,)).fetchall()
    except sqlite3.Error:
        return []
