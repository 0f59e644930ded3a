"""Tables of the engine's file, and migrations from older schema versions."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from bridge.core.errors import EngineMisconfigured, EngineUnavailable
from bridge.encryption import Keyring

APPLICATION_ID = 0x64426E67
"""Application id in SQLite's header that marks an engine's file. Databases of other programs are never changed."""

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE instances (
        key           INTEGER PRIMARY KEY,
        id            TEXT NOT NULL UNIQUE,
        execution     TEXT NOT NULL,
        name          TEXT NOT NULL,
        version       TEXT,
        status        INTEGER NOT NULL,
        suspended     INTEGER NOT NULL,
        created_at    INTEGER NOT NULL,
        updated_at    INTEGER NOT NULL,
        finished_at   INTEGER,
        start_at      INTEGER,
        turn_at       INTEGER NOT NULL,
        chunks        INTEGER NOT NULL,
        parent        TEXT,
        start         BLOB NOT NULL,
        output        TEXT,
        custom_status TEXT,
        failure       BLOB,
        trace         BLOB
    );
    CREATE INDEX instances_open ON instances (key) WHERE finished_at IS NULL;
    CREATE INDEX instances_finished ON instances (finished_at, id, status) WHERE finished_at IS NOT NULL;
    CREATE INDEX instances_created ON instances (created_at);
    CREATE INDEX instances_parent ON instances (parent) WHERE parent IS NOT NULL;

    -- What the turns of an instance's present generation did; a chunk is a serialised HistoryChunk.
    CREATE TABLE history (
        key    INTEGER NOT NULL,
        chunk  INTEGER NOT NULL,
        events BLOB NOT NULL,
        PRIMARY KEY (key, chunk)
    ) WITHOUT ROWID;

    -- Events that no turn has taken yet.
    CREATE TABLE inbox (
        seq   INTEGER PRIMARY KEY,
        key   INTEGER NOT NULL,
        event BLOB NOT NULL
    );
    CREATE INDEX inbox_key ON inbox (key);

    -- Activities without a result; request is a serialised ActivityRequest.
    CREATE TABLE tasks (
        seq       INTEGER PRIMARY KEY,
        key       INTEGER NOT NULL,
        execution TEXT NOT NULL,
        task_id   INTEGER NOT NULL,
        name      TEXT NOT NULL,
        version   TEXT,
        request   BLOB NOT NULL
    );
    CREATE INDEX tasks_key ON tasks (key);

    -- What happens at a time: an orchestration's timer, a delayed start, a delayed signal.
    CREATE TABLE timers (
        seq     INTEGER PRIMARY KEY,
        fire_at INTEGER NOT NULL,
        kind    INTEGER NOT NULL,
        key     INTEGER,
        entity  TEXT,
        event   BLOB
    );
    CREATE INDEX timers_fire_at ON timers (fire_at);
    CREATE INDEX timers_key ON timers (key) WHERE key IS NOT NULL;

    CREATE TABLE entities (
        id          TEXT PRIMARY KEY,
        state       TEXT,
        section     TEXT,
        owner       TEXT,
        modified_at INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX entities_owner ON entities (owner) WHERE owner IS NOT NULL;

    -- Operations and lock requests that an entity has not processed.
    CREATE TABLE operations (
        seq    INTEGER PRIMARY KEY,
        entity TEXT NOT NULL,
        event  BLOB NOT NULL
    );
    CREATE INDEX operations_entity ON operations (entity);
    """,
    """
    -- Own name of the instance's saga, and the saga's end.
    ALTER TABLE instances ADD COLUMN saga TEXT;
    ALTER TABLE instances ADD COLUMN outcome TEXT;

    -- Instances that exist (day 0), and ends of instances by day since 1970. See storage/counts.py.
    CREATE TABLE counts (
        day     INTEGER NOT NULL,
        name    TEXT NOT NULL,
        saga    TEXT NOT NULL,
        status  INTEGER NOT NULL,
        outcome TEXT NOT NULL,
        number  INTEGER NOT NULL,
        PRIMARY KEY (day, name, saga, status, outcome)
    ) WITHOUT ROWID;
    """,
    """
    -- Index: instances by hashes of the ids that led to them or that they published. The second index begins with a
    -- range of keys: new rows go to few pages of it, and a search visits each range once.
    CREATE TABLE lineage (
        key  INTEGER NOT NULL,
        hash INTEGER NOT NULL,
        PRIMARY KEY (key, hash)
    ) WITHOUT ROWID;
    CREATE INDEX lineage_hash ON lineage (key >> 11, hash);

    -- Index: entities that keep messages.
    CREATE TABLE lineage_entities (
        hash   INTEGER NOT NULL,
        entity TEXT NOT NULL,
        PRIMARY KEY (hash, entity)
    ) WITHOUT ROWID;
    CREATE INDEX lineage_entities_entity ON lineage_entities (entity);

    -- Index: records of what belongs to neither.
    CREATE TABLE lineage_records (
        seq  INTEGER PRIMARY KEY,
        kind INTEGER NOT NULL,
        at   INTEGER NOT NULL,
        body TEXT NOT NULL
    );
    CREATE INDEX lineage_records_kind ON lineage_records (kind, seq);
    CREATE TABLE lineage_record_ids (
        hash INTEGER NOT NULL,
        seq  INTEGER NOT NULL,
        PRIMARY KEY (hash, seq)
    ) WITHOUT ROWID;
    CREATE INDEX lineage_record_ids_seq ON lineage_record_ids (seq);

    -- Present while the index is written: instances up to this key may lack rows.
    CREATE TABLE lineage_begin (
        key INTEGER NOT NULL,
        at  INTEGER NOT NULL
    );
    """,
)

VERSION = len(MIGRATIONS)

AFTER_ALL = "\U0010ffff"
"""Character that sorts after every character of an id."""

INSTANCE_COLUMNS = (
    "key, id, execution, name, version, status, suspended, created_at, updated_at, finished_at, start_at, turn_at,"
    " chunks, parent, start, output, custom_status, failure, trace, saga, outcome"
)

ENCRYPTED = 0x100
"""Flag in the schema version of SQLite's header while the file has encrypted values.

Program versions that cannot read such values refuse the file as a newer one.
"""

LARGE_PAYLOADS = 0x200
"""Flag in the schema version of SQLite's header once the file refers to payloads in other files."""

_FLAGS = ENCRYPTED | LARGE_PAYLOADS

REFERENCES = (
    """
    -- Files of large payloads, by the key of the instance or the id of the entity whose messages refer to them.
    CREATE TABLE IF NOT EXISTS payload_references (
        owner NOT NULL,
        name  TEXT NOT NULL,
        PRIMARY KEY (owner, name)
    ) WITHOUT ROWID
    """,
    "CREATE INDEX IF NOT EXISTS payload_references_name ON payload_references (name)",
)

KEYS = """
    -- Keys that encrypted values of this file need. A fingerprint says nothing about its key.
    CREATE TABLE IF NOT EXISTS cipher_keys (
        fingerprint BLOB PRIMARY KEY,
        id          TEXT NOT NULL
    ) WITHOUT ROWID
"""

SPANS = """
    -- Spans of workflows that were not sent yet, in the encoding of OTLP. Their table exists once traces were on.
    CREATE TABLE IF NOT EXISTS spans (
        seq    INTEGER PRIMARY KEY AUTOINCREMENT,
        at     INTEGER NOT NULL,
        number INTEGER NOT NULL,
        spans  BLOB NOT NULL
    )
"""

ENDS = """
    -- Ends of instances that were not announced yet. Their table exists once lifecycle events were configured.
    CREATE TABLE IF NOT EXISTS ends (
        seq  INTEGER PRIMARY KEY AUTOINCREMENT,
        body TEXT NOT NULL
    )
"""

PAGE_BYTES = 16384
"""Page size of new files, in bytes.

Rows have a few KB. Pages of 4 KB would leave a third of the file empty, and a commit would write four times as many
pages. Older files keep their page size until they are compacted.
"""

LOG_BYTES = 16 * 1024 * 1024
"""Size of the write-ahead log, in bytes, at which it is copied into the file.

A page that changes often in the meantime, such as a page of an index, is copied once.
"""


CACHE = "PRAGMA cache_size=-16384"
"""Cache of 16 MiB. SQLite converts the size into a number of pages, by the page size known at that moment."""


def connect(path: Path) -> sqlite3.Connection:
    """Open a connection in autocommit mode, with the settings of every connection of the engine.

    Raises: EngineUnavailable when the file cannot be opened, EngineMisconfigured when it is not a database.
    """
    try:
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=512)
        connection.execute("PRAGMA busy_timeout=5000")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(CACHE)
        connection.execute("PRAGMA temp_store=MEMORY")
        connection.execute("PRAGMA journal_size_limit=67108864")
    except sqlite3.Error as error:
        raise _translated(path, "opened", error) from error
    return connection


def _translated(path: Path, what: str, error: sqlite3.Error) -> EngineMisconfigured | EngineUnavailable:
    # A locked, full or read-only file is an OperationalError; a damaged or foreign file is a plain DatabaseError.
    if isinstance(error, sqlite3.OperationalError) or not isinstance(error, sqlite3.DatabaseError):
        return EngineUnavailable(f"{path}: cannot be {what}: {error}")
    return EngineMisconfigured(f"{path}: is not a database, or is damaged: {error}")


def recognize(connection: sqlite3.Connection, path: Path) -> bool:
    """True for a file of this engine, False for one without tables. Writes nothing.

    Raises: EngineMisconfigured when the file is newer than this program, not an engine's, or not a database;
    EngineUnavailable when it cannot be read.
    """
    try:
        _, _, empty = _recognize(connection, path)
    except sqlite3.DatabaseError as error:
        raise _translated(path, "read", error) from error
    return not empty


