"""The SQLite file: its place, opening and schema version."""

from __future__ import annotations

import secrets
import sqlite3
from pathlib import Path

from bridge.brokers.local.lock import FileLock
from bridge.core.errors import BrokerError
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
        with FileLock.acquire(directory / "open.lock"):
            _prepare(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise BrokerError(
            f"{path} was written by a newer version of the bridge (schema {version}, this one knows {SCHEMA_VERSION}); "
            "upgrade this installation or choose another `path`"
        )
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
