"""Statements over many rows.

Each statement releases the interpreter lock and must get it back. One statement for 64 rows costs a busy process far
less than 64 statements. Sizes are 1 to 7 and the multiples of 8 up to 64. Two statements then write any remainder, and
few statements are compiled. SQLite keeps the values of a compiled statement until its next use; a large row therefore
gets a statement of its own.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, TypeVar

LARGE = 4096
"""Length of a value at which its row is written alone."""

_LARGEST = 64
_SIZES = (*range(1, 8), *range(8, _LARGEST + 1, 8))

T = TypeVar("T")


def slices(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Slice the items into sizes for which there are statements."""
    start, left = 0, len(items)
    while left:
        size = min(_LARGEST, left & ~7) or left
        yield items[start : start + size]
        start += size
        left -= size


class Statement:
    """Statement over a list of rows: `head (row), (row) ... tail`.

    large: positions of the columns whose values may be large; all columns when empty.
    """

    def __init__(self, head: str, columns: int, tail: str = "", large: Sequence[int] = ()) -> None:
        row = "(" + ",".join("?" * columns) + ")"
        self._by_size = {size: f"{head} {','.join([row] * size)} {tail}" for size in _SIZES}
        self._large = tuple(large) or tuple(range(columns))

    def run(self, connection: sqlite3.Connection, rows: Sequence[Sequence[Any]]) -> None:
        start, columns = 0, self._large
        for position, row in enumerate(rows):
            for column in columns:
                value = row[column]
                if value is not None and (type(value) is bytes or type(value) is str) and len(value) >= LARGE:
                    self._run(connection, rows[start:position])
                    connection.execute(self._by_size[1], row)
                    start = position + 1
                    break
        self._run(connection, rows[start:] if start else rows)

    def _run(self, connection: sqlite3.Connection, rows: Sequence[Sequence[Any]]) -> None:
        for part in slices(rows):
            connection.execute(self._by_size[len(part)], list(chain.from_iterable(part)))


class KeyStatement:
    """Statement over a list of keys: `head (key, key ...)`."""

    def __init__(self, head: str) -> None:
        self._by_size = {size: f"{head} ({','.join('?' * size)})" for size in _SIZES}

    def run(self, connection: sqlite3.Connection, keys: Iterable[Any]) -> None:
        for part in slices(list(keys)):
            connection.execute(self._by_size[len(part)], part)