def _recognize(connection: sqlite3.Connection, path: Path) -> tuple[int, int, bool]:
    """Read the version, the flags beside it, and True when the file has no tables.

    Raises: EngineMisconfigured, sqlite3.DatabaseError.
    """
    found = int(connection.execute("PRAGMA user_version").fetchone()[0])
    flags = found & _FLAGS
    version = found - flags
    application = int(connection.execute("PRAGMA application_id").fetchone()[0])
    tables = int(connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])
    if application != APPLICATION_ID and tables:
        raise EngineMisconfigured(f"{path}: is a SQLite file, but not one of this engine; name another path")
    if version > VERSION:
        raise EngineMisconfigured(
            f"{path}: was written by a newer version (schema {version}, this program knows up to {VERSION}); "
            "upgrade the program, or name another path"
        )
    return version, flags, not tables


_VERSIONS = (
    "CREATE INDEX IF NOT EXISTS instances_versions ON instances (name, version)"
    " WHERE version IS NOT NULL AND finished_at IS NULL"
)
"""Index outside of the schema's versions, which older programs maintain too: unfinished instances with a version."""


def prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Create the tables, or migrate an older file, each step in one transaction.

    Raises: EngineMisconfigured when the file is newer than this program, not an engine's, or not a database;
    EngineUnavailable when it cannot be written.
    """
    try:
        version, flags, empty = _recognize(connection, path)
        if empty:
            connection.execute(f"PRAGMA page_size={PAGE_BYTES}")
        connection.execute("PRAGMA journal_mode=WAL")
        page = int(connection.execute("PRAGMA page_size").fetchone()[0])
        connection.execute(f"PRAGMA wal_autocheckpoint={LOG_BYTES // page}")
        # Set again with the final page size, which may have grown since the connection was made
        connection.execute(CACHE)
        if empty:  # in one transaction, whose bytes the disk must confirm once
            steps = {VERSION: ";".join((*MIGRATIONS[version:], _VERSIONS))}
        else:
            steps = {step + 1: MIGRATIONS[step] for step in range(version, VERSION)}
        for reached, step in steps.items():
            connection.executescript(
                f"BEGIN IMMEDIATE; {step}; PRAGMA application_id={APPLICATION_ID}; "
                f"PRAGMA user_version={reached | flags}; COMMIT"
            )
        connection.execute(_VERSIONS)
    except sqlite3.DatabaseError as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise _translated(path, "prepared", error) from error


def check_keys(connection: sqlite3.Connection, path: Path, keyring: Keyring | None) -> None:
    """Check that the keyring has every key that values of the file need. Writes nothing.

    Raises: EngineMisconfigured, also when the file is not an engine's; EngineUnavailable when it cannot be read.
    """
    if not recognize(connection, path):
        return
    try:
        if not int(connection.execute("PRAGMA user_version").fetchone()[0]) & ENCRYPTED:
            return
        needed = connection.execute("SELECT fingerprint, id FROM cipher_keys ORDER BY id").fetchall()
    except sqlite3.DatabaseError as error:
        raise _translated(path, "read", error) from error
    have = {} if keyring is None else keyring.ids
    for fingerprint, id_ in needed:
        if fingerprint in have:
            continue
        if id_ in have.values():
            raise EngineMisconfigured(
                f"{path}: payloads are encrypted with key {id_!r}, and the key of this id is another one; "
                "bring back the former key"
            )
        raise EngineMisconfigured(
            f"{path}: payloads are encrypted with key {id_!r}, which is not there; add it to `encryption` of the engine"
        )


def record_key(connection: sqlite3.Connection, path: Path, keyring: Keyring | None) -> None:
    """Record in the file that its values need the keyring's current key from now on. Raises: EngineUnavailable."""
    if keyring is None or not keyring.active:
        return
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(KEYS)
        connection.execute(
            "INSERT OR REPLACE INTO cipher_keys (fingerprint, id) VALUES (?, ?)",
            (keyring.fingerprint, keyring.current.id),
        )
        set_flag(connection, ENCRYPTED)
        connection.execute("COMMIT")
    except sqlite3.DatabaseError as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise _translated(path, "prepared", error) from error


def set_flag(connection: sqlite3.Connection, flag: int, *, is_set: bool = True) -> None:
    """Set or clear a flag beside the schema version, in the open transaction. Raises: sqlite3.Error."""
    found = int(connection.execute("PRAGMA user_version").fetchone()[0])
    connection.execute(f"PRAGMA user_version={(found | flag) if is_set else (found & ~flag)}")


def is_file_fault(error: BaseException) -> bool:
    """True when the file cannot be read or written, and therefore no operation can be applied.

    A refusal by SQLite of one row (a type that it does not accept, a constraint) is a fault of the operation alone.
    """
    of_a_row = (sqlite3.DataError, sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.InterfaceError)
    return isinstance(error, sqlite3.Error) and not isinstance(error, of_a_row)
