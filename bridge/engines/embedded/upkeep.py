"""What an operator does with an engine's file: check it, make it smaller, write out what it holds."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from durabletask.internal import orchestrator_service_pb2 as pb
from google.protobuf.json_format import MessageToDict  # type: ignore[import-untyped]  # protobuf ships no types
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # as above

from bridge.engines.embedded.instance import FINISHED
from bridge.engines.embedded.lock import FileLock
from bridge.engines.embedded.reading import parse, read_events
from bridge.engines.embedded.schema import PAGE_BYTES, connect, prepare
from bridge.engines.embedded.store import INSTANCE_COLUMNS, instance_of
from bridge.errors import EngineMisconfigured, EngineUnavailable

_ORPHANS = {
    "history": "SELECT count(*) FROM history WHERE key NOT IN (SELECT key FROM instances)",
    "inbox": "SELECT count(*) FROM inbox WHERE key NOT IN (SELECT key FROM instances)",
    "tasks": "SELECT count(*) FROM tasks WHERE key NOT IN (SELECT key FROM instances)",
    "timers": "SELECT count(*) FROM timers WHERE key IS NOT NULL AND key NOT IN (SELECT key FROM instances)",
    "operations": "SELECT count(*) FROM operations WHERE entity NOT IN (SELECT id FROM entities)",
}
_BLOBS: dict[str, Any] = {
    "SELECT id, start FROM instances": pb.HistoryEvent,
    "SELECT i.id, h.events FROM history h JOIN instances i USING (key)": pb.HistoryChunk,
    "SELECT i.id, b.event FROM inbox b JOIN instances i USING (key)": pb.HistoryEvent,
    "SELECT i.id, t.request FROM tasks t JOIN instances i USING (key)": pb.ActivityRequest,
    "SELECT entity, event FROM operations": pb.HistoryEvent,
    "SELECT i.id, t.event FROM timers t JOIN instances i USING (key) WHERE t.event IS NOT NULL": pb.HistoryEvent,
    "SELECT entity, event FROM timers WHERE entity IS NOT NULL AND event IS NOT NULL": pb.HistoryEvent,
    "SELECT id, failure FROM instances WHERE failure IS NOT NULL": pb.TaskFailureDetails,
    "SELECT id, trace FROM instances WHERE trace IS NOT NULL": pb.OrchestrationTraceContext,
}


def check(path: Path) -> list[str]:
    """What is wrong with the file, a sentence each; empty when nothing is. May run beside the engine.

    Raises: EngineUnavailable (missing, cannot be read), EngineMisconfigured (newer, or not an engine's file).
    """
    try:
        connection = _opened(path)
    except EngineMisconfigured as error:
        if isinstance(error.__cause__, sqlite3.DatabaseError):
            return [f"the file is no database, or is damaged at its beginning: {error.__cause__}"]
        raise
    try:
        problems = [str(row[0]) for row in connection.execute("PRAGMA integrity_check") if row[0] != "ok"]
        for table, query in _ORPHANS.items():
            count = connection.execute(query).fetchone()[0]
            if count:
                problems.append(f"{table}: {count} rows belong to nothing")
        for query, message in _BLOBS.items():
            problems += _unreadable(connection, query, message)
        return problems
    except sqlite3.Error as error:
        return [f"the file is damaged: {error}"]
    finally:
        connection.close()


def _unreadable(connection: sqlite3.Connection, query: str, message: Any) -> Iterator[str]:
    for owner, blob in connection.execute(query):
        try:
            parse(message, blob)
        except DecodeError:
            yield f"{owner}: a stored {message.DESCRIPTOR.name} cannot be read"


def compact(path: Path) -> tuple[int, int]:
    """Give back the space of what was removed. The engine must not run. (bytes before, bytes after)

    Raises: EngineUnavailable (missing, in use, no room for the copy), EngineMisconfigured.
    """
    lock = FileLock(path)
    if not path.exists():
        raise EngineUnavailable(f"{path}: there is no such file")
    try:
        lock.acquire()
    except OSError as error:
        raise EngineUnavailable(f"{path}: cannot be locked: {error.strerror}") from error
    try:
        before = _size(path)
        connection = _opened(path)
        try:
            # The size of a file's pages can only be changed while it has no write-ahead log.
            connection.execute("PRAGMA journal_mode=DELETE")
            connection.execute(f"PRAGMA page_size={PAGE_BYTES}")
            connection.execute("VACUUM")
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.Error as error:
            raise EngineUnavailable(f"{path}: cannot be compacted: {error}") from error
        finally:
            connection.close()
        return before, _size(path)
    finally:
        lock.release()


def export(path: Path, out: TextIO) -> int:
    """Write every instance with its history, a JSON object a line, in the protocol's field names; how many.

    Raises: EngineUnavailable, EngineMisconfigured.
    """
    connection = _opened(path)
    written = 0
    try:
        for row in connection.execute(f"SELECT {INSTANCE_COLUMNS} FROM instances ORDER BY key"):  # noqa: S608 -- ours
            instance = instance_of(row)
            chunks = connection.execute("SELECT events FROM history WHERE key=? ORDER BY chunk", (instance.key,))
            events = [event for (blob,) in chunks for event in read_events(blob)]
            record = {
                "state": MessageToDict(instance.state(True)),
                "finished": instance.status in FINISHED,
                "history": [MessageToDict(event) for event in events],
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


def _size(path: Path) -> int:
    """Bytes of the file and of what waits beside it to be written into it."""
    log = path.with_name(path.name + "-wal")
    return path.stat().st_size + (log.stat().st_size if log.exists() else 0)


def _opened(path: Path) -> sqlite3.Connection:
    if not path.exists():
        raise EngineUnavailable(f"{path}: there is no such file")
    connection = connect(path)
    prepare(connection, path)
    return connection
