"""Reads of the engine's file by its single writer, including the flushed writes of the current transaction."""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.sqlite_engine.model.entity import StoredEntity
from bridge.sqlite_engine.model.event import failure
from bridge.sqlite_engine.model.failures import read_events
from bridge.sqlite_engine.model.instance import FINISHED, SUSPENDED, StoredInstance
from bridge.sqlite_engine.model.work import START_IS_DUE, Task, Timer, pauses_of
from bridge.sqlite_engine.storage.payloads import (
    CUSTOM_STATUS,
    EVENTS,
    INBOX,
    OPERATION,
    OUTPUT,
    START,
    STATE,
    TIMER,
    Payloads,
)
from bridge.sqlite_engine.storage.schema import INSTANCE_COLUMNS
from bridge.sqlite_engine.storage.statements import slices

REPORTED = f"CASE WHEN suspended AND finished_at IS NULL THEN {SUSPENDED} ELSE status END"
"""Status that clients see, in SQL."""


def instance_of(row: tuple[Any, ...], payloads: Payloads) -> StoredInstance:
    """Instance from a row of INSTANCE_COLUMNS, without inbox and history. Raises: DecodeError."""
    (key, id_, execution, name, version, status, suspended, created, updated, finished, start_at, turn_at, chunks,
     parent, start, output, custom, failed, trace, saga, outcome) = row  # fmt: skip
    return StoredInstance(
        key=key,
        id=id_,
        execution=execution,
        name=name,
        version=version,
        status=status,
        created_at=created,
        updated_at=updated,
        start=payloads.event(start, START, key),
        suspended=bool(suspended),
        finished_at=finished,
        start_at=start_at,
        turn_at=turn_at,
        chunks=chunks,
        parent=parent,
        output=payloads.text(output, OUTPUT, key),
        custom_status=payloads.text(custom, CUSTOM_STATUS, key),
        failure=payloads.failure(failed, key),
        trace=None if trace is None else pb.OrchestrationTraceContext.FromString(trace),
        saga=saga,
        outcome=outcome,
    )


def unreadable_instance(row: tuple[Any, ...]) -> StoredInstance:
    """Instance from a row whose payloads cannot be read, without the payloads."""
    stripped = list(row)
    for column in ("output", "custom_status", "failure", "trace"):
        stripped[_POSITIONS[column]] = None
    stripped[_POSITIONS["start"]] = b""
    instance = instance_of(tuple(stripped), Payloads())
    instance.failure = failure("EngineError", "Stored payloads cannot be read; `bridge engine check` names them")
    return instance


_POSITIONS = {name: position for position, name in enumerate(INSTANCE_COLUMNS.split(", "))}


