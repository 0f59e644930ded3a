"""Operator commands for an engine's file: check, compact and export."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, TextIO

from durabletask.internal import orchestrator_service_pb2 as pb
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError, Message

from bridge.core.errors import EngineMisconfigured, EngineUnavailable
from bridge.encryption import Keyring, is_sealed
from bridge.large_payloads.files import PayloadFiles, directory_of
from bridge.large_payloads.reference import is_reference
from bridge.sqlite_engine.maintenance.process_files import DatabaseLock
from bridge.sqlite_engine.model.failures import parse
from bridge.sqlite_engine.model.instance import FINISHED
from bridge.sqlite_engine.model.values import StringValue
from bridge.sqlite_engine.storage import counts, references
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
    SealedValue,
    row_of,
)
from bridge.sqlite_engine.storage.schema import INSTANCE_COLUMNS, PAGE_BYTES, check_keys, connect, prepare
from bridge.sqlite_engine.storage.store import instance_of

ReportProgress = Callable[[int, int], None]
"""Callback that gets the number of finished parts, and the number of all."""

_ORPHANS = {
    "history": "SELECT count(*) FROM history WHERE key NOT IN (SELECT key FROM instances)",
    "inbox": "SELECT count(*) FROM inbox WHERE key NOT IN (SELECT key FROM instances)",
    "tasks": "SELECT count(*) FROM tasks WHERE key NOT IN (SELECT key FROM instances)",
    "timers": "SELECT count(*) FROM timers WHERE key IS NOT NULL AND key NOT IN (SELECT key FROM instances)",
    "lineage": "SELECT count(*) FROM lineage WHERE key NOT IN (SELECT key FROM instances)",
    "lineage_entities": "SELECT count(*) FROM lineage_entities WHERE entity NOT IN (SELECT id FROM entities)",
    "lineage_record_ids": "SELECT count(*) FROM lineage_record_ids WHERE seq NOT IN (SELECT seq FROM lineage_records)",
    "operations": "SELECT count(*) FROM operations WHERE entity NOT IN (SELECT id FROM entities)",
}
_BLOBS: tuple[tuple[str, Column | None, Any], ...] = (
    ("SELECT id, start, key FROM instances", START, pb.HistoryEvent),
    ("SELECT i.id, h.events, key, h.chunk FROM history h JOIN instances i USING (key)", EVENTS, pb.HistoryChunk),
    ("SELECT i.id, b.event, b.seq FROM inbox b JOIN instances i USING (key)", INBOX, pb.HistoryEvent),
    ("SELECT i.id, t.request, t.seq FROM tasks t JOIN instances i USING (key)", REQUEST, pb.ActivityRequest),
    ("SELECT entity, event, seq FROM operations", OPERATION, pb.HistoryEvent),
    (
        "SELECT i.id, t.event, t.seq FROM timers t JOIN instances i USING (key) WHERE t.event IS NOT NULL",
        TIMER,
        pb.HistoryEvent,
    ),
    ("SELECT entity, event, seq FROM timers WHERE entity IS NOT NULL AND event IS NOT NULL", TIMER, pb.HistoryEvent),
    ("SELECT id, failure, key FROM instances WHERE failure IS NOT NULL", FAILURE, pb.TaskFailureDetails),
    ("SELECT id, trace FROM instances WHERE trace IS NOT NULL", None, pb.OrchestrationTraceContext),
)
"""Owner, message and primary key of stored messages. None: a column that is never encrypted."""

_TEXTS = (
    ("SELECT id, output, key FROM instances WHERE output IS NOT NULL", OUTPUT),
    ("SELECT id, custom_status, key FROM instances WHERE custom_status IS NOT NULL", CUSTOM_STATUS),
    ("SELECT id, state, id FROM entities WHERE state IS NOT NULL", STATE),
    ("SELECT 'a record of the index', body, seq FROM lineage_records", RECORD),
)


def check(
    path: Path, keyring: Keyring | None = None, *, decrypts: bool = True, payloads: Path | None = None
) -> list[str]:
    """Check the file; return its problems, one sentence each. The engine may run.

    payloads: directory with the large payloads; None for the one beside the file.
    decrypts: False to leave encrypted values unread; then no key is needed.
    Raises: EngineUnavailable (missing, cannot be read), EngineMisconfigured (newer version, not an engine's file, or a
    required key is missing).
    """
    try:
        connection = opened(path, (lambda found: check_keys(found, path, keyring)) if decrypts else None)
    except EngineMisconfigured as error:
        if isinstance(error.__cause__, sqlite3.DatabaseError):
            return [f"the file is no database, or is damaged at its beginning: {error.__cause__}"]
        raise
    try:
        columns = Payloads(keyring)
        problems = [str(row[0]) for row in connection.execute("PRAGMA integrity_check") if row[0] != "ok"]
        for table, query in _ORPHANS.items():
            count = connection.execute(query).fetchone()[0]
            if count:
                problems.append(f"{table}: {count} rows belong to nothing")
        problems += counts.differences(connection)
        for query, column, message in _BLOBS:
            problems += _unreadable(connection, query, column, message, columns, decrypts)
        for query, text in _TEXTS if decrypts else ():
            problems += _undecryptable(connection, query, text, columns)
        problems += _missing(connection, PayloadFiles(payloads or directory_of(path)))
        return problems
    except sqlite3.Error as error:
        return [f"the file is damaged: {error}"]
    finally:
        connection.close()


def _unreadable(
    connection: sqlite3.Connection, query: str, column: Column | None, message: Any, payloads: Payloads, decrypts: bool
) -> Iterator[str]:
    for owner, blob, *key in connection.execute(query):
        if not decrypts and is_sealed(blob):
            continue
        try:
            parse(message, blob if column is None else payloads.blob(blob, column, row_of(key)))
        except SealedValue:
            yield f"{owner}: a stored {message.DESCRIPTOR.name} cannot be decrypted"
        except DecodeError:
            yield f"{owner}: a stored {message.DESCRIPTOR.name} cannot be read"


def _missing(connection: sqlite3.Connection, files: PayloadFiles) -> Iterator[str]:
    for name in references.names(connection):
        if files.has(name):
            continue
        owners = connection.execute("SELECT owner FROM payload_references WHERE name=?", (name,)).fetchall()
        for (owner,) in owners:
            found = connection.execute("SELECT id FROM instances WHERE key=?", (owner,)).fetchone()
            id_ = owner if found is None else found[0]
            yield f"{id_}: the file of a large payload is missing: {files.path_of(name)}"


def _undecryptable(connection: sqlite3.Connection, query: str, column: Column, payloads: Payloads) -> Iterator[str]:
    for owner, value, *key in connection.execute(query):
        try:
            payloads.text(value, column, row_of(key))
        except SealedValue:
            yield f"{owner}: a stored {column.name} cannot be decrypted"


def compact(path: Path) -> tuple[int, int]:
    """Release the space of deleted rows; return the bytes before and after. The engine must not run.

    Raises: EngineUnavailable (missing, in use, no room for the copy), EngineMisconfigured.
    """
    if not path.exists():
        raise EngineUnavailable(f"{path}: there is no such file")
    with DatabaseLock(path).locked():
        before = size_of(path)
        try:
            with closing(opened(path)) as connection:
                vacuum(connection)
        except sqlite3.Error as error:
            raise EngineUnavailable(f"{path}: cannot be compacted: {error}") from error
        return before, size_of(path)


def export(path: Path, out: TextIO, keyring: Keyring | None = None) -> int:
    """Write every instance with its history, and return the number of instances.

    The output has one JSON object a line, in the protocol's field names.
    Raises: EngineUnavailable, EngineMisconfigured (also when a required key is missing).
    """
    connection = opened(path, lambda found: check_keys(found, path, keyring))
    payloads, files = Payloads(keyring), PayloadFiles(directory_of(path))
    written = 0
    try:
        for row in connection.execute(f"SELECT {INSTANCE_COLUMNS} FROM instances ORDER BY key"):  # noqa: S608 -- ours
            instance = instance_of(row, payloads)
            chunks = connection.execute("SELECT chunk, events FROM history WHERE key=? ORDER BY chunk", (instance.key,))
            events = [event for chunk, blob in chunks for event in payloads.events(blob, (instance.key, chunk))]
            record = {
                "state": MessageToDict(_restored(instance.state(True), files)),
                "finished": instance.status in FINISHED,
                "history": [MessageToDict(_restored(event, files)) for event in events],
            }
            out.write(json.dumps(record) + "\n")
            written += 1
    except (sqlite3.Error, DecodeError) as error:
        raise EngineUnavailable(
            f"{path}: cannot be read further after {written} instances: {error}; `bridge engine check` says more"
        ) from error
    finally:
        connection.close()
    return written


def _restored(message: Message, files: PayloadFiles) -> Message:
    """Message with its large payloads in the place of their references. Raises: EngineError."""
    for descriptor, value in message.ListFields():
        if descriptor.message_type is None:
            continue
        for each in value if descriptor.is_repeated and not descriptor.message_type.GetOptions().map_entry else [value]:
            if isinstance(each, StringValue) and is_reference(each.value):
                each.value = files.restore(each.value)
            elif isinstance(each, Message):
                _restored(each, files)
    return message


def vacuum(connection: sqlite3.Connection) -> None:
    """Write the file again without its free pages. Raises: sqlite3.Error."""
    # The page size of a file can only be changed while the file has no write-ahead log.
    connection.execute("PRAGMA journal_mode=DELETE")
    connection.execute(f"PRAGMA page_size={PAGE_BYTES}")
    connection.execute("VACUUM")
    connection.execute("PRAGMA journal_mode=WAL")


def size_of(path: Path) -> int:
    """Bytes of the file and of its write-ahead log."""
    log = path.with_name(path.name + "-wal")
    return path.stat().st_size + (log.stat().st_size if log.exists() else 0)


def opened(path: Path, before: Callable[[sqlite3.Connection], None] | None = None) -> sqlite3.Connection:
    """Open a connection to an existing file. before: called with the connection before anything is written.

    Raises: EngineUnavailable, EngineMisconfigured.
    """
    if not path.exists():
        raise EngineUnavailable(f"{path}: there is no such file")
    connection = connect(path)
    try:
        if before is not None:
            before(connection)
        prepare(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection
