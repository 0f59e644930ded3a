"""Lock of the engine's file, which one process at a time holds."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from bridge.core.errors import EngineUnavailable
from bridge.system import private


class FileLock:
    """Advisory lock beside the file. The operating system releases it when the process dies."""

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(path.name + ".lock")
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises: EngineUnavailable when another process holds it, with its process id where known; OSError.
        """
        descriptor = private.opened(self._path, os.O_RDWR | os.O_CREAT)
        try:
            lock_descriptor(descriptor)
        except OSError as error:
            owner = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() if hasattr(os, "pread") else ""
            os.close(descriptor)
            who = f"process {owner}" if owner else "another process"
            raise EngineUnavailable(
                f"{self._path.with_suffix('')}: {who} has this engine file open; stop it, or name another path"
            ) from error
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode("ascii"))
        self._descriptor = descriptor

    def release(self) -> None:
        """Release the lock. Idempotent."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


if sys.platform == "win32":
    import msvcrt

    def lock_descriptor(descriptor: int) -> None:
        # Far behind the process id, which other processes must be able to read: Windows locks are mandatory.
        os.lseek(descriptor, 1 << 20, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)
else:
    import fcntl

    def lock_descriptor(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
