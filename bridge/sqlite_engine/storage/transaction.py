"""Writes of one group commit: collected while operations run, and written in few statements over many rows."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Mapping

from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.sqlite_engine.model.entity import StoredEntity
from bridge.sqlite_engine.model.instance import FAILED, FINISHED, Finish, StoredInstance
from bridge.sqlite_engine.model.wire import repeated
from bridge.sqlite_engine.model.work import Task, Timer, with_pauses
from bridge.sqlite_engine.storage.counts import Counts
from bridge.sqlite_engine.storage.ends import EndRecorder
from bridge.sqlite_engine.storage.payloads import (
    CUSTOM_STATUS,
    EVENTS,
    FAILURE,
    INBOX,
    OPERATION,
    OUTPUT,
    RECORD,
    REQUEST,
    START,
    STATE,
    TIMER,
    Column,
    Payloads,
)
from bridge.sqlite_engine.storage.references import References
from bridge.sqlite_engine.storage.schema import INSTANCE_COLUMNS
from bridge.sqlite_engine.storage.statements import KeyStatement, Statement

_INSERT_INSTANCE = Statement(f"INSERT INTO instances ({INSTANCE_COLUMNS}) VALUES", 21, large=(14, 15, 16, 17, 18))
_UPDATE_INSTANCE = Statement(
    "WITH v(k, st, su, up, fi, tu, ch, ou, cu, fa, tr, sa, oc) AS (VALUES",
    13,
    ") UPDATE instances SET status=st, suspended=su, updated_at=up, finished_at=fi, turn_at=tu, chunks=ch, output=ou,"
    " custom_status=cu, failure=fa, trace=tr, saga=sa, outcome=oc FROM v WHERE key=k",
    large=(7, 8, 9, 10),
)
_UPDATE_RUNNING = Statement(
    "WITH v(k, st, su, up, tu, ch, cu, fa, tr, sa, oc) AS (VALUES",
    11,
    ") UPDATE instances SET status=st, suspended=su, updated_at=up, turn_at=tu, chunks=ch, custom_status=cu,"
    " failure=fa, trace=tr, saga=sa, outcome=oc FROM v WHERE key=k",
    large=(6, 7, 8),
)
"""Update of instances that ran before and run on: it leaves the columns alone by which ended ones are indexed."""
_UPDATE_GENERATION = Statement(
    "WITH v(k, ex, ve, sa) AS (VALUES",
    4,
    ") UPDATE instances SET execution=ex, version=ve, start=sa FROM v WHERE key=k",
    large=(3,),
)
_INSERT_HISTORY = Statement("INSERT INTO history (key, chunk, events) VALUES", 3, large=(2,))
_INSERT_INBOX = Statement("INSERT INTO inbox (seq, key, event) VALUES", 3, large=(2,))
_INSERT_TASK = Statement(
    "INSERT INTO tasks (seq, key, execution, task_id, name, version, request) VALUES", 7, large=(6,)
)
_INSERT_TIMER = Statement("INSERT INTO timers (seq, fire_at, kind, key, entity, event) VALUES", 6, large=(5,))
_UPSERT_ENTITY = Statement(
    "INSERT OR REPLACE INTO entities (id, state, section, owner, modified_at) VALUES", 5, large=(1, 2)
)
_INSERT_LINEAGE = Statement("INSERT OR IGNORE INTO lineage (key, hash) VALUES", 2)
_INSERT_LINEAGE_ENTITY = Statement("INSERT OR IGNORE INTO lineage_entities (hash, entity) VALUES", 2)
_INSERT_OPERATION = Statement("INSERT INTO operations (seq, entity, event) VALUES", 3, large=(2,))
# Columns of payloads, by position
_INSERTED = {14: START, 15: OUTPUT, 16: CUSTOM_STATUS, 17: FAILURE}
_UPDATED = {7: OUTPUT, 8: CUSTOM_STATUS, 9: FAILURE}
_REFERRING = {14: START, 15: OUTPUT}
_RUNNING = {6: CUSTOM_STATUS, 7: FAILURE}
_DELETE_BY_KEY = {
    table: KeyStatement(f"DELETE FROM {table} WHERE key IN")  # noqa: S608 -- names are ours
    for table in ("instances", "history", "inbox", "tasks", "timers", "lineage")
}
_DELETE_BY_SEQ = {
    table: KeyStatement(f"DELETE FROM {table} WHERE seq IN")  # noqa: S608 -- names are ours
    for table in ("inbox", "tasks", "timers", "operations")
}
_chunk = repeated(pb.HistoryChunk, "events")
_DELETE_ENTITY = KeyStatement("DELETE FROM entities WHERE id IN")
_DELETE_LINEAGE_ENTITY = KeyStatement("DELETE FROM lineage_entities WHERE entity IN")


class Transaction:
    """Collector of writes. `flush` writes them inside the open transaction, `commit` ends the transaction.

    A changed instance or entity is recorded once, however often it changes. Its row is made by `flush`.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        payloads: Payloads,
        references: References,
        ends: EndRecorder | None = None,
    ) -> None:
        """Create the collector. ends: recorder of the ends; None where none are announced."""
        self._connection = connection
        self._ends = ends
        self._payloads = payloads
        self._references = references
        self._begun = False
        self._next_timer: int | None = None
        self._counts = Counts(connection, ends)
        self._clear()

    def _clear(self) -> None:
        self.created: dict[int, StoredInstance] = {}
        self.changed: dict[int, StoredInstance] = {}
        self._generations: dict[int, StoredInstance] = {}
        self._chunks: list[tuple[int, int, bytes]] = []
        self._inbox: list[tuple[int, int, bytes]] = []
        self._tasks: list[Task] = []
        self._timers: list[Timer] = []
        self._operations: list[tuple[int, str, bytes]] = []
        self._entities: dict[str, StoredEntity] = {}
        self._gone_entities: set[str] = set()
        self._lineage: list[tuple[int, int]] = []
        self._lineage_entities: list[tuple[int, str]] = []
        self._gone_by_key: dict[str, list[int]] = {}
        self._gone_by_seq: dict[str, list[int]] = {}
        self._spans: list[bytes] = []
        self._references.clear()
        self._dirty = False

    def touch(self) -> None:
        self._dirty = True

    # Instances

    def create(self, instance: StoredInstance) -> None:
        self.created[instance.key] = instance
        self._dirty = True

    def change(self, instance: StoredInstance) -> None:
        if instance.key not in self.created:
            self.changed[instance.key] = instance
        self._dirty = True

    def change_generation(self, instance: StoredInstance) -> None:
        """Record that the execution, version or start event changed."""
        if instance.key not in self.created:
            self._generations[instance.key] = instance
        self.change(instance)

    def delete(self, instance: StoredInstance) -> None:
        """Delete the instance with all its rows."""
        if self._dirty:
            self.flush()
        if instance.key not in self._gone_by_key.get("instances", ()):
            self._counts.remove(instance)
        for table in _DELETE_BY_KEY:
            self._gone_by_key.setdefault(table, []).append(instance.key)
        self._dirty = True

    def fail_unseen(self, key: int, now: int, failure: pb.TaskFailureDetails) -> None:
        """Fail an unfinished instance without reading its other columns, and delete its open work."""
        self.flush()
        self.clear_by_key(key, "inbox", "timers", "tasks")
        self.flush()
        self._dirty = self._counts.fail_unseen(key, now, failure)
        self._connection.execute(
            "UPDATE instances SET status=?, suspended=0, updated_at=?, finished_at=?, output=NULL, failure=?"
            " WHERE key=? AND finished_at IS NULL",
            (FAILED, now, now, self._payloads.seal(failure.SerializeToString(), FAILURE, key), key),
        )

    def append_history(self, instance: StoredInstance, events: Iterable[pb.HistoryEvent]) -> int:
        """Append a chunk of events to the history, as number `instance.chunks`; return its size in bytes."""
        blob = _chunk(events)
        self._references.add(instance.key, blob)
        self._chunks.append((instance.key, instance.chunks, blob))
        self.change(instance)
        return len(blob)

    def clear(self, instance: StoredInstance, *tables: str) -> None:
        """Delete the instance's rows of these tables: rows in the file, and rows collected so far."""
        self.clear_by_key(instance.key, *tables)

    def clear_by_key(self, key: int, *tables: str) -> None:
        for table in tables:
            self._gone_by_key.setdefault(table, []).append(key)
        self._dirty = True

    # Messages

    def put(self, seq: int, instance: StoredInstance, event: pb.HistoryEvent) -> None:
        message = event.SerializeToString()
        self._references.add(instance.key, message)
        self._inbox.append((seq, instance.key, message))
        self._dirty = True

    def add_task(self, task: Task) -> None:
        self._tasks.append(task)
        self._dirty = True

    def move_tasks(self, executions: dict[int, str]) -> None:
        """Assign activities to another execution, by sequence number."""
        if executions:
            self._dirty = True
            self.flush()
            moved = [(execution, seq) for seq, execution in executions.items()]
            self._connection.executemany("UPDATE tasks SET execution=? WHERE seq=?", moved)

    def move_timers(self, due: list[tuple[int, int]]) -> None:
        """Change the due time of timers: (time, sequence number)."""
        if due:
            self._dirty = True
            self.flush()
            self._connection.executemany("UPDATE timers SET fire_at=? WHERE seq=?", due)

    def add_timer(self, timer: Timer) -> None:
        self._timers.append(timer)
        if self._next_timer is None or timer.fire_at < self._next_timer:
            self._next_timer = timer.fire_at
        self._dirty = True

    def take_next_timer(self) -> int | None:
        """Earliest time among the timers added since the last call, in microseconds; None when there are none."""
        moment, self._next_timer = self._next_timer, None
        return moment

    def remove(self, table: str, seqs: Iterable[int]) -> None:
        """Delete rows by sequence number."""
        self._gone_by_seq.setdefault(table, []).extend(seqs)
        self._dirty = True

    # Entities

    def change_entity(self, entity: StoredEntity) -> None:
        self._entities[entity.id] = entity
        self._gone_entities.discard(entity.id)  # the entity may be created again
        self._dirty = True

    def add_operation(self, seq: int, entity: StoredEntity, event: pb.HistoryEvent) -> None:
        message = event.SerializeToString()
        self._references.add(entity.id, message)
        self._operations.append((seq, entity.id, message))
        self._dirty = True

    def change_operation(self, seq: int, event: pb.HistoryEvent) -> None:
        self._dirty = True
        self.flush()
        stored = self._payloads.seal(event.SerializeToString(), OPERATION, seq)
        self._connection.execute("UPDATE operations SET event=? WHERE seq=?", (stored, seq))

    def delete_entity(self, entity: StoredEntity) -> None:
        self._entities.pop(entity.id, None)
        self._gone_entities.add(entity.id)
        self._dirty = True

    # Spans

    def add_spans(self, spans: list[bytes]) -> None:
        """Keep encoded spans until they are sent."""
        self._spans += spans
        self._dirty = True

    def delete_spans(self, where: str, value: int) -> None:
        """Delete kept spans. where: condition with one parameter."""
        self._dirty = True
        self.flush()
        self._connection.execute(f"DELETE FROM spans WHERE {where}", (value,))  # noqa: S608 -- conditions are ours

    # Ends

    def delete_ends(self, position: int) -> None:
        """Delete the kept ends up to a position."""
        if self._ends is not None:
            self._dirty = True
            self.flush()
            self._ends.delete(position)

    # Index

    def index_instance(self, instance: StoredInstance, hashes: Iterable[int]) -> None:
        """List the instance under these hashes."""
        key = instance.key
        self._lineage += [(key, each) for each in hashes]
        self._dirty = True

    def index_entity(self, entity_id: str, hashes: Iterable[int]) -> None:
        """List the entity under these hashes, until it is deleted."""
        self._lineage_entities += [(each, entity_id) for each in hashes]
        self._dirty = True

    def reindex_entity(self, entity_id: str, hashes: Iterable[int]) -> None:
        """List the entity under these hashes only."""
        self._dirty = True
        self.flush()
        _DELETE_LINEAGE_ENTITY.run(self._connection, [entity_id])
        self.index_entity(entity_id, hashes)

    def add_record(self, seq: int, kind: int, at: int, hashes: Iterable[int], body: str, surplus: int) -> None:
        """Add a record to the index, and delete the `surplus` oldest ones of its kind."""
        self._dirty = True
        self.flush()
        connection = self._connection
        connection.execute(
            "INSERT INTO lineage_records (seq, kind, at, body) VALUES (?, ?, ?, ?)",
            (seq, kind, at, self._payloads.seal(body, RECORD, seq)),
        )
        connection.executemany(
            "INSERT INTO lineage_record_ids (hash, seq) VALUES (?, ?)", [(each, seq) for each in set(hashes)]
        )
        if surplus > 0:
            oldest = "SELECT seq FROM lineage_records WHERE kind=? ORDER BY seq LIMIT ?"
            gone = connection.execute(oldest, (kind, surplus)).fetchall()
            connection.executemany("DELETE FROM lineage_records WHERE seq=?", gone)
            connection.executemany("DELETE FROM lineage_record_ids WHERE seq=?", gone)

    # Writing

    def flush(self) -> None:
        """Write the collected changes.

        Cleared rows are deleted after the rows that were added before them are inserted. Raises: sqlite3.Error.
        """
        if not self._dirty:
            return
        connection, stored = self._connection, self._payloads.rows
        if not self._begun:
            connection.execute("BEGIN IMMEDIATE")
            self._begun = True
        move = self._counts.move
        for instance in self.created.values():
            move(instance)
        running: list[StoredInstance] = []
        others: list[StoredInstance] = []
        for instance in self.changed.values():
            (running if _runs_on(instance) else others).append(instance)
            move(instance)
        gone = self._gone_by_key
        deleted = gone.pop("instances", None)
        if deleted:
            _DELETE_BY_KEY["instances"].run(connection, deleted)
            self._references.remove(deleted)
        if self.created:
            created = [_inserted(instance) for instance in self.created.values()]
            for row in created:
                self._refer(row, 0, _REFERRING)
            _INSERT_INSTANCE.run(connection, stored(created, _INSERTED))
        if running:
            _UPDATE_RUNNING.run(connection, stored([_still_running(each) for each in running], _RUNNING))
        if others:
            updated = [_updated(each) for each in others]
            for row in updated:
                self._refer(row, 0, {7: OUTPUT})
            _UPDATE_INSTANCE.run(connection, stored(updated, _UPDATED))
        if self._generations:
            rows = [(i.key, i.execution, i.version, i.start.SerializeToString()) for i in self._generations.values()]
            for row in rows:
                self._refer(row, 0, {3: START})
            _UPDATE_GENERATION.run(connection, stored(rows, {3: START}))
        if self._chunks:
            _INSERT_HISTORY.run(connection, stored(self._chunks, {2: EVENTS}, (0, 1)))
        if self._inbox:
            _INSERT_INBOX.run(connection, stored(self._inbox, {2: INBOX}))
        if self._tasks:
            tasks = [_task_row(task) for task in self._tasks]
            for row in tasks:
                self._refer(row, 1, {6: REQUEST})
            _INSERT_TASK.run(connection, stored(tasks, {6: REQUEST}))
        if self._timers:
            timers = [_timer_row(timer) for timer in self._timers]
            for row in timers:
                self._refer(row, 4 if row[3] is None else 3, {5: TIMER})
            _INSERT_TIMER.run(connection, stored(timers, {5: TIMER}))
        if self._entities:
            rows_ = [(e.id, e.state, e.section, e.owner, e.modified_at) for e in self._entities.values()]
            _UPSERT_ENTITY.run(connection, stored(rows_, {1: STATE}))
        if self._lineage:
            _INSERT_LINEAGE.run(connection, self._lineage)
        if self._lineage_entities:
            _INSERT_LINEAGE_ENTITY.run(connection, self._lineage_entities)
        if self._gone_entities:
            _DELETE_ENTITY.run(connection, self._gone_entities)
            _DELETE_LINEAGE_ENTITY.run(connection, self._gone_entities)
        if self._operations:
            _INSERT_OPERATION.run(connection, stored(self._operations, {2: OPERATION}))
        if self._spans:
            connection.execute(
                "INSERT INTO spans (at, number, spans) VALUES (?, ?, ?)",
                (time.time_ns() // 1000, len(self._spans), b"".join(self._spans)),
            )
        for table, keys in gone.items():
            _DELETE_BY_KEY[table].run(connection, keys)
        for table, seqs in self._gone_by_seq.items():
            _DELETE_BY_SEQ[table].run(connection, seqs)
        self._references.write()
        self._references.review(self._generations)
        self._references.review(self._entities)
        self._references.remove(self._gone_entities)
        self._counts.write()
        self._clear()

    def wipe(self) -> None:
        """Delete every row of every table, including the collected ones."""
        self.touch()
        self.flush()
        others = ("entities", "operations", "lineage_entities", "lineage_records", "lineage_record_ids")
        for table in (*_DELETE_BY_KEY, *others):
            self._connection.execute(f"DELETE FROM {table}")  # noqa: S608 -- names are ours
        self._counts.wipe()
        self._references.wipe()
        self._next_timer = None

    def commit(self) -> bool:
        """Write and commit all changes; return False when there was nothing to write. Raises: sqlite3.Error."""
        self.flush()
        if not self._begun:
            return False
        self._connection.execute("COMMIT")
        self._begun = False
        if self._ends is not None:
            self._ends.committed()
        return True

    def take_finished(self) -> list[Finish]:
        """Ends of instances since the last call."""
        return self._counts.take_finished()

    def rollback(self) -> None:
        self._clear()
        self._counts.rollback()
        self._next_timer = None
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
        self._begun = False
        self._references.rollback()

    def take_unreferenced(self) -> list[str]:
        """Files of large payloads to which nothing refers since the last commit."""
        return self._references.take_released()

    def select_unreferenced(self, names: Iterable[str]) -> list[str]:
        """Select the files of large payloads to which nothing refers."""
        self.flush()
        return self._references.unreferenced(names)

    def _refer(self, row: tuple[object, ...], owner: int, columns: Mapping[int, Column]) -> None:
        """Record the references in the columns of payloads of a row. owner: position of the key or id."""
        of = row[owner]
        assert isinstance(of, int | str)
        for position in columns:
            value = row[position]
            if value is not None:
                assert isinstance(value, bytes | str)
                self._references.add(of, value)


def _inserted(i: StoredInstance) -> tuple[object, ...]:
    return (
        i.key, i.id, i.execution, i.name, i.version, i.status, i.suspended, i.created_at, i.updated_at, i.finished_at,
        i.start_at, i.turn_at, i.chunks, i.parent, i.start.SerializeToString(), i.output, i.custom_status,
        None if i.failure is None else i.failure.SerializeToString(),
        None if i.trace is None else i.trace.SerializeToString(),
        i.saga, i.outcome,
    )  # fmt: skip


def _runs_on(instance: StoredInstance) -> bool:
    """True when the instance has not ended, neither now nor in the file."""
    before = instance.counted
    return instance.finished_at is None and before is not None and before[2] not in FINISHED


def _still_running(i: StoredInstance) -> tuple[object, ...]:
    return (
        i.key, i.status, i.suspended, i.updated_at, i.turn_at, i.chunks, i.custom_status,
        None if i.failure is None else i.failure.SerializeToString(),
        None if i.trace is None else i.trace.SerializeToString(),
        i.saga, i.outcome,
    )  # fmt: skip


def _updated(i: StoredInstance) -> tuple[object, ...]:
    return (
        i.key, i.status, i.suspended, i.updated_at, i.finished_at, i.turn_at, i.chunks, i.output, i.custom_status,
        None if i.failure is None else i.failure.SerializeToString(),
        None if i.trace is None else i.trace.SerializeToString(),
        i.saga, i.outcome,
    )  # fmt: skip


def _task_row(task: Task) -> tuple[object, ...]:
    assert task.request is not None
    request = task.request.SerializeToString()
    execution = with_pauses(task.execution, task.pauses) if task.pauses else task.execution
    return (task.seq, task.key, execution, task.task_id, task.name, task.version, request)


def _timer_row(timer: Timer) -> tuple[object, ...]:
    event = None if timer.event is None else timer.event.SerializeToString()
    return (timer.seq, timer.fire_at, timer.kind, timer.key, timer.entity, event)
