"""Many rows in one statement.

Each step of a statement gives up the interpreter and has to win it back, so that one statement for 64 rows costs a
busy process far less than 64 statements. Sizes are powers of two, so that few statements are ever compiled.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

_LARGEST = 64


class Statement:
    """A statement over a list of rows: `head (row), (row) ... tail`."""

    def __init__(self, head: str, columns: int, tail: str = "") -> None:
        row = "(" + ",".join("?" * columns) + ")"
        self._by_size: dict[int, str] = {}
        size = 1
        while size <= _LARGEST:
            self._by_size[size] = f"{head} {','.join([row] * size)} {tail}"
            size *= 2

    def run(self, connection: sqlite3.Connection, rows: Sequence[Sequence[Any]]) -> None:
        execute = connection.execute
        start, total = 0, len(rows)
        while start < total:
            size = min(_LARGEST, 1 << ((total - start).bit_length() - 1))
            execute(self._by_size[size], list(chain.from_iterable(rows[start : start + size])))
            start += size


class KeyStatement:
    """A statement over a list of keys: `head (key, key ...)`."""

    def __init__(self, head: str) -> None:
        self._by_size: dict[int, str] = {}
        size = 1
        while size <= _LARGEST:
            self._by_size[size] = f"{head} ({','.join('?' * size)})"
            size *= 2

    def run(self, connection: sqlite3.Connection, keys: Iterable[Any]) -> None:
        listed = list(keys)
        start, total = 0, len(listed)
        while start < total:
            size = min(_LARGEST, 1 << ((total - start).bit_length() - 1))
            connection.execute(self._by_size[size], listed[start : start + size])
            start += size
