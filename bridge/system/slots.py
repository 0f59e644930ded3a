"""Slots of memory that survives its process, one per thread: another process reads what the threads worked on."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

STEP = 512
"""Number of slots by which memory grows."""

MAX_SLOTS = 16 * 1024
"""Largest number of slots. Further threads have none."""


class _Slot(NamedTuple):
    """Slot of a thread. at: its offset in the memory; 0 when there was none left."""

    memory: mmap.mmap
    at: int


class _Own(threading.local):
    """Slot of a thread; None before its first entry."""

    slot: _Slot | None = None


class ThreadSlots:
    """Writer of slots. Methods may be called from any thread; none raises.

    memory: of `required_size` bytes. grow: returns memory of at least this number of bytes, which begins with the same
    content; None when there is no more.
    slot: bytes of one slot, with two for the length of its entry. header: bytes before the first slot, at least one.
    """

    def __init__(self, memory: mmap.mmap, grow: Callable[[int], mmap.mmap | None], slot: int, header: int) -> None:
        self._memory = memory
        self._grow = grow
        self._size = slot
        self._header = header
        self._lock = threading.Lock()
        self._used = 0
        self._free: list[_Slot] = []
        self._owners: list[tuple[threading.Thread, _Slot]] = []
        self._own = _Own()

    def write(self, entry: bytes) -> None:
        """Set the entry of this thread."""
        slot = self._own.slot
        if slot is None:
            slot = self._new_slot()
        at = slot.at
        if at:
            memory, size = slot.memory, len(entry)
            # The length is written last; a half-written entry does not count.
            memory[at + 2 : at + 2 + size] = entry
            if size < 256:
                memory[at] = size
            else:
                memory[at : at + 2] = size.to_bytes(2, "little")

    def clear(self) -> None:
        """Remove the entry of this thread."""
        slot = self._own.slot
        if slot is not None and slot.at:
            memory, at = slot.memory, slot.at
            if memory[at + 1]:
                memory[at : at + 2] = b"\0\0"
            else:
                memory[at] = 0

    def _new_slot(self) -> _Slot:
        with self._lock:
            slot = self._own.slot = self._taken()
            self._owners.append((threading.current_thread(), slot))
        return slot

    def _taken(self) -> _Slot:
        """Slot that no thread has: unused, of an ended thread, or of more memory."""
        at = self._header + self._used * self._size
        if at + self._size > len(self._memory):
            if not self._free:
                self._free = [slot for thread, slot in self._owners if not thread.is_alive() and slot.at]
                self._owners = [each for each in self._owners if each[0].is_alive()]
            if self._free:
                return self._free.pop()
            more = None
            if self._used < MAX_SLOTS:
                more = self._grow(required_size(self._size, self._header, self._used + STEP))
            if more is None:
                return _Slot(self._memory, 0)
            self._memory = more
        self._used += 1
        return _Slot(self._memory, at)


def required_size(slot: int, header: int, number: int = STEP) -> int:
    """Bytes of memory for this number of slots."""
    return header + number * slot


def entries(content: bytes | mmap.mmap, slot: int, header: int) -> Iterator[bytes]:
    """Entries of all threads, as the process left them."""
    for at in range(header, len(content) - 1, slot):
        size = int.from_bytes(content[at : at + 2], "little")
        if size:
            yield bytes(content[at + 2 : at + 2 + min(size, slot - 2)])
