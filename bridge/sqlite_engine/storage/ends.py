"""Ends of instances that the program around the engine announces, in the file until it has done so."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path

from bridge.sqlite_engine.model.instance import Finish
from bridge.sqlite_engine.options import EndsOptions
from bridge.sqlite_engine.storage.reader import FileReader
from bridge.sqlite_engine.storage.schema import ENDS

logger = logging.getLogger(__name__)


class EndRecorder:
    """Recorder of the ends, in the transactions in which they happen. All methods run in the writer's thread.

    kept: ends in the file. dropped: ends that were not kept, because the file keeps too many.
    """

    def __init__(self, connection: sqlite3.Connection, options: EndsOptions) -> None:
        """Create the recorder and its table. Raises: sqlite3.Error."""
        self._connection = connection
        self._options = options
        self._added: list[str] = []
        self._change = 0
        """Rows that the open transaction has written, less those that it has deleted."""
        connection.execute(ENDS)
        self.kept = int(connection.execute("SELECT count(*) FROM ends").fetchone()[0])
        self.dropped = 0

    def add(self, end: Finish, at: int) -> None:
        """Record an end if the program wants it. at: its time in microseconds."""
        try:
            text = self._options.describe(end, at)
        except Exception:
            # The end itself must not fail with its description
            logger.exception("The end of %s cannot be described", end.instance_id)
            self.dropped += 1
            return
        if text is None:
            return
        if self.kept + self._change + len(self._added) >= self._options.most:
            self.dropped += 1
        else:
            self._added.append(text)

    def write(self) -> None:
        """Write the recorded ends, in the open transaction. Raises: sqlite3.Error."""
        if self._added:
            self._connection.executemany("INSERT INTO ends (body) VALUES (?)", [(each,) for each in self._added])
            self._change += len(self._added)
            self._added.clear()

    def committed(self) -> None:
        """Count the changes of the transaction."""
        self.kept += self._change
        self._change = 0

    def rollback(self) -> None:
        """Forget the changes of the transaction."""
        self._added.clear()
        self._change = 0

    def delete(self, position: int) -> None:
        """Delete the ends up to a position, in the open transaction. Raises: sqlite3.Error."""
        self._change -= self._connection.execute("DELETE FROM ends WHERE seq <= ?", (position,)).rowcount


class KeptEnds:
    """Ends in the file, as the program reads and deletes them. Methods may be called from any thread.

    Rows are numbered once: a row that was deleted leaves its number unused.
    """

    def __init__(self, path: Path, recorder: EndRecorder, confirm: Callable[[int], None]) -> None:
        """Create the reader. confirm: deletes the ends up to a position, soon."""
        self._reader = FileReader(path)
        self._recorder = recorder
        self.confirm = confirm

    @property
    def waiting(self) -> int:
        """Number of ends in the file."""
        return self._recorder.kept

    @property
    def dropped(self) -> int:
        """Number of ends that were not kept since the engine started."""
        return self._recorder.dropped

    def read(self, after: int, limit: int) -> list[tuple[int, str]]:
        """Position and text of the next ends behind a position. Raises: OSError when the file cannot be read."""
        return self._reader.query("SELECT seq, body FROM ends WHERE seq > ? ORDER BY seq LIMIT ?", after, limit)

    def close(self) -> None:
        """Close the connection."""
        self._reader.close()
