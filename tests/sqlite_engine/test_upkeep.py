"""Check, compaction and export of a file."""

from __future__ import annotations

import io
import json
import sqlite3
from pathlib import Path

import pytest
from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.core.errors import EngineUnavailable
from bridge.sqlite_engine.maintenance.upkeep import check, compact, export
from bridge.sqlite_engine.model.values import timestamp
from bridge.sqlite_engine.storage.schema import PAGE_BYTES
from bridge.system.clock import SYSTEM
from tests.kit.protocol_client import ProtocolClient, activity, call, complete, signal, start, state, timer
from tests.sqlite_engine.conftest import Restartable


def filled(restartable: Restartable) -> None:
    remote = ProtocolClient(restartable.now)
    start(restartable.now, "work", "open")
    remote.turn(remote.take(), activity(1, "x"))
    remote.take()
    for number in range(50):
        start(restartable.now, "work", f"w-{number}", "x" * 2000)
        remote.turn(remote.take(), complete(1, "out"))
    signal(restartable.now, "@c@x", "go")
    state(restartable.now, "open")


def test_a_sound_file_has_no_problems_even_while_it_is_used(restartable: Restartable) -> None:
    filled(restartable)
    assert check(restartable.path) == []


def test_damage_is_named(restartable: Restartable) -> None:
    filled(restartable)
    restartable.now.stop()
    with sqlite3.connect(restartable.path) as connection:
        connection.execute("UPDATE tasks SET request = x'ff'")
        connection.execute("INSERT INTO history VALUES (999999, 0, x'00')")
    problems = check(restartable.path)
    assert problems == ["history: 1 rows belong to nothing", "open: a stored ActivityRequest cannot be read"]


def test_damage_of_failures_traces_and_timers_is_named(restartable: Restartable) -> None:
    remote = ProtocolClient(restartable.now)
    start(restartable.now, "work", "i")
    remote.turn(remote.take(), timer(1, SYSTEM.wall() + 3_600_000_000))
    signal(restartable.now, "@c@x", "go", scheduledTime=timestamp(SYSTEM.wall() + 3_600_000_000))
    restartable.now.stop()
    with sqlite3.connect(restartable.path) as connection:
        connection.execute("UPDATE instances SET failure = x'ff', trace = x'ff'")
        connection.execute("UPDATE timers SET event = x'ff'")
    assert sorted(check(restartable.path)) == [
        "@c@x: a stored HistoryEvent cannot be read",
        "i: a stored HistoryEvent cannot be read",
        "i: a stored OrchestrationTraceContext cannot be read",
        "i: a stored TaskFailureDetails cannot be read",
    ]


def test_compacting_needs_the_file_to_itself_and_makes_it_smaller(restartable: Restartable) -> None:
    filled(restartable)
    call(restartable.now, "PurgeInstances", pb.PurgeInstancesRequest(purgeInstanceFilter=pb.PurgeInstanceFilter()))
    with pytest.raises(EngineUnavailable, match="has this engine file open"):
        compact(restartable.path)
    restartable.now.stop()
    before, after = compact(restartable.path)
    assert after < before
    assert state(restartable.again(), "open").name == "work"


def test_compacting_brings_older_files_to_the_present_size_of_pages(restartable: Restartable) -> None:
    filled(restartable)
    restartable.now.stop()
    assert page_size(restartable.path) == PAGE_BYTES
    with sqlite3.connect(restartable.path) as connection:
        for step in ("journal_mode=DELETE", "page_size=4096"):
            connection.execute(f"PRAGMA {step}")
        connection.execute("VACUUM")
    assert page_size(restartable.path) == 4096
    assert state(restartable.again(), "open").name == "work"
    restartable.now.stop()
    assert page_size(restartable.path) == 4096
    compact(restartable.path)
    assert page_size(restartable.path) == PAGE_BYTES
    assert state(restartable.again(), "open").name == "work"


def page_size(path: Path) -> int:
    with sqlite3.connect(path) as connection:
        return int(connection.execute("PRAGMA page_size").fetchone()[0])


def test_export_writes_every_instance(restartable: Restartable) -> None:
    filled(restartable)
    out = io.StringIO()
    assert export(restartable.path, out) == 51
    records = [json.loads(line) for line in out.getvalue().splitlines()]
    assert records[0]["state"]["instanceId"] == "open"
    assert [kind for event in records[1]["history"] for kind in event if kind.startswith("execution")] == [
        "executionStarted",
        "executionCompleted",
    ]


def test_a_missing_file(tmp_path: Path) -> None:
    for action in (check, compact):
        with pytest.raises(EngineUnavailable, match="no such file"):
            action(tmp_path / "none.db")
    assert list(tmp_path.iterdir()) == []
