"""The SQLite file: its place, opening, schema version, and the meaning of its errors."""

from __future__ import annotations

import errno
import secrets
import sqlite3
from pathlib import Path

from bridge.brokers.local.lock import HeldFileLock
from bridge.core.errors import BrokerError, BrokerUnavailable, PublishFailed
from bridge.system import private

FILE = "log.db"
SCHEMA_VERSION = 1
OLDEST_SQLITE = (3, 38, 0)
"""Oldest SQLite version with JSON and its operators always built in."""

BUSY_SECONDS = 10.0
"""Seconds for which a statement waits for another process's write transaction."""

PAGE_BYTES = 8192

# A record's id is its partition's id shifted left, plus its offset: one clustered key serves appends and range reads.
# `data` is key, body and headers in a row; a NULL size means absent, which is not the same as empty.
# `timestamp` is the message's own in microseconds, `appended` the log's in seconds. Retention uses the latter: records
# with old timestamps are not deleted on arrival.
_SCHEMA = """
CREATE TABLE cluster (id TEXT NOT NULL) STRICT;
CREATE TABLE topics (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE partitions (
  id INTEGER PRIMARY KEY, topic INTEGER NOT NULL REFERENCES topics, number INTEGER NOT NULL, next INTEGER NOT NULL,
  UNIQUE (topic, number)
) STRICT;
CREATE TABLE records (
  id INTEGER PRIMARY KEY, timestamp INTEGER NOT NULL, appended INTEGER NOT NULL,
  key_size INTEGER, body_size INTEGER, headers_size INTEGER NOT NULL, data BLOB NOT NULL
) STRICT;
CREATE TABLE positions (
  consumer_group TEXT NOT NULL, partition INTEGER NOT NULL REFERENCES partitions, next INTEGER NOT NULL,
  done TEXT NOT NULL, PRIMARY KEY (consumer_group, partition)
) STRICT, WITHOUT ROWID;
"""


def open_database(directory: Path) -> sqlite3.Connection:
    """Open a connection to the log in `directory`, which must exist. A missing file and its schema are created.

    Raises: BrokerError for a file of a newer version, sqlite3.Error, OSError.
    """
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        wanted = ".".join(str(part) for part in OLDEST_SQLITE)
        raise BrokerError(f"the local broker needs SQLite {wanted} or newer, this Python has {sqlite3.sqlite_version}")
    path = directory / FILE
    private.database(path)
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        # SQLite's busy timeout does not cover the change to WAL: processes that start together take turns
        with HeldFileLock.acquire(directory / "open.lock"):
            _prepare(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def readable_address(file: Path) -> str:
    """Address under which SQLite reads an existing file and creates no file beside it."""
    # SQLite would create the files of its write-ahead log; without them no process changes the file
    beside = all(file.with_name(file.name + ending).exists() for ending in ("-wal", "-shm"))
    return f"{file.absolute().as_uri()}?{'mode=ro' if beside else 'immutable=1'}"


def open_existing(directory: Path) -> sqlite3.Connection | None:
    """Open a connection that only reads and creates nothing; None where there is no log yet.

    Raises: BrokerError for a file of a newer version, sqlite3.Error.
    """
    path = directory / FILE
    if not path.exists():
        return None
    connection = sqlite3.connect(
        readable_address(path), uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        _check_version(version, path)
    except BaseException:
        connection.close()
        raise
    if version == 0:
        connection.close()
        return None
    return connection


def _check_version(version: int, path: Path) -> None:
    if version > SCHEMA_VERSION:
        raise BrokerError(
            f"{path} was written by a newer version of the bridge (schema {version}, this one knows {SCHEMA_VERSION}); "
            "upgrade this installation or choose another `path`"
        )


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    _check_version(version, path)
    if version == 0:
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA journal_size_limit = 67108864")
    if version == 0:
        if connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
            raise BrokerError(f"{path} is a database of another program; choose another `path`")
        # The lock excludes other creators; the version, set last, marks the schema as complete
        connection.executescript(f"BEGIN; {_SCHEMA}")
        connection.execute("INSERT INTO cluster VALUES (?)", (f"local-{secrets.token_hex(8)}",))
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")


_PROGRAMMING = (sqlite3.ProgrammingError, sqlite3.InterfaceError, sqlite3.NotSupportedError)

_HELD = "another process holds the write lock for too long; look for a stopped or hanging process"
_SQLITE = {
    sqlite3.SQLITE_FULL: "the disk or quota is full; free some space",
    sqlite3.SQLITE_BUSY: _HELD,
    sqlite3.SQLITE_LOCKED: _HELD,
    sqlite3.SQLITE_CORRUPT: "the file is damaged; stop all processes that use it and restore it from a backup",
    sqlite3.SQLITE_NOTADB: "the file is not a SQLite database; move it away or choose another `path`",
    sqlite3.SQLITE_FORMAT: "the file is not a SQLite database; move it away or choose another `path`",
    sqlite3.SQLITE_READONLY: "the file or its directory is read-only; give this user write permission",
    sqlite3.SQLITE_CANTOPEN: "the file cannot be opened; check that the directory exists and is writable by this user",
    sqlite3.SQLITE_PERM: "access is denied; give this user read and write permission",
    sqlite3.SQLITE_AUTH: "access is denied; give this user read and write permission",
    sqlite3.SQLITE_IOERR: "reading or writing the disk failed; check the disk and the file system",
    sqlite3.SQLITE_PROTOCOL: "the file system does not lock files reliably; use a local disk, not a network share",
    sqlite3.SQLITE_NOLFS: "the file is larger than the file system allows",
    sqlite3.SQLITE_NOMEM: "out of memory",
    sqlite3.SQLITE_INTERRUPT: "the operation was interrupted",
    sqlite3.SQLITE_SCHEMA: "the schema was changed by another program",
    sqlite3.SQLITE_CONSTRAINT: "its content is inconsistent; stop all processes that use it and restore a backup",
}
_OS = {
    errno.ENOSPC: _SQLITE[sqlite3.SQLITE_FULL],
    errno.EDQUOT: _SQLITE[sqlite3.SQLITE_FULL],
    errno.EROFS: _SQLITE[sqlite3.SQLITE_READONLY],
    errno.EACCES: _SQLITE[sqlite3.SQLITE_PERM],
    errno.EPERM: _SQLITE[sqlite3.SQLITE_PERM],
    errno.EMFILE: "this process has too many open files; raise its limit (ulimit -n)",
    errno.ENFILE: "the machine has too many open files",
    errno.ENOTDIR: "a part of the path is a file, not a directory; choose another `path`",
    errno.EEXIST: "a part of the path is a file, not a directory; choose another `path`",
    errno.ENOLCK: "the file system does not lock files; use a local disk, not a network share",
}


def translate(error: sqlite3.Error | OSError, path: Path) -> BrokerError | None:
    """Translate a foreign error into an error of the broker; None for a bug in this code, which must stay visible as
    itself.

    path: file or directory that was used, named in the text.
    """
    if isinstance(error, OSError):
        what = (error.strerror or type(error).__name__).lower()
        if not isinstance(error, private.NotPrivate):
            what = _OS.get(error.errno or 0, what)
        return BrokerUnavailable(f"local broker {path}: {what}")
    if isinstance(error, _PROGRAMMING):
        return None
    # Extended codes keep the primary one in their low byte
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code == sqlite3.SQLITE_TOOBIG or isinstance(error, sqlite3.DataError):
        return PublishFailed("a message is larger than the local broker can hold (about 1 GB)")
    what = _SQLITE.get(code, f"SQLite reports: {error}")
    return BrokerUnavailable(f"local broker {path}: {what}")
