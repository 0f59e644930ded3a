"""Engine files of older builds: their instances are counted when the file is opened, sagas by name and outcome."""

from __future__ import annotations

import json
import logging
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from bridge.encryption import Key, Keyring
from bridge.engines.embedded.host_rules import BridgeRules
from bridge.sqlite_engine.database import Database
from bridge.sqlite_engine.maintenance.reencryption import reencrypt
from bridge.sqlite_engine.maintenance.upkeep import check, export
from bridge.sqlite_engine.options import DatabaseOptions
from bridge.sqlite_engine.storage import counts
from tests.upgrade.opened import RECORDINGS, Opened


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda path: path.name)
def test_the_instances_of_an_older_file_are_counted_at_open(
    recording: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, *, encrypted: bool
) -> None:
    path = Opened(recording, tmp_path / "state").directory / "engine" / "engine.db"
    ring = Keyring([Key("first", bytes(range(32)))]) if encrypted else None
    if ring is not None:
        reencrypt(path, ring)
    assert check(path, ring) == [], "without counts there is nothing to compare"
    with (tmp_path / "exported").open("w+") as out:
        export(path, out, ring)
        out.seek(0)
        states = [json.loads(line)["state"] for line in out]
    with caplog.at_level(logging.INFO, "bridge.sqlite_engine.database"):
        database = Database(path, DatabaseOptions(keyring=ring, rules=BridgeRules()))
        database.start()
        rows = counts.read(path)
        database.stop()
    assert f"counted {len(states)} instances of an earlier version" in caplog.text
    assert check(path, ring) == []
    assert rows is not None
    found: Counter[tuple[str, str, str]] = Counter()
    for _, name, saga, status, _, number in rows:
        found[name, saga if name == "bridge.saga" else "", status] += number
    assert found == Counter(
        (
            each["name"],
            "purchase" if each["name"] == "bridge.saga" else "",
            each.get("orchestrationStatus", "RUNNING").removeprefix("ORCHESTRATION_STATUS_"),
        )
        for each in states
    )
    ended = {(saga, outcome) for _, _, saga, status, outcome, _ in rows if status == "COMPLETED" and outcome}
    assert ended == {("trip", "completed"), ("purchase", "compensated")}
    caplog.clear()
    database.start()
    database.stop()
    assert "counted" not in caplog.text


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda path: path.name)
def test_a_count_that_was_cut_off_begins_again(recording: Path, tmp_path: Path) -> None:
    path = Opened(recording, tmp_path / "state").directory / "engine" / "engine.db"
    database = Database(path, DatabaseOptions(rules=BridgeRules()))
    database.start()
    database.stop()
    with closing(sqlite3.connect(path)) as connection, connection:
        # As a process that was killed between two steps leaves the file
        connection.execute("DELETE FROM counts")
        connection.execute("UPDATE instances SET saga=NULL, outcome=NULL WHERE key % 2 = 0")
    assert counts.read(path) is None
    database.start()
    database.stop()
    assert check(path) == []
    assert counts.read(path)
