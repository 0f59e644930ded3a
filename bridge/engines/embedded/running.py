"""A record of the work items that this process's workers run: the next process reads in it what ran as this one died.

It lies beside the engine's file, mapped into memory: it survives the process at the cost of a copy in memory per item,
and need not survive the machine, whose crash says nothing about any item.
"""

from __future__ import annotations

import mmap
import os
import threading
from contextlib import suppress
from pathlib import Path

from bridge.engines.embedded.dispatch import ACTIVITY, Leases

_HEADER = 64
_SLOT = 4608
"""Room for the longest id of an entity, with its length and kind."""
_SLOTS = 512
"""Threads that are recorded."""
_RUNNING, _DRAINING = b"R", b"D"


class _Own(threading.local):
    """Place of a thread's slot; None before its first item, 0 where there is no room."""

    at: int | None = None


class RunningItems:
    """One slot per thread. `begin` and `end` may be called from any thread; none of them raises."""

    def __init__(self, path: Path, leases: Leases) -> None:
        self._path = path
        self._lease = leases.get
        self._lock = threading.Lock()
        self._map: mmap.mmap | None = None
        self._slots = 0
        self._own = _Own()
        self._is_closed = False

    def read(self) -> list[str]:
        """Return the items that ran when the process before this one died, and forget them.

        There are none where it was stopping, or where the machine was started anew since.
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
        """Forget what was recorded; from now on nothing is."""
        with self._lock:
            self._is_closed = True
            self._map = None
            with suppress(OSError):
                self._path.unlink(missing_ok=True)

    def drain(self) -> None:
        """From now on the end of the process is nobody's fault."""
        self._mark(_DRAINING)

    def resume(self) -> None:
        """A worker starts."""
        self._mark(_RUNNING)

    def begin(self, token: str) -> None:
        """This thread begins with the work item of a lease."""
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
            # The length last: what is half written does not count
            record[at + 2 : at + 2 + size] = entry
            if size < 256:
                record[at] = size
            else:
                record[at : at + 2] = size.to_bytes(2, "little")

    def end(self) -> None:
        """This thread has done what it began."""
        at, record = self._own.at, self._map
        if at and record is not None:
            if record[at + 1]:
                record[at : at + 2] = b"\0\0"
            else:
                record[at] = 0

    def _new_slot(self) -> int:
        """Place of this thread's slot in the record; 0 where there is no room for one more."""
        with self._lock:
            slot, self._slots = self._slots, self._slots + 1
        self._own.at = at = _HEADER + slot * _SLOT if slot < _SLOTS else 0
        return at

    def _mark(self, mark: bytes) -> None:
        record = self._map or self._opened()
        if record is not None:
            record[: len(mark)] = mark

    def _opened(self) -> mmap.mmap | None:
        """The record; None where it cannot be written: then losses are not counted, and work goes on."""
        with self._lock:
            if self._map is None and not self._is_closed:
                with suppress(OSError):
                    file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
                    try:
                        # Written in full: a page for which the disk has no room later would end the process
                        os.write(file, bytes(_HEADER + _SLOTS * _SLOT))
                        self._map = mmap.mmap(file, 0)
                    finally:
                        os.close(file)
                    self._map[:_HEADER] = (_RUNNING + _boot()).ljust(_HEADER, b"\0")
            return self._map


def record_of(path: Path) -> Path:
    """Where the record of an engine lies, beside its file."""
    return path.with_suffix(".running")


def _boot() -> bytes:
    """Identity of the machine's present run; empty where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
    except OSError:
        return b""
