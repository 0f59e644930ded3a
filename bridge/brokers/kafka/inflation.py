"""Bounds of decompressed data over all partitions of one consumer. Pure."""

from __future__ import annotations

from weakref import WeakKeyDictionary

TAKE_BYTES = 8 << 20
"""Bytes of messages after which one call hands out no more."""


class Room:
    """What one call may hand out yet, in bytes."""

    __slots__ = ("left",)

    def __init__(self, size: int = TAKE_BYTES) -> None:
        self.left = size


class Inflation:
    """Decompressed batches that are being handed out, by reader.

    A reader opens a batch while all open ones together are below the limit, so that they never hold more than the limit
    and one batch. Readers that are gone count no more.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: WeakKeyDictionary[object, int] = WeakKeyDictionary()
        self.refused = False
        """A reader had to wait since this was last reset."""

    @property
    def bytes(self) -> int:
        """Bytes of all open batches."""
        return sum(self._open.values())

    def admits(self, reader: object) -> bool:
        """Whether the reader may open a batch now."""
        if not self._open or reader in self._open or self.bytes < self._limit:
            return True
        self.refused = True
        return False

    def note(self, reader: object, size: int) -> None:
        """The reader holds an open batch of this size; 0: none."""
        if size:
            self._open[reader] = size
        else:
            self._open.pop(reader, None)
