"""Slots of memory that survives its process, one per thread: another process reads what the threads worked on."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Iterator

MAX_THREADS = 512
"""Largest number of threads that have a slot."""


class _Own(threading.local):
    """Offset of a thread's slot; None before its first entry, 0 when no slot is left."""

    at: int | None = None


class ThreadSlots:
    """Writer of slots. Methods may be called from any thread; none raises.

    memory: of at least `required_size` bytes.
    slot: bytes of one slot, with two for the length of its entry. header: bytes before the first slot, at least one.
    """

    def __init__(self, memory: mmap.mmap, slot: int, header: int) -> None:
        self._memory = memory
        self._slot = slot
        self._header = header
        self._lock = threading.Lock()
        self._used = 0
        self._own = _Own()

    def write(self, entry: bytes) -> None:
        """Set the entry of this thread."""
        at = self._own.at
        if at is None:
            at = self._new_slot()
        if at:
            memory, size = self._memory, len(entry)
            # The length is written last; a half-written entry does not count.
            memory[at + 2 : at + 2 + size] = entry
            if size < 256:
                memory[at] = size
            else:
                memory[at : at + 2] = size.to_bytes(2, "little")

    def clear(self) -> None:
        """Remove the entry of this thread."""
        at = self._own.at
        if at:
            memory = self._memory
            if memory[at + 1]:
                memory[at : at + 2] = b"\0\0"
            else:
                memory[at] = 0

    def _new_slot(self) -> int:
        with self._lock:
            slot, self._used = self._used, self._used + 1
        self._own.at = at = self._header + slot * self._slot if slot < MAX_THREADS else 0
        return at


def required_size(slot: int, header: int) -> int:
    """Bytes of memory for all slots."""
    return header + MAX_THREADS * slot


def entries(content: bytes | mmap.mmap, slot: int, header: int) -> Iterator[bytes]:
    """Entries of all threads, as the process left them."""
    for at in range(header, len(content) - 1, slot):
        size = int.from_bytes(content[at : at + 2], "little")
        if size:
            yield bytes(content[at + 2 : at + 2 + min(size, slot - 2)])
