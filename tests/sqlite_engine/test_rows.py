"""Many rows in one statement."""

from __future__ import annotations

import sqlite3

from hypothesis import given
from hypothesis import strategies as st

from bridge.sqlite_engine.storage.statements import LARGE, Statement

INSERT = Statement("INSERT INTO t (a, b) VALUES", 2)
VALUES = st.sampled_from([None, 1, "s", b"b", "x" * LARGE, b"x" * (LARGE + 1)])


@given(st.lists(st.tuples(st.integers(0, 9), VALUES), max_size=150))
def test_large_rows_are_written_alone_and_all_in_order(rows: list[tuple[int, object]]) -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute("CREATE TABLE t (a, b)")
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    INSERT.run(connection, rows)
    assert connection.execute("SELECT a, b FROM t ORDER BY rowid").fetchall() == rows
    connection.close()
    # A compiled statement keeps its values: 64 rows of 4 MB would be 256 MB
    assert all(len(each) < 64 * 100 or each.count("(") <= 2 for each in statements)
