"""Record of the work items that this process's workers run, for the next process to read after a crash.

The record lies beside the engine's file and is mapped into memory. The record survives the process at the cost of one
copy in memory per item. A crash of the machine may lose the record, because such a crash says nothing about any item.
"""

from __future__ import annotations

import mmap
import os
import threading
from contextlib import suppress
from pathlib import Path

from bridge.sqlite_engine.hub.dispatch import ACTIVITY, Leases

_HEADER = 64
_SLOT = 4608
"""Bytes for the longest entity id, with its length and kind."""
_SLOTS = 512
"""Largest number of threads that are recorded."""
_RUNNING, _DRAINING = b"R", b"D"


class _Own(threading.local):
    """Offset of a thread's slot; None before its first item, 0 when no slot is left."""

    at: int | None = None


class RunningItems:
    """Recorder with one slot per thread. `begin` and `end` may be called from any thread; neither raises."""

    def __init__(self, path: Path, leases: Leases) -> None:
        self._path = path
        self._lease = leases.get
        self._lock = threading.Lock()
        self._map: mmap.mmap | None = None
        self._slots = 0
        self._own = _Own()
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
        found = []
        for at in range(_HEADER, len(content), _SLOT):
            size = int.from_bytes(content[at : at + 2], "little")
            if size:
                found.append(content[at + 2 : at + 2 + size].decode("utf-8", "replace"))
        return found

    def close(self) -> None:
        """Delete the record, and record nothing from now on."""
        with self._lock:
            self._is_closed = True
            self._map = None
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
        record = self._map
        if record is None:
            record = self._opened()
        if lease is None or record is None:
            return
        at = self._own.at
        if at is None:
            at = self._new_slot()
        subject = lease.subject.seq if lease.kind == ACTIVITY else lease.subject
        entry = f"{lease.kind}{'!' if lease.is_alone else ':'}{subject}".encode()
        if at:
            size = len(entry)
            # The length is written last; a half-written entry does not count.
            record[at + 2 : at + 2 + size] = entry
            if size < 256:
                record[at] = size
            else:
                record[at : at + 2] = size.to_bytes(2, "little")

    def end(self) -> None:
        """Record that this thread has completed its work item."""
        at, record = self._own.at, self._map
        if at and record is not None:
            if record[at + 1]:
                record[at : at + 2] = b"\0\0"
            else:
                record[at] = 0

    def _new_slot(self) -> int:
        """Offset of a new slot for this thread; 0 when no slot is left."""
        with self._lock:
            slot, self._slots = self._slots, self._slots + 1
        self._own.at = at = _HEADER + slot * _SLOT if slot < _SLOTS else 0
        return at

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
                        os.write(file, bytes(_HEADER + _SLOTS * _SLOT))
                        self._map = mmap.mmap(file, 0)
                    finally:
                        os.close(file)
                    self._map[:_HEADER] = (_RUNNING + _boot()).ljust(_HEADER, b"\0")
            return self._map


def record_of(path: Path) -> Path:
    """Path of an engine's record, beside its file."""
    return path.with_suffix(".running")


def _boot() -> bytes:
    """Identity of the machine's current boot; empty where the system does not provide one."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
    except OSError:
        return b""
