"""Spans in the engine's file that were not sent yet, as their sender reads and deletes them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from bridge.sqlite_engine.hub.hub import TaskHub
from bridge.sqlite_engine.hub.working_set import OperationKind
from bridge.sqlite_engine.storage.reader import FileReader

_ROWS = 64
"""Rows that are read at once. A row has the spans of one transaction."""


class KeptSpans:
    """Spans that wait in a file. submit: runs an operation in the writer's thread.

    Rows are numbered once: a row that was deleted leaves its number unused.
    """

    def __init__(self, path: Path, hub: TaskHub, submit: Callable[..., None]) -> None:
        assert hub.tracing is not None
        self._hub = hub
        self._tracing = hub.tracing
        self._submit = submit
        self._reader = FileReader(path)
        self._measure()

    @property
    def waiting_bytes(self) -> int:
        return self._tracing.waiting_bytes

    @property
    def dropped(self) -> Mapping[str, int]:
        return dict(self._tracing.dropped)

    def read(self, after: int, limit: int) -> tuple[int, int, bytes]:
        """Last position, number of spans, and about `limit` bytes of spans behind a position.

        The last position is the given one when there are none. Raises: OSError when the engine is closed or cannot be
        read.
        """
        rows = self._reader.query(
            "SELECT seq, number, spans FROM spans WHERE seq > ? ORDER BY seq LIMIT ?", after, _ROWS
        )
        position, number, size = after, 0, 0
        found: list[bytes] = []
        for seq, count, spans in rows:
            if found and size + len(spans) > limit:
                break
            position, number, size = seq, number + count, size + len(spans)
            found.append(spans)
        return position, number, b"".join(found)

    def confirm(self, position: int) -> None:
        """Delete the spans up to a position, because they were sent."""
        self._submit(self._delete, "seq <= ?", position, kind=OperationKind.PURGE)

    def expire(self, seconds: float) -> None:
        """Drop the spans that are older."""
        before = time.time_ns() // 1000 - int(seconds * 1_000_000)
        try:
            oldest = self._reader.query("SELECT at FROM spans ORDER BY seq LIMIT 1")
        except OSError:
            return
        if oldest and oldest[0][0] < before:
            self._submit(self._expire, before, kind=OperationKind.PURGE)

    def close(self) -> None:
        """Close the connection of the reader."""
        self._reader.close()

    # In the writer's thread

    def _delete(self, where: str, value: int) -> None:
        self._hub.tx.delete_spans(where, value)
        self._measure()

    def _expire(self, before: int) -> None:
        connection = self._hub.store.connection
        row = connection.execute("SELECT coalesce(sum(number), 0) FROM spans WHERE at < ?", (before,)).fetchone()
        self._tracing.expired(int(row[0]))
        self._delete("at < ?", before)

    def _measure(self) -> None:
        row = self._hub.store.connection.execute("SELECT coalesce(sum(length(spans)), 0) FROM spans").fetchone()
        self._tracing.measured(int(row[0]))
