"""Connection that reads an engine's file beside its writer."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path
from typing import Any

from bridge.sqlite_engine.storage.schema import connect


class FileReader:
    """Reader of the committed rows of a file, connected at its first query. Methods may be called from any thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._closed = False

    def query(self, query: str, *values: int) -> list[Any]:
        """Rows of a query. Raises: OSError when the engine is closed or its file cannot be read."""
        with self._lock:
            if self._closed:
                raise OSError("the engine is closed")
            try:
                if self._connection is None:
                    self._connection = connect(self._path)
                return self._connection.execute(query, values).fetchall()
            except sqlite3.Error as error:
                raise OSError(f"{self._path}: cannot be read: {error}") from error

    def close(self) -> None:
        """Close the connection. Later queries fail."""
        with self._lock:
            self._closed = True
            if self._connection is not None:
                self._connection.close()
                self._connection = None
