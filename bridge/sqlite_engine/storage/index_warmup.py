"""Index warm-up: one pass over a large file's index of ids after the start, which saves the first calls disk reads."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from pathlib import Path

from bridge.core.errors import EngineError
from bridge.sqlite_engine.storage.schema import connect

STEP = 20_000
"""Largest number of ids that one statement reads. While it runs, the write-ahead log cannot be reset."""


class IndexWarmup:
    """Thread that reads every page of the index by which each start finds its id, and then ends.

    Ids are mostly random, and each start needs another page of the index. The pages stay in the operating system's
    cache; SQLite's own cache belongs to one connection.
    """

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"engine-{name}-warmth", daemon=True)
        self.read = 0
        """Number of ids read so far."""

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread. Idempotent."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        # The warm-up only saves time. Errors of the file are reported elsewhere.
        with contextlib.suppress(sqlite3.Error, EngineError), contextlib.closing(connect(self._path)) as connection:
            connection.execute("PRAGMA cache_size=-512")
            last: str | None = ""
            while last is not None and not self._stopped.is_set():
                count, last = connection.execute(
                    "SELECT count(*), max(id) FROM (SELECT id FROM instances WHERE id > ? ORDER BY id LIMIT ?)",
                    (last, STEP),
                ).fetchone()
                self.read += count
