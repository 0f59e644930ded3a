"""Table of the files of large payloads: which instance or entity refers to which file.

Rows are written and deleted in the transactions that change the messages with the references. A file whose last row was
deleted is removed after the commit. The table exists once a file has a large payload; program versions that cannot read
references refuse the file as a newer one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from bridge.large_payloads.files import PayloadFiles
from bridge.large_payloads.reference import MARK, names_in
from bridge.sqlite_engine.storage.payloads import EVENTS, INBOX, OPERATION, OUTPUT, REQUEST, START, TIMER, Payloads
from bridge.sqlite_engine.storage.schema import LARGE_PAYLOADS, REFERENCES, set_flag
from bridge.sqlite_engine.storage.statements import slices

Owner = int | str
"""Key of an instance, or id of an entity."""

_TABLE = "SELECT 1 FROM sqlite_master WHERE type='table' AND name='payload_references'"

_OF_INSTANCE = (
    ("SELECT start, key FROM instances WHERE key=?", START),
    ("SELECT output, key FROM instances WHERE key=? AND output IS NOT NULL", OUTPUT),
    ("SELECT events, key, chunk FROM history WHERE key=?", EVENTS),
    ("SELECT event, seq FROM inbox WHERE key=?", INBOX),
    ("SELECT request, seq FROM tasks WHERE key=?", REQUEST),
    ("SELECT event, seq FROM timers WHERE key=? AND event IS NOT NULL", TIMER),
)
_OF_ENTITY = (
    ("SELECT event, seq FROM operations WHERE entity=?", OPERATION),
    ("SELECT event, seq FROM timers WHERE entity=? AND event IS NOT NULL", TIMER),
)


def exist(connection: sqlite3.Connection) -> bool:
    """True when the file refers, or once referred, to large payloads."""
    return connection.execute(_TABLE).fetchone() is not None


def names(connection: sqlite3.Connection) -> list[str]:
    """Names of all files that the engine's file refers to. Raises: sqlite3.Error."""
    if not exist(connection):
        return []
    return [row[0] for row in connection.execute("SELECT DISTINCT name FROM payload_references ORDER BY name")]


class References:
    """References of the current transaction, and the files that no row names any more.

    All but `take_released` runs inside the transaction, `take_released` after its commit.
    """

    def __init__(self, connection: sqlite3.Connection, payloads: Payloads, files: PayloadFiles) -> None:
        self._connection = connection
        self._payloads = payloads
        self._files = files
        self._exist = exist(connection)
        self._rows: list[tuple[str, Owner]] = []
        self._released: set[str] = set()

    def add(self, owner: Owner, message: bytes | str | None) -> None:
        """Record the references in an encoded message, or in a text, of this owner."""
        if message is None:
            return
        if isinstance(message, str):
            if MARK not in message:
                return
            message = message.encode()
        for name in names_in(message):
            if self._files.has(name):  # otherwise the data of a message looks like a reference
                self._rows.append((name, owner))

    def clear(self) -> None:
        """Drop the rows that were not written."""
        self._rows.clear()

    def rollback(self) -> None:
        self.clear()
        self._released.clear()
        self._exist = exist(self._connection)

    def write(self) -> None:
        """Write the collected rows."""
        if not self._rows:
            return
        if not self._exist:
            for statement in REFERENCES:
                self._connection.execute(statement)
            set_flag(self._connection, LARGE_PAYLOADS)
            self._exist = True
        self._connection.executemany("INSERT OR IGNORE INTO payload_references (name, owner) VALUES (?, ?)", self._rows)
        self._rows.clear()

    def remove(self, owners: Iterable[Owner]) -> None:
        """Delete the rows of owners that are gone."""
        if not self._exist:
            return
        for part in slices(list(owners)):
            marks = ",".join("?" * len(part))
            query = f"DELETE FROM payload_references WHERE owner IN ({marks}) RETURNING name"  # noqa: S608 -- only marks
            self._released.update(row[0] for row in self._connection.execute(query, part).fetchall())

    def review(self, owners: Iterable[Owner]) -> None:
        """Delete the rows of owners whose messages do not refer to the file any more."""
        if not self._exist:
            return
        for owner in owners:
            rows = self._connection.execute("SELECT name FROM payload_references WHERE owner=?", (owner,)).fetchall()
            gone = {row[0] for row in rows}
            if gone:
                gone -= self._named(owner)
            for name in gone:
                self._connection.execute("DELETE FROM payload_references WHERE name=? AND owner=?", (name, owner))
            self._released |= gone

    def _named(self, owner: Owner) -> set[str]:
        found: set[str] = set()
        for query, column in _OF_INSTANCE if isinstance(owner, int) else _OF_ENTITY:
            for value, *key in self._connection.execute(query, (owner,)):
                row = (key[0], key[1]) if len(key) == 2 else key[0]
                if column.is_text:
                    data = (self._payloads.text(value, column, row) or "").encode()
                else:
                    data = self._payloads.blob(value, column, row)
                found.update(names_in(data))
        return found

    def wipe(self) -> None:
        """Delete all rows."""
        if self._exist:
            self._released.update(names(self._connection))
            self._connection.execute("DELETE FROM payload_references")

    def unreferenced(self, names: Iterable[str]) -> list[str]:
        """Select the files that no row names."""
        found = list(names)
        if self._exist:
            query = "SELECT 1 FROM payload_references WHERE name=? LIMIT 1"
            found = [name for name in found if self._connection.execute(query, (name,)).fetchone() is None]
        return found

    def take_released(self) -> list[str]:
        """Files whose last row the committed transaction deleted."""
        if not self._released:
            return []
        found = self.unreferenced(self._released)
        self._released.clear()
        return found
