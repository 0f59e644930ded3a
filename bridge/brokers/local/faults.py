"""Translation of errors of SQLite and the file system into errors of the broker."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path

from bridge.core.errors import BrokerError, BrokerUnavailable, PublishFailed
from bridge.system import private

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
