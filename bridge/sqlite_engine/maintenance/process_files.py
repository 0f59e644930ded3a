"""Files beside the engine's file, of the process that has it open: its lock, and a record of the work that it runs.

The next process reads the record after a crash. The record is mapped into memory, and survives the process at the cost
of one copy in memory per item. A crash of the machine may lose the record, because such a crash says nothing about any
item.
"""

from __future__ import annotations

import mmap
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bridge.core.errors import EngineUnavailable
from bridge.sqlite_engine.hub.leases import ACTIVITY, Leases
from bridge.system import forks, slots
from bridge.system.processes import has_ended
from bridge.system.slots import ThreadSlots

_HEADER = 64
_SLOT = 4608
"""Bytes for the longest entity id, with its length and kind."""
_RUNNING, _DRAINING = b"R", b"D"


class DatabaseLock:
    """Advisory lock that one process at a time holds. The operating system releases it when the process dies."""

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(path.name + ".lock")
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises: EngineUnavailable when another process holds it, with its process id where known; OSError.
        """
        descriptor = forks.open_lock(self._path, os.O_RDWR | os.O_CREAT)
        try:
            lock_descriptor(descriptor)
        except OSError as error:
            owner = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() if hasattr(os, "pread") else ""
            forks.close_lock(descriptor)
            raise EngineUnavailable(f"{self._path.with_suffix('')}: {self._held_by(owner)}") from error
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode("ascii"))
        self._descriptor = descriptor

    def _held_by(self, owner: str) -> str:
        """State and next step. owner: id of the process that took the lock; empty where it is unknown."""
        if owner.isdecimal() and has_ended(owner):
            return (
                f"process {owner}, which has ended, has left this engine file open in a process that it forked; find "
                f"that one with `fuser {self._path}`, and stop it"
            )
        who = f"process {owner}" if owner else "another process"
        return f"{who} has this engine file open; stop it, or name another path"

    def holder(self) -> str | None:
        """Id of the process that took the lock last, and may have ended since; None where it is unknown."""
        try:
            found = self._path.read_text("ascii")
        except (OSError, ValueError):
            return None
        return found if found.isdecimal() else None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock for a while. Raises: EngineUnavailable."""
        try:
            self.acquire()
        except OSError as error:
            engine_file = self._path.with_suffix("")
            raise EngineUnavailable(f"{engine_file}: cannot be locked: {error.strerror}") from error
        try:
            yield
        finally:
            self.release()

    def release(self) -> None:
        """Release the lock. Idempotent."""
        if self._descriptor is not None:
            forks.close_lock(self._descriptor)
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


class RunningItems:
    """Recorder with one slot per thread. `begin` and `end` may be called from any thread; neither raises."""

    def __init__(self, path: Path, leases: Leases) -> None:
        self._path = path
        self._lease = leases.get
        self._lock = threading.Lock()
        self._map: mmap.mmap | None = None
        self._slots: ThreadSlots | None = None
        self._is_closed = False

    def read(self) -> list[str]:
        """Return the items that ran when the previous process died, and delete them.

        The list is empty when that process was stopping, or when the machine was restarted since.
        """
        try:
            content = self._path.read_bytes()
            self._path.unlink()
        except OSError:
            return []
        if content[:1] != _RUNNING or content[1:_HEADER].rstrip(b"\0") != _boot():
            return []
        return [entry.decode("utf-8", "replace") for entry in slots.entries(content, _SLOT, _HEADER)]

    def close(self) -> None:
        """Delete the record, and record nothing from now on."""
        with self._lock:
            self._is_closed = True
            self._map = self._slots = None
            with suppress(OSError):
                self._path.unlink(missing_ok=True)

    def drain(self) -> None:
        """Mark the process as stopping: its end counts as no loss."""
        self._mark(_DRAINING)

    def resume(self) -> None:
        """Mark the process as running when a worker starts."""
        self._mark(_RUNNING)

    def begin(self, token: str) -> None:
        """Record that this thread begins the work item of a lease."""
        lease = self._lease(token)
        own = self._slots
        if own is None:
            self._opened()
            own = self._slots
        if lease is None or own is None:
            return
        subject = lease.subject.seq if lease.kind == ACTIVITY else lease.subject
        own.write(f"{lease.kind}{'!' if lease.is_alone else ':'}{subject}".encode())

    def end(self) -> None:
        """Record that this thread has completed its work item."""
        own = self._slots
        if own is not None:
            own.clear()

    def _mark(self, mark: bytes) -> None:
        record = self._map or self._opened()
        if record is not None:
            record[: len(mark)] = mark

    def _opened(self) -> mmap.mmap | None:
        """Open record; None when it cannot be written. Losses are not counted then, and work continues."""
        with self._lock:
            if self._map is None and not self._is_closed:
                with suppress(OSError):
                    file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
                    try:
                        # Written in full: a page without disk space later would end the process.
                        os.write(file, bytes(slots.required_size(_SLOT, _HEADER)))
                        self._map = mmap.mmap(file, 0)
                    finally:
                        os.close(file)
                    self._map[:_HEADER] = (_RUNNING + _boot()).ljust(_HEADER, b"\0")
                    self._slots = ThreadSlots(self._map, self._grow, _SLOT, _HEADER)
            return self._map

    def _grow(self, size: int) -> mmap.mmap | None:
        """Record with this number of bytes; None when it cannot be written."""
        try:
            file = os.open(self._path, os.O_RDWR | os.O_APPEND)
            try:
                os.write(file, bytes(size - os.fstat(file).st_size))
                return mmap.mmap(file, size)
            finally:
                os.close(file)
        except (OSError, ValueError):  # ValueError: the disk became full, and the file is shorter
            return None


def record_of(path: Path) -> Path:
    """Path of an engine's record, beside its file."""
    return path.with_suffix(".running")


def _boot() -> bytes:
    """Identity of the machine's current boot; empty where the system does not provide one."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
    except OSError:
        return b""
