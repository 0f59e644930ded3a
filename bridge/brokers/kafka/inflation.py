"""Limits of decompressed data over all partitions of one consumer. Pure."""

from __future__ import annotations

from weakref import WeakKeyDictionary

TAKE_BYTES = 8 << 20
"""Bytes of messages after which one call hands out no more."""


class Room:
    """Bytes that one call may still hand out."""

    __slots__ = ("left",)

    def __init__(self, size: int = TAKE_BYTES) -> None:
        self.left = size


class Inflation:
    """Decompressed batches that are being handed out, by reader.

    A reader may open a batch while all open batches together are below the limit. The total therefore never exceeds the
    limit by more than one batch. Readers that no longer exist do not count.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: WeakKeyDictionary[object, int] = WeakKeyDictionary()
        self.refused = False
        """True when a reader had to wait since the last reset."""

    @property
    def bytes(self) -> int:
        """Size of all open batches in bytes."""
        return sum(self._open.values())

    def admits(self, reader: object) -> bool:
        """Return whether the reader may open a batch now."""
        if not self._open or reader in self._open or self.bytes < self._limit:
            return True
        self.refused = True
        return False

    def note(self, reader: object, size: int) -> None:
        """Record the size in bytes of the reader's open batch; 0: none."""
        if size:
            self._open[reader] = size
        else:
            self._open.pop(reader, None)
