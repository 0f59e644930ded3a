"""Directories and files for their owner alone, whatever the umask and the existing permissions.

All files of the bridge are made here. A directory is 0700 and a file 0600. Wider ones are narrowed when they belong to
this user, and refused when they belong to another. Links are never followed. Every refusal is an OSError whose
`strerror` names the cause.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

STATE = ".bridge"
"""Name of the directory of default paths: the only parent directory that the bridge owns as well."""

_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)


class NotPrivate(PermissionError):
    """The file or directory cannot be restricted to this user."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(errno.EPERM, what, str(path))


def directory(path: Path) -> None:
    """Make the directory, with parents, or narrow the existing one. Raises: OSError."""
    parent = path.parent
    if not parent.exists():
        directory(parent)
    elif parent.name == STATE and _is_ours(os.lstat(parent)) and not parent.is_symlink():
        _narrow(parent, 0o700)
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    _narrow(path, 0o700)


def missing_directory(path: Path) -> None:
    """Make the directory where there is none. An existing one, which may serve other purposes, is unchanged."""
    if not path.is_dir():
        directory(path)


def file(path: Path) -> None:
    """Make an empty file, or narrow the existing one. Raises: OSError.

    An existing file is not opened: closing any descriptor would end the locks that SQLite holds in this process.
    """
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | _NO_LINK, 0o600))
    _narrow(path, 0o600)


def narrow(paths: Iterable[Path]) -> None:
    """Narrow the existing ones of these files, sockets and directories. Raises: OSError."""
    for path in paths:
        with suppress(FileNotFoundError):
            _narrow(path, 0o700 if path.is_dir() else 0o600)


def database(path: Path) -> None:
    """Make or narrow an SQLite file, and narrow the files that SQLite keeps beside it. Raises: OSError."""
    file(path)
    narrow(path.with_name(path.name + ending) for ending in ("-wal", "-shm", "-journal"))


def opened(path: Path, flags: int) -> int:
    """Open a file that is no database; return the descriptor. `os.O_CREAT` makes the file. Raises: OSError."""
    try:
        # Without waiting: opening a pipe without a writer would never end
        descriptor = os.open(path, flags | _NO_LINK | getattr(os, "O_NONBLOCK", 0), 0o600)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK):
            raise NotPrivate(path, "is a link, which is not followed; name the file itself") from None
        raise
    try:
        _narrow(path, 0o600, descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """File that appears under its name when it is complete, and not at all when writing fails. Raises: OSError."""
    with suppress(FileNotFoundError):
        _check(path, os.lstat(path), stat.S_IFREG)
    beside = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}")
    descriptor = os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY | _NO_LINK, 0o600)
    try:
        with open(descriptor, "wb") as out:  # noqa: PTH123 - a descriptor has no path
            yield out
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def flush_directory(path: Path) -> None:
    """Flush the entries of a directory to disk. Raises: OSError."""
    if sys.platform == "win32":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _narrow(path: Path, mode: int, descriptor: int | None = None) -> None:
    found = os.lstat(path) if descriptor is None else os.fstat(descriptor)
    _check(
        path, found, stat.S_IFDIR if mode == 0o700 else stat.S_IFSOCK if stat.S_ISSOCK(found.st_mode) else stat.S_IFREG
    )
    if stat.S_IMODE(found.st_mode) == mode or sys.platform == "win32":
        return
    if descriptor is not None:
        os.fchmod(descriptor, mode)
    elif os.chmod in os.supports_follow_symlinks:
        os.chmod(path, mode, follow_symlinks=False)  # noqa: PTH101 - Path.chmod cannot say so on every version
    else:
        # Linux: closing an O_PATH descriptor, which is no open file, ends no lock
        place = os.open(path, os.O_PATH | _NO_LINK)
        try:
            if os.fstat(place).st_ino != found.st_ino:
                raise NotPrivate(path, "is exchanged by somebody while it is opened")
            os.chmod(f"/proc/self/fd/{place}", mode)  # noqa: PTH101 - no path
        finally:
            os.close(place)


def _is_ours(found: os.stat_result) -> bool:
    return sys.platform == "win32" or found.st_uid == os.geteuid()


def _check(path: Path, found: os.stat_result, kind: int) -> None:
    if stat.S_ISLNK(found.st_mode):
        raise NotPrivate(path, "is a link, which is not followed; name its target instead")
    if stat.S_IFMT(found.st_mode) != kind:
        raise NotPrivate(path, f"is not a {'directory' if kind == stat.S_IFDIR else 'regular file'}")
    if not _is_ours(found):
        raise NotPrivate(
            path,
            f"belongs to the user {found.st_uid}, not to {os.geteuid()} who runs this; give it to that user, or "
            "name another path",
        )
