"""Files that a configuration names, read within a bound: a device or pipe would never end."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

MAX_BYTES = 4 * 1024 * 1024
"""Largest schema file."""


def _at_once(path: str, flags: int) -> int:
    # Without waiting: the open of a pipe that nobody writes to would never end
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def bounded(path: Path, most: int = MAX_BYTES) -> bytes:
    """The content of a regular file. Raises: OSError, also for what is larger or no regular file."""
    with open(path, "rb", opener=_at_once) as stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise OSError(errno.EINVAL, "is not a regular file", str(path))
        raw = stream.read(most + 1)
    if len(raw) > most:
        raise OSError(errno.EFBIG, f"is larger than {most // 1024**2} MiB", str(path))
    return raw
