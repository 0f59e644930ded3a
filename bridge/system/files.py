"""Files that a configuration names: plain ones, read up to a limit.

A configuration may come from a stranger, and a path in it may lead to a device that never ends or to a pipe without a
writer.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path


class FileProblem(OSError):
    """The file cannot be used. `strerror` is the cause, without the path."""

    def __init__(self, cause: str) -> None:
        super().__init__(0, cause)


class FileTooLarge(FileProblem):
    """The file has more bytes than its limit."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"larger than {f'{limit // 1024**2} MiB' if limit >= 1024**2 else f'{limit} bytes'}")


def read_file(path: Path, limit: int) -> bytes:
    """Contents of a plain file. Raises: OSError; FileProblem when it is not plain, or larger than `limit` bytes."""
    # A pipe without a writer would keep a plain open() waiting
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    with os.fdopen(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise FileProblem("not a plain file")
        found = stream.read(limit + 1)
    if len(found) > limit:
        raise FileTooLarge(limit)
    return found


def check_file(path: Path, limit: int) -> Path:
    """Check a file and return its path, for a library that reads it. Raises: as `read_file`."""
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        raise FileProblem("not a plain file")
    if about.st_size > limit:
        raise FileTooLarge(limit)
    return path
