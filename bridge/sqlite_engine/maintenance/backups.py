"""Backup of an engine's file while the engine runs, and restore while no engine runs."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from bridge.core.errors import EngineMisconfigured, EngineUnavailable
from bridge.encryption import Keyring
from bridge.large_payloads.files import PayloadFiles, directory_of
from bridge.sqlite_engine.maintenance.process_files import DatabaseLock, lock_descriptor, record_of
from bridge.sqlite_engine.maintenance.upkeep import ReportProgress, check
from bridge.sqlite_engine.storage import references
from bridge.sqlite_engine.storage.schema import check_keys, connect, recognize
from bridge.system import private

STEP_PAGES = 256
"""Number of pages that are copied between two progress reports."""

_BESIDE = ("-wal", "-shm", "-journal")
"""Suffixes of the files that SQLite keeps beside a database."""


class BackupRefused(Exception):
    """Reason why a backup cannot be written to its target, as a sentence."""


@dataclass(frozen=True, slots=True)
class Restored:
    """Result of a restore. A backup with `problems` is damaged, and nothing was changed."""

    kept: Path | None = None
    """New path of the file that was replaced."""
    problems: list[str] = field(default_factory=list)


def backup(path: Path, target: Path, *, force: bool = False, progress: ReportProgress | None = None) -> int:
    """Copy the engine's file as of one commit, while the engine may run. Returns the size of the copy in bytes.

    The large payloads of that commit are copied to the directory beside the copy (`directory_of`).

    The copy gets its name when it is complete, and is readable by its owner only.

    force: replace an existing `target`.
    progress: called with the number of copied pages, and the number of all.
    Raises: BackupRefused, EngineUnavailable (missing, cannot be read), EngineMisconfigured (newer version, not an
    engine's file).
    """
    if not path.exists():
        raise EngineUnavailable(f"{path}: there is no such file")
    _check_target(path, target, force)
    with closing(connect(path)) as source:
        if not recognize(source, path):
            raise EngineMisconfigured(f"{path}: is empty; there is nothing to back up")
        try:
            with PayloadFiles(directory_of(path)).locked(), _partial(target) as partial:
                # An open transaction keeps the copy at one commit. Without it SQLite restarts the copy at each commit
                # of the engine, and never finishes under load.
                source.execute("BEGIN")
                source.execute("SELECT count(*) FROM sqlite_master").fetchone()
                _copy(source, partial, progress)
                size = partial.stat().st_size
                _copy_payloads(partial, path, target)
                _name(partial, target, force)
        except OSError as error:
            raise BackupRefused(f"{target}: cannot be written: {error.strerror}") from error
        except sqlite3.Error as error:
            raise BackupRefused(f"{target}: the copy cannot be written, or {path} cannot be read: {error}") from error
    return size


def restore(
    source: Path,
    path: Path,
    progress: ReportProgress | None = None,
    keyring: Keyring | None = None,
    *,
    decrypts: bool = True,
) -> Restored:
    """Replace the engine's file by a copy of the backup `source`, and keep the old file under another name.

    The copy is checked first. A crash at any moment leaves either the old or the restored file.

    decrypts: False to leave encrypted values unread; then no key is needed.
    Raises: EngineUnavailable (missing, the engine runs, cannot be read or written), EngineMisconfigured (newer version,
    not an engine's file, or a required key is missing).
    """
    if not source.exists():
        raise EngineUnavailable(f"{source}: there is no such file")
    if not source.is_file():
        raise EngineMisconfigured(f"{source}: is no plain file; name a file that `bridge engine backup` has written")
    if path.exists() and path.samefile(source):
        raise EngineMisconfigured(f"{source}: is the engine's own file; name a backup of it")
    lock = DatabaseLock(path)
    try:
        private.missing_directory(path.parent)
        lock.acquire()
        private.narrow([path])
    except OSError as error:
        lock.release()
        raise EngineUnavailable(f"{path}: {error.strerror}") from error
    fresh = path.with_name(f".{path.name}.restoring")
    try:
        _remove(fresh)
        problems = _take(source, fresh, path, progress, keyring, decrypts)
        return Restored(problems=problems) if problems else Restored(kept=_swap(fresh, path))
    except OSError as error:
        raise EngineUnavailable(f"{path}: cannot be restored: {error.strerror}") from error
    except sqlite3.Error as error:
        raise EngineUnavailable(f"{path}: cannot be restored: {error}") from error
    finally:
        _remove(fresh)
        lock.release()


def _check_target(path: Path, target: Path, force: bool) -> None:
    if target.is_dir():
        raise BackupRefused(f"{target}: is a directory; name a file in it")
    if target.exists():
        if target.samefile(path):
            raise BackupRefused(f"{target}: is the engine's own file")
        if not target.is_file():
            raise BackupRefused(f"{target}: is no plain file, and is not replaced; name a new file")
        if not force:
            raise BackupRefused(f"{target}: is there already; --force replaces it")
    if target.parent.exists() and target.parent.samefile(path.parent):
        # `bridge engine` treats every *.db of its directory as a task hub, and would run the copy's instances too.
        if target.suffix == ".db":
            raise BackupRefused(f"{target}: would be taken for another task hub here; name another directory or ending")
        if target.name in {path.name + ending for ending in (*_BESIDE, ".lock")}:
            raise BackupRefused(f"{target}: belongs to the engine's file; name another")


@contextmanager
def _partial(target: Path) -> Iterator[Path]:
    """Create a temporary file beside the target, readable by its owner only, and remove it at the end.

    Temporary files that a crash has left are removed too. Raises: OSError.
    """
    start, end = f".{target.name}.", ".partial"
    for left in target.parent.glob(f"{_literal(start)}*{end}"):
        try:
            descriptor = private.opened(left, os.O_RDWR)
        except private.NotPrivate:
            continue
        # A backup that still runs holds its lock; its file stays.
        with suppress(OSError):
            lock_descriptor(descriptor)
            _remove(left)
        os.close(descriptor)
    descriptor, name = tempfile.mkstemp(end, start, target.parent)
    partial = Path(name)
    try:
        lock_descriptor(descriptor)
        yield partial
    finally:
        os.close(descriptor)
        _remove(partial)


def _literal(text: str) -> str:
    """Escape the text as a glob pattern that matches only the text."""
    return "".join(f"[{character}]" if character in "*?[" else character for character in text)


def _copy(source: sqlite3.Connection, target: Path, progress: ReportProgress | None) -> None:
    """Copy the database to `target` and flush it to disk. Raises: sqlite3.Error."""
    with closing(sqlite3.connect(target, isolation_level=None)) as copy:
        copy.execute("PRAGMA synchronous=FULL")

        def report(status: int, remaining: int, total: int) -> None:
            if progress is not None:
                progress(total - remaining, total)

        source.backup(copy, pages=STEP_PAGES, progress=report)
        # A single file without a log can be moved, and read from a read-only medium.
        copy.execute("PRAGMA journal_mode=DELETE")


def _copy_payloads(database: Path, source: Path, target: Path) -> None:
    """Give `target` the large payloads of `source` to which this database refers.

    Missing ones were lost before: the copy is as complete as its original. Raises: OSError, sqlite3.Error.
    """
    with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as found:
        names = references.names(found)
    PayloadFiles(directory_of(source)).copy_to(PayloadFiles(directory_of(target)), names)


def _name(partial: Path, target: Path, force: bool) -> None:
    """Rename the file to its target. Raises: OSError, BackupRefused when the name was taken meanwhile."""
    if force:
        partial.replace(target)
    else:
        try:
            target.hardlink_to(partial)
        except FileExistsError as error:
            raise BackupRefused(f"{target}: is there already; --force replaces it") from error
        except OSError:
            # The file system has no hard links.
            if target.exists():
                raise BackupRefused(f"{target}: is there already; --force replaces it") from None
            partial.replace(target)
    private.flush_directory(target.parent)


def _take(
    source: Path, fresh: Path, path: Path, progress: ReportProgress | None, keyring: Keyring | None, decrypts: bool
) -> list[str]:
    """Copy the backup beside the engine's file, check the copy, and return its problems.

    The large payloads of a backup without problems are copied to those of `path`.

    Raises: EngineUnavailable, EngineMisconfigured, OSError, sqlite3.Error.
    """
    os.close(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    try:
        with closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)) as found:
            if not recognize(found, source):
                raise EngineMisconfigured(f"{source}: is empty; it holds no engine")
            if decrypts:
                check_keys(found, source, keyring)
            _copy(found, fresh, progress)
    except EngineMisconfigured as error:
        if isinstance(error.__cause__, sqlite3.DatabaseError):
            return [f"the file is no database, or is damaged at its beginning: {error.__cause__}"]
        raise
    except sqlite3.OperationalError as error:
        raise EngineUnavailable(f"{source}: cannot be copied: {error}") from error
    except sqlite3.DatabaseError as error:
        return [f"the file is damaged: {error}"]
    problems = check(fresh, keyring, decrypts=decrypts, payloads=directory_of(source))
    if not problems:
        _fold(fresh)
        # Into the engine's own directory, before the file: whichever file is there after a crash has its payloads
        _copy_payloads(fresh, source, path)
    return problems


def _swap(fresh: Path, path: Path) -> Path | None:
    """Put the fresh file in the place of `path`; return the new path of the replaced file.

    Raises: EngineUnavailable, OSError, sqlite3.Error.
    """
    aside = _free_name(path)
    kept = path.exists()
    if kept:
        # The old file needs its log until it is replaced, and SQLite would apply a leftover log to the new file. The
        # log is therefore written into the old file first. Where the old file is too damaged for that, its log is kept
        # as it is.
        try:
            _fold(path)
        except sqlite3.OperationalError as error:
            raise EngineUnavailable(f"{path}: cannot be closed, maybe another program reads it: {error}") from error
        except sqlite3.DatabaseError:
            pass
        _keep(path, aside)
        with suppress(sqlite3.DatabaseError):  # too damaged to name its payloads
            _copy_payloads(aside, path, aside)
    for ending in _BESIDE:
        left = path.with_name(path.name + ending)
        if left.exists():
            left.replace(aside.with_name(aside.name + ending))
    # The record of work that ran when the engine crashed does not apply to another file.
    record_of(path).unlink(missing_ok=True)
    fresh.replace(path)
    private.flush_directory(path.parent)
    return aside if kept else None


def _fold(path: Path) -> None:
    """Write a database's log into its file, which is then complete alone. Raises: sqlite3.Error."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA busy_timeout=5000")
        connection.execute("PRAGMA journal_mode=DELETE")


def _free_name(path: Path) -> Path:
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    number = 0
    while True:
        found = path.with_name(f"{path.name}.replaced-{stamp}{f'-{number}' if number else ''}")
        if not found.exists():
            return found
        number += 1


def _keep(path: Path, kept: Path) -> None:
    """Give the file a second name. Raises: OSError."""
    try:
        kept.hardlink_to(path)
    except FileExistsError:
        raise
    except OSError:
        # The file system has no hard links.
        shutil.copyfile(path, kept)
        kept.chmod(0o600)


def _remove(path: Path) -> None:
    for ending in ("", *_BESIDE):
        path.with_name(path.name + ending).unlink(missing_ok=True)