class Store:
    """Point reads over one connection."""

    def __init__(self, connection: sqlite3.Connection, payloads: Payloads | None = None) -> None:
        self.connection = connection
        self.payloads = payloads or Payloads()

    @property
    def path(self) -> Path:
        """Path of the file."""
        return Path(self.connection.execute("SELECT file FROM pragma_database_list WHERE name='main'").fetchone()[0])

    def next_key(self) -> int:
        return self._next("SELECT max(key) FROM instances")

    def next_seq(self) -> int:
        tables = ("inbox", "tasks", "timers", "operations")
        return max(self._next(f"SELECT max(seq) FROM {table}") for table in tables)  # noqa: S608 -- names are ours

    def _next(self, query: str) -> int:
        return int(self.connection.execute(query).fetchone()[0] or 0) + 1

    def instance_by_id(self, instance_id: str) -> StoredInstance | None:
        return self._instance(f"SELECT {INSTANCE_COLUMNS} FROM instances WHERE id=?", instance_id)  # noqa: S608 -- ours

    def instance_by_key(self, key: int) -> StoredInstance | None:
        return self._instance(f"SELECT {INSTANCE_COLUMNS} FROM instances WHERE key=?", key)  # noqa: S608 -- ours

    def _instance(self, query: str, value: str | int) -> StoredInstance | None:
        row = self.connection.execute(query, (value,)).fetchone()
        if row is None:
            return None
        instance = instance_of(row, self.payloads)
        instance.counted = instance.counted_as
        if instance.status not in FINISHED:
            instance.inbox = deque(self.inbox(instance.key))
            instance.recount_unread()
            if instance.chunks == 0 and instance.start_at is not None:
                instance.waiting_start = (
                    self.connection.execute(
                        "SELECT 1 FROM timers WHERE key=? AND kind=?", (instance.key, START_IS_DUE)
                    ).fetchone()
                    is not None
                )
        return instance

    def inbox(self, key: int) -> list[tuple[int, pb.HistoryEvent]]:
        """Events that no turn has taken, with their sequence numbers, in order."""
        rows = self.connection.execute("SELECT seq, event FROM inbox WHERE key=? ORDER BY seq", (key,))
        return [(seq, self.payloads.event(event, INBOX, seq)) for seq, event in rows]

    def ids_present(self, instance_ids: list[str]) -> set[str]:
        """Subset of these ids that exist in the file, found with few statements."""
        found: set[str] = set()
        for part in slices(instance_ids):
            # Joined to a list of values, because `id IN (...)` would first sort the ids into a table.
            marks = ",".join(["(?)"] * len(part))
            query = f"WITH v(i) AS (VALUES {marks}) SELECT id FROM v CROSS JOIN instances ON id = i"  # noqa: S608 -- only marks
            found.update(row[0] for row in self.connection.execute(query, part))
        return found

    def history(self, key: int) -> tuple[list[pb.HistoryEvent], int]:
        """Events of an instance's current generation, and their size in bytes."""
        events: list[pb.HistoryEvent] = []
        size = 0
        rows = self.connection.execute("SELECT chunk, events FROM history WHERE key=? ORDER BY chunk", (key,))
        for chunk, stored in rows:
            blob = self.payloads.blob(stored, EVENTS, (key, chunk))
            size += len(blob)
            events.extend(read_events(blob))
        return events, size

    def begin_of_last_chunk(self, key: int) -> pb.HistoryEvent:
        """First event of the last chunk of the instance's history."""
        query = "SELECT chunk, events FROM history WHERE key=? ORDER BY chunk DESC LIMIT 1"
        chunk, stored = self.connection.execute(query, (key,)).fetchone()
        return self.payloads.events(stored, (key, chunk))[0]

    def has_lineage_rows(self, key: int, most: int) -> bool:
        """True when the index has more than `most` rows of the instance."""
        query = "SELECT 1 FROM lineage WHERE key=? LIMIT 1 OFFSET ?"
        return self.connection.execute(query, (key, most)).fetchone() is not None

    def children(self, instance_id: str) -> list[str]:
        return [row[0] for row in self.connection.execute("SELECT id FROM instances WHERE parent=?", (instance_id,))]

    def task_request(self, seq: int) -> pb.ActivityRequest | None:
        row = self.connection.execute("SELECT request FROM tasks WHERE seq=?", (seq,)).fetchone()
        return None if row is None else self.payloads.request(row[0], seq)

    def task_execution(self, seq: int) -> str | None:
        """Id of the execution that waits for the activity."""
        row = self.connection.execute("SELECT execution FROM tasks WHERE seq=?", (seq,)).fetchone()
        return None if row is None else pauses_of(row[0])[0]

    def tasks_of(self, key: int) -> list[tuple[int, int, str]]:
        """Sequence number, task id and execution with pauses of each activity of the instance without a result."""
        rows = self.connection.execute("SELECT seq, task_id, execution FROM tasks WHERE key=? ORDER BY seq", (key,))
        return rows.fetchall()

    def due_timers(self, moment: int, limit: int) -> list[Timer]:
        return [
            Timer(seq, fire_at, kind, key, entity, stored=event)
            for seq, fire_at, kind, key, entity, event in self.connection.execute(
                "SELECT seq, fire_at, kind, key, entity, event FROM timers"
                " WHERE fire_at<=? ORDER BY fire_at, seq LIMIT ?",
                (moment, limit),
            )
        ]

    def all_timers(self) -> Iterator[tuple[Timer, int | None, int | None]]:
        """Every timer, with creation time and start time of its instance."""
        query = (
            "SELECT t.seq, t.fire_at, t.kind, t.key, t.entity, t.event, i.created_at, i.start_at"
            " FROM timers t LEFT JOIN instances i USING (key)"
        )
        for seq, fire_at, kind, key, entity, event, created_at, start_at in self.connection.execute(query):
            yield Timer(seq, fire_at, kind, key, entity, stored=event), created_at, start_at

    def timer_event(self, timer: Timer) -> pb.HistoryEvent | None:
        """Event of a stored timer; None where it has none. Raises: DecodeError."""
        return None if timer.stored is None else self.payloads.event(timer.stored, TIMER, timer.seq)

    def next_timer(self) -> int | None:
        """Time at which the next timer is due, in microseconds; None without timers."""
        value = self.connection.execute("SELECT min(fire_at) FROM timers").fetchone()[0]
        return None if value is None else int(value)

    def entity(self, entity_id: str) -> StoredEntity | None:
        """Entity with its queue; None when the file has no such entity."""
        row = self.connection.execute(
            "SELECT state, section, owner, modified_at FROM entities WHERE id=?", (entity_id,)
        ).fetchone()
        if row is None:
            return None
        state = self.payloads.text(row[0], STATE, entity_id)
        entity = StoredEntity(entity_id, state=state, section=row[1], owner=row[2], modified_at=row[3])
        query = "SELECT seq, event FROM operations WHERE entity=? ORDER BY seq"
        for seq, event in self.connection.execute(query, (entity_id,)):
            entity.append(seq, self.payloads.event(event, OPERATION, seq))
        return entity

    def entities_owned(self, owner: str) -> list[str]:
        return [row[0] for row in self.connection.execute("SELECT id FROM entities WHERE owner=?", (owner,))]

    def entities_named(self, name: str) -> list[str]:
        """Ids of the entities of one name, including those without state."""
        first, after = f"@{name}@", f"@{name}A"
        return [
            row[0] for row in self.connection.execute("SELECT id FROM entities WHERE id>=? AND id<?", (first, after))
        ]

    def has_locks(self) -> bool:
        """True when an entity is locked, or a queued operation may lock one."""
        query = "SELECT EXISTS (SELECT 1 FROM entities WHERE owner IS NOT NULL) OR EXISTS (SELECT 1 FROM operations)"
        return bool(self.connection.execute(query).fetchone()[0])

    def open_instances(self) -> Iterator[tuple[int, str, str, str | None, int, int]]:
        """Key, id, name, version, suspended flag and busy flag of all unfinished instances, oldest first."""
        return iter(
            self.connection.execute(
                """
                SELECT key, id, name, version, suspended,
                       CASE WHEN chunks = 0
                            THEN NOT EXISTS (SELECT 1 FROM timers t WHERE t.key = i.key AND t.kind = 1)
                            ELSE EXISTS (SELECT 1 FROM inbox b WHERE b.key = i.key) END
                FROM instances i INDEXED BY instances_open WHERE finished_at IS NULL ORDER BY key
                """
            )
        )

    def open_tasks(self) -> Iterator[Task]:
        """Activities without a result; `execution` has its stored form."""
        query = "SELECT seq, key, execution, task_id, name, version FROM tasks ORDER BY seq"
        for seq, key, execution, task_id, name, version in self.connection.execute(query):
            yield Task(seq, key, execution, task_id, name, version, None)

    def open_task(self, seq: int) -> Task | None:
        """Activity without a result, or None."""
        query = "SELECT key, execution, task_id, name, version FROM tasks WHERE seq=?"
        row = self.connection.execute(query, (seq,)).fetchone()
        if row is None:
            return None
        key, execution, task_id, name, version = row
        task = Task(seq, key, execution, task_id, name, version, None)
        task.split_execution()
        return task

    def queued(self, entity_id: str) -> list[int]:
        """Sequence numbers of the operations that the entity has not processed."""
        rows = self.connection.execute("SELECT seq FROM operations WHERE entity=? ORDER BY seq", (entity_id,))
        return [row[0] for row in rows]

    def busy_entities(self) -> list[str]:
        return [row[0] for row in self.connection.execute("SELECT DISTINCT entity FROM operations")]
