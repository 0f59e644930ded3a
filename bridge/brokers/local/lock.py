"""Exclusive locks on files. The kernel releases a lock when its holder dies in any way."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType

from bridge.system import forks


class HeldFileLock:
    """A held lock. Two locks on one file also exclude each other within a process."""

    __slots__ = ("_descriptor",)

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def acquire(cls, path: Path) -> HeldFileLock:
        """Wait for the lock. Raises: OSError."""
        descriptor = forks.open_lock(path, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except BaseException:
            forks.close_lock(descriptor)
            raise
        return cls(descriptor)

    @classmethod
    def try_acquire(cls, path: Path) -> HeldFileLock | None:
        """Acquire the lock; None when it is held. Raises: OSError."""
        descriptor = forks.open_lock(path, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            forks.close_lock(descriptor)
            return None
        except BaseException:
            forks.close_lock(descriptor)
            raise
        return cls(descriptor)

    def release(self) -> None:
        """Release the lock. Idempotent."""
        if self._descriptor >= 0:
            forks.close_lock(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> HeldFileLock:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()


def is_held(path: Path) -> bool:
    """Return whether a process holds the lock on an existing file. Raises: OSError, including FileNotFoundError."""
    descriptor = forks.open_lock(path, os.O_RDONLY)
    try:
        # Shared: two simultaneous checks of a dead member's file must not take each other for that member
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        forks.close_lock(descriptor)
    return False
