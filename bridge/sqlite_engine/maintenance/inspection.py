"""Look at an engine's file that changes nothing: no file is created, no lock is taken, no permission narrowed."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path

from google.protobuf.message import DecodeError

from bridge.core.errors import EngineUnavailable
from bridge.encryption import Keyring
from bridge.sqlite_engine.storage.counts import is_counted
from bridge.sqlite_engine.storage.listing import ListFilter, ListPart, newest
from bridge.sqlite_engine.storage.payloads import STATE, Payloads
from bridge.sqlite_engine.storage.schema import AFTER_ALL, check_keys

_LOCKS = Path("/proc/locks")
_STEPS = 10_000
"""Instructions of SQLite between two looks at the time."""


def holder(path: Path) -> str | None:
    """Id of the process that has the engine's file open, or `another process`; None if no process has it open.

    Without `/proc/locks` the process that last took the lock counts, if it lives.
    """
    lock = path.with_name(path.name + ".lock")
    try:
        inode, pid = lock.stat().st_ino, lock.read_bytes()[:32].decode("ascii", "replace").strip()
    except OSError:
        return None
    try:
        lines = _LOCKS.read_text(errors="replace").splitlines()
    except OSError:
        return pid if pid.isdecimal() and _is_alive(int(pid)) else None
    held = any(
        "FLOCK" in fields and fields[-3].endswith(f":{inode}") for line in lines if len(fields := line.split()) > 5
    )
    return (pid or "another process") if held else None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _read_only(path: Path) -> sqlite3.Connection:
    """Open the file to read it. Raises: sqlite3.Error.

    SQLite would create the files of its write-ahead log beside the file. Without them no process changes it.
    """
    beside = [path.with_name(path.name + ending) for ending in ("-wal", "-shm")]
    mode = "mode=ro" if all(each.exists() for each in beside) else "immutable=1"
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True, isolation_level=None)
    connection.execute("PRAGMA busy_timeout=1000")
    return connection


def inspect(path: Path, keyring: Keyring | None, seconds: float) -> list[str] | None:
    """Check the version of the file, its keys and its structure; return problems, or None if the time did not suffice.

    seconds: time for the check of the structure.
    Raises: EngineMisconfigured (newer version, not an engine's, a key is missing), EngineUnavailable, sqlite3.Error.
    """
    with closing(_read_only(path)) as connection:
        check_keys(connection, path, keyring)
        end = time.monotonic() + seconds
        connection.set_progress_handler(lambda: int(time.monotonic() > end), _STEPS)
        try:
            return [str(row[0]) for row in connection.execute("PRAGMA quick_check(5)") if row[0] != "ok"]
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
                return None
            raise


def read_states(path: Path, keyring: Keyring | None, prefix: str) -> dict[str, str]:
    """States of the entities whose ids begin so, by id. Entities without a state are left out.

    Raises: EngineMisconfigured (a key is missing), EngineUnavailable.
    """
    payloads = Payloads(keyring)
    try:
        with closing(_read_only(path)) as connection:
            check_keys(connection, path, keyring)
            rows = connection.execute(
                "SELECT id, state FROM entities WHERE id >= ? AND id < ? AND state IS NOT NULL",
                (prefix, prefix + AFTER_ALL),
            ).fetchall()
        return {id_: payloads.text(state, STATE, id_) or "" for id_, state in rows}
    except (sqlite3.Error, DecodeError) as error:
        raise EngineUnavailable(f"cannot read {path}: {error}") from error


def read_newest(
    path: Path, keyring: Keyring | None, wanted: ListFilter, limit: int, before: int | None, declared: str
) -> ListPart | None:
    """Part of the list of instances, see `newest`; None while the instances of the file are not counted.

    Raises: EngineMisconfigured (a key is missing), EngineUnavailable.
    """
    try:
        with closing(_read_only(path)) as connection:
            check_keys(connection, path, keyring)
            if not is_counted(connection):
                return None
            with connection:
                connection.execute("BEGIN")  # counts and instances of one moment
                return newest(connection, Payloads(keyring), wanted, limit, before, declared)
    except sqlite3.Error as error:
        raise EngineUnavailable(f"cannot read {path}: {error}") from error
