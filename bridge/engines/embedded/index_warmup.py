"""Reads a large file's index of ids once after the start, so that the first calls need not wait for the disk."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from pathlib import Path

from bridge.engines.embedded.schema import connect
from bridge.errors import EngineError

STEP = 20_000
"""Ids that one statement reads at most: while it runs, the write-ahead log cannot begin anew."""


class IndexWarmup:
    """A thread that touches every page of the index in which each start looks for its id, then ends.

    Ids are mostly random, so that every start needs another page of it. SQLite's own cache is not shared, but that of
    the operating system is.
    """

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"engine-{name}-warmth", daemon=True)
        self.read = 0
        """Ids read so far."""

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Idempotent."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        # It only makes things faster, so that what it cannot read is for others to complain about.
        with contextlib.suppress(sqlite3.Error, EngineError), contextlib.closing(connect(self._path)) as connection:
            connection.execute("PRAGMA cache_size=-512")
            last: str | None = ""
            while last is not None and not self._stopped.is_set():
                count, last = connection.execute(
                    "SELECT count(*), max(id) FROM (SELECT id FROM instances WHERE id > ? ORDER BY id LIMIT ?)",
                    (last, STEP),
                ).fetchone()
                self.read += count
