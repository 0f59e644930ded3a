"""Ends of instances that an engine keeps until they are announced."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bridge.sqlite_engine.model.instance import COMPLETED, FAILED, Finish
from bridge.sqlite_engine.options import EndsOptions
from bridge.sqlite_engine.storage.ends import EndRecorder, KeptEnds
from bridge.sqlite_engine.storage.schema import connect


def end(name: str, status: int = FAILED) -> Finish:
    return Finish(name, "e", "order", "", status, "", True, 1.0)


def described(found: Finish, at: int) -> str | None:
    return f"{found.instance_id} {at}" if found.is_failure else None


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "engine.db"


def recorder_of(file: Path, most: int = 3) -> tuple[sqlite3.Connection, EndRecorder, KeptEnds]:
    connection = connect(file)
    connection.execute("PRAGMA journal_mode=WAL")
    recorder = EndRecorder(connection, EndsOptions(described, most))

    def confirm(position: int) -> None:
        connection.execute("BEGIN")
        recorder.delete(position)
        connection.execute("COMMIT")
        recorder.committed()

    return connection, recorder, KeptEnds(file, recorder, confirm)


def commit(connection: sqlite3.Connection, recorder: EndRecorder, *ends: Any) -> None:
    connection.execute("BEGIN")
    for each in ends:
        recorder.add(each, 7)
    recorder.write()
    connection.execute("COMMIT")
    recorder.committed()


def test_wanted_ends_are_kept_until_they_are_confirmed(file: Path) -> None:
    connection, recorder, kept = recorder_of(file)
    commit(connection, recorder, end("a"), end("b", COMPLETED), end("c"))
    assert kept.read(0, 10) == [(1, "a 7"), (2, "c 7")]
    assert kept.read(0, 1) == [(1, "a 7")]
    assert kept.read(1, 10) == [(2, "c 7")]
    kept.confirm(1)
    assert (kept.read(0, 10), kept.waiting) == ([(2, "c 7")], 1)
    kept.confirm(2)
    commit(connection, recorder, end("d"))
    assert kept.read(0, 10) == [(3, "d 7")], "a number is used once"
    kept.close()
    with pytest.raises(OSError, match="closed"):
        kept.read(0, 10)


def test_ends_beyond_the_limit_are_counted(file: Path) -> None:
    connection, recorder, kept = recorder_of(file)
    commit(connection, recorder, end("a"), end("b"))
    commit(connection, recorder, end("c"), end("d"), end("e"))
    assert (kept.waiting, kept.dropped) == (3, 2)
    _, again, _ = recorder_of(file)
    assert again.kept == 3


def test_a_rolled_back_end_is_not_kept(file: Path) -> None:
    connection, recorder, kept = recorder_of(file)
    connection.execute("BEGIN")
    recorder.add(end("a"), 7)
    recorder.write()
    recorder.add(end("b"), 7)
    recorder.rollback()
    connection.execute("ROLLBACK")
    commit(connection, recorder, end("c"))
    assert [text for _, text in kept.read(0, 10)] == ["c 7"]
    assert kept.waiting == 1


def test_an_end_that_cannot_be_described_is_counted(file: Path) -> None:
    connection, recorder, kept = recorder_of(file)
    commit(connection, recorder, SimpleNamespace(instance_id="x"), end("a"))
    assert (kept.waiting, kept.dropped) == (1, 1)
