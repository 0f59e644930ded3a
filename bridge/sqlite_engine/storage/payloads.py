"""Payload columns of the engine's file: conversion between values and their stored form, plain or encrypted.

Names, ids, times and statuses are columns of their own and stay in clear text. A sealed value is a blob that begins
with a zero byte. A stored protobuf message never does, and plain text is not a blob. Old rows stay readable beside new
ones.

Table, column and row are authenticated with the value. The engine never moves a stored value: it decrypts the value and
encrypts it for the new place. A value in any other place was put there by another program.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from durabletask.internal import orchestrator_service_pb2 as pb
from google.protobuf.message import DecodeError

from bridge.encryption import Keyring, Unsealable
from bridge.sqlite_engine.model.failures import read_event, read_events, read_failure

Row = int | str | tuple[int, int]
"""Primary key of a row."""


@dataclass(frozen=True, slots=True)
class Column:
    """Column of payloads. key: names of the columns of its table's primary key."""

    table: str
    name: str
    key: tuple[str, ...]
    is_text: bool = False

    def place(self, row: Row) -> bytes:
        key = f"{row[0]},{row[1]}" if type(row) is tuple else row
        return f"{self.table}.{self.name}:{key}".encode()


START = Column("instances", "start", ("key",))
OUTPUT = Column("instances", "output", ("key",), is_text=True)
CUSTOM_STATUS = Column("instances", "custom_status", ("key",), is_text=True)
FAILURE = Column("instances", "failure", ("key",))
EVENTS = Column("history", "events", ("key", "chunk"))
INBOX = Column("inbox", "event", ("seq",))
REQUEST = Column("tasks", "request", ("seq",))
TIMER = Column("timers", "event", ("seq",))
STATE = Column("entities", "state", ("id",), is_text=True)
OPERATION = Column("operations", "event", ("seq",))
RECORD = Column("lineage_records", "body", ("seq",), is_text=True)

COLUMNS = (START, OUTPUT, CUSTOM_STATUS, FAILURE, EVENTS, INBOX, REQUEST, TIMER, STATE, OPERATION, RECORD)
"""Every column that holds payloads."""


def row_of(key: Sequence[Any]) -> Row:
    """Primary key from the values of its columns."""
    return key[0] if len(key) == 1 else (key[0], key[1])


class SealedValue(DecodeError):  # type: ignore[misc]  # its base has no types
    """Raised when a stored value cannot be decrypted. The engine treats it as an unreadable value."""


class Payloads:
    """Conversion of the values of payload columns. keyring: None for a file without encryption."""

    def __init__(self, keyring: Keyring | None = None) -> None:
        self.keyring = keyring
        self.seals = keyring is not None and keyring.active
        """True when new values are encrypted."""
        self._refuses_plain = keyring is not None and not keyring.accepts_plain

    # Writing

    def seal(self, value: bytes | str | None, column: Column, row: Row) -> bytes | str | None:
        """Convert a value to its stored form."""
        if value is None or not self.seals:
            return value
        assert self.keyring is not None
        data = value.encode() if isinstance(value, str) else value
        return self.keyring.seal(data, column.place(row))

    def rows(
        self, rows: Sequence[Sequence[Any]], columns: dict[int, Column], key: Sequence[int] = (0,)
    ) -> Sequence[Sequence[Any]]:
        """Convert rows to their stored form.

        columns: by position.
        key: positions of the primary key.
        """
        if not self.seals:
            return rows
        found = []
        for row in rows:
            changed = list(row)
            id_ = row_of([row[position] for position in key])
            for position, column in columns.items():
                changed[position] = self.seal(row[position], column, id_)
            found.append(changed)
        return found

    # Reading. Each raises DecodeError.

    def blob(self, stored: bytes, column: Column, row: Row) -> bytes:
        """Bytes of a stored message."""
        if stored[:1] == b"\0":
            return self._open(stored, column, row)
        if self._refuses_plain:
            raise _plain(column, row)
        return stored

    def text(self, stored: str | bytes | None, column: Column, row: Row) -> str | None:
        if isinstance(stored, str) and self._refuses_plain:
            raise _plain(column, row)
        if stored is None or isinstance(stored, str):
            return stored
        return self._open(stored, column, row).decode()

    def event(self, stored: bytes, column: Column, row: Row) -> pb.HistoryEvent:
        return read_event(self.blob(stored, column, row))

    def events(self, stored: bytes, row: tuple[int, int]) -> list[pb.HistoryEvent]:
        return read_events(self.blob(stored, EVENTS, row))

    def failure(self, stored: bytes | None, row: int) -> pb.TaskFailureDetails | None:
        return None if stored is None else read_failure(self.blob(stored, FAILURE, row))

    def request(self, stored: bytes, row: int) -> pb.ActivityRequest:
        request: pb.ActivityRequest = pb.ActivityRequest.FromString(self.blob(stored, REQUEST, row))
        return request

    def _open(self, stored: bytes, column: Column, row: Row) -> bytes:
        if self.keyring is None:
            raise SealedValue(f"{column.table}.{column.name} of row {row} is encrypted, and there is no key")
        try:
            return self.keyring.open(stored, column.place(row))
        except Unsealable as error:
            raise SealedValue(f"{column.table}.{column.name} of row {row} {error}") from None


def _plain(column: Column, row: Row) -> SealedValue:
    return SealedValue(f"{column.table}.{column.name} of row {row} is not encrypted, and `accept_plain` is false")
