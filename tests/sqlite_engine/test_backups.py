"""Backups of an engine file beside a running engine, and restores; both killed at every step."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.core.errors import EngineMisconfigured, EngineUnavailable
from bridge.sqlite_engine.database import Database
from bridge.sqlite_engine.maintenance import backups
from bridge.sqlite_engine.maintenance.backups import BackupRefused, backup, restore
from bridge.sqlite_engine.maintenance.process_files import record_of
from bridge.sqlite_engine.maintenance.upkeep import check
from tests.kit.processes import ModuleProcess
from tests.kit.protocol_client import ProtocolClient, activity, call, complete, start, state
from tests.kit.waiting import TIMEOUT
from tests.sqlite_engine.conftest import Restartable

pytestmark = pytest.mark.long


def held(path: Path) -> set[str]:
    """Return the instances that an engine finds in the file."""
    database = Database(path)
    database.start()
    try:
        found = call(database, "QueryInstances", pb.QueryInstancesRequest(query=pb.InstanceQuery()))
        return {each.instanceId for each in found.orchestrationState}
    finally:
        database.stop()


def made(path: Path, *names: str) -> Path:
    """Create an engine file with these instances, as after a crash: all content is in the write-ahead log."""
    original = path.with_name("original")
    original.mkdir(parents=True)
    database = Database(original / "engine.db")
    database.start()
    try:
        for name in names:
            start(database, "work", name)
        for ending in ("", "-wal"):
            shutil.copyfile(f"{original / 'engine.db'}{ending}", f"{path}{ending}")
    finally:
        database.stop()
        shutil.rmtree(original)
    return path


def names(directory: Path) -> set[str]:
    return {each.name for each in directory.iterdir()}


def test_a_backup_beside_a_running_engine_goes_on_where_it_was_taken(restartable: Restartable, tmp_path: Path) -> None:
    remote = ProtocolClient(restartable.now)
    taken = []
    for name in ("a", "b"):
        start(restartable.now, "work", name)
        remote.turn(remote.take(), activity(1, "x"))
        taken.append(remote.take())
    target = tmp_path / "backups" / "hub.db"
    target.parent.mkdir()
    size = backup(restartable.path, target)
    assert (size, stat.S_IMODE(target.stat().st_mode)) == (target.stat().st_size, 0o600)
    assert names(target.parent) == {"hub.db"}
    remote.result(taken[0], "done")
    remote.turn(remote.take(), complete(2, "done"))
    start(restartable.now, "work", "later")
    assert state(restartable.now, "a").orchestrationStatus == pb.ORCHESTRATION_STATUS_COMPLETED
    restartable.now.stop()

    kept = restore(target, restartable.path).kept
    assert kept is not None
    assert held(kept) == {"a", "b", "later"}
    again = ProtocolClient(restartable.again())
    for _ in ("a", "b"):
        again.result(again.take(), "again")
    for _ in ("a", "b"):
        again.turn(again.take(), complete(2, "again"))
    assert {state(restartable.now, name).output.value for name in ("a", "b")} == {'"again"'}


def test_a_backup_ends_though_every_step_of_it_is_followed_by_a_commit(
    restartable: Restartable, tmp_path: Path
) -> None:
    for number in range(16):
        start(restartable.now, "work", f"large-{number}", "x" * 1_000_000)
    reports: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        reports.append((done, total))
        start(restartable.now, "work", f"meanwhile-{len(reports)}")

    target = tmp_path / "backup"
    backup(restartable.path, target, progress=progress)
    total = reports[0][1]
    assert len(reports) == -(-total // backups.STEP_PAGES) > 2
    assert reports[-1] == (total, total)
    assert held(target) == {f"large-{number}" for number in range(16)}


def test_a_backup_holds_what_a_crash_left_in_the_log(tmp_path: Path) -> None:
    path = made(tmp_path / "hub.db", "a", "b")
    backup(path, tmp_path / "backup")
    path.unlink()
    assert restore(tmp_path / "backup", path).kept is None
    assert held(path) == {"a", "b"}


def test_no_file_is_overwritten_unless_it_is_forced(restartable: Restartable, tmp_path: Path) -> None:
    start(restartable.now, "work", "a")
    target = tmp_path / "backup"
    target.write_text("mine")
    target.chmod(0o644)
    with pytest.raises(BackupRefused, match="is there already; --force replaces it"):
        backup(restartable.path, target)

    def late(done: int, total: int) -> None:
        (tmp_path / "late").write_text("theirs")

    with pytest.raises(BackupRefused, match="is there already"):
        backup(restartable.path, tmp_path / "late", progress=late)
    assert (target.read_text(), (tmp_path / "late").read_text()) == ("mine", "theirs")
    backup(restartable.path, target, force=True)
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert held(target) == {"a"}


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("hub.db", "the engine's own file"),
        ("link", "the engine's own file"),
        ("pipe", "is there already|is no plain file"),
        ("hub.db-wal", "is there already|belongs to the engine's file"),
        ("hub.db.lock", "is there already|belongs to the engine's file"),
        ("hub.db-journal", "belongs to the engine's file"),
        ("other.db", "another task hub"),
        (".", "is a directory"),
        ("nowhere/backup", "No such file"),
        ("hub.db/backup", "Not a directory"),
    ],
)
@pytest.mark.parametrize("force", [False, True])
def test_places_that_a_backup_may_not_take(restartable: Restartable, name: str, why: str, force: bool) -> None:
    (restartable.path.parent / "link").symlink_to(restartable.path)
    os.mkfifo(restartable.path.parent / "pipe")
    start(restartable.now, "work", "a")
    before = names(restartable.path.parent)
    with pytest.raises(BackupRefused, match=why):
        backup(restartable.path, restartable.path.parent / name, force=force)
    assert names(restartable.path.parent) == before
    assert state(restartable.now, "a").name == "work"


def test_a_backup_that_finds_no_room_says_so_and_leaves_nothing(
    restartable: Restartable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(16):
        start(restartable.now, "work", f"large-{number}", "x" * 1_000_000)
    program = (
        "import resource, sys; from pathlib import Path; from bridge.sqlite_engine.maintenance.backups import *\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (8_000_000, 8_000_000))\n"
        "try: backup(Path(sys.argv[1]), Path(sys.argv[2]))\n"
        "except BackupRefused as error: sys.exit(str(error))\n"
    )
    target = tmp_path / "backups" / "backup"
    target.parent.mkdir()
    ran = subprocess.run(
        [sys.executable, "-c", program, str(restartable.path), str(target)], capture_output=True, text=True
    )
    assert (ran.returncode, list(target.parent.iterdir())) == (1, [])
    assert "cannot be written" in ran.stderr
    assert state(restartable.now, "large-3").name == "work"


def test_files_that_are_no_engines(tmp_path: Path) -> None:
    path = made(tmp_path / "engine" / "engine.db", "a")
    (tmp_path / "empty").touch()
    with sqlite3.connect(tmp_path / "foreign") as connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    backup(path, tmp_path / "newer")
    with sqlite3.connect(tmp_path / "newer") as connection:
        connection.execute("PRAGMA user_version=99")
    connection.close()
    for name, error in (("empty", "is empty"), ("foreign", "not one of this engine"), ("newer", "newer version")):
        with pytest.raises(EngineMisconfigured, match=error):
            backup(tmp_path / name, tmp_path / "target")
        with pytest.raises(EngineMisconfigured, match=error):
            restore(tmp_path / name, path)
    for run in (lambda: backup(tmp_path / "none", tmp_path / "target"), lambda: restore(tmp_path / "none", path)):
        with pytest.raises(EngineUnavailable, match="none: there is no such file"):
            run()
    with pytest.raises(EngineMisconfigured, match="the engine's own file"):
        restore(path, path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(EngineMisconfigured, match="is no plain file"):
        restore(tmp_path / "pipe", path)
    assert not (tmp_path / "target").exists()
    assert held(path) == {"a"}


def test_a_damaged_backup_changes_nothing(tmp_path: Path) -> None:
    path = made(tmp_path / "engine" / "engine.db", "old")
    whole = tmp_path / "whole"
    backup(made(tmp_path / "other.db", *(f"new-{number}" for number in range(300))), whole)
    damages = {"begin": (0, b"no database"), "rest": (32_768, b"\xff" * (whole.stat().st_size - 32_768))}
    for name, (offset, junk) in damages.items():
        damaged = tmp_path / name
        shutil.copyfile(whole, damaged)
        with damaged.open("r+b") as raw:
            raw.seek(offset)
            raw.write(junk)
        before, content = names(path.parent), damaged.read_bytes()
        restored = restore(damaged, path)
        assert restored.problems
        assert restored.kept is None
        assert names(path.parent) == before | {"engine.db.lock"}
        assert damaged.read_bytes() == content
    assert held(path) == {"old"}


def test_a_backup_that_cannot_be_written_to_is_restored_and_stays_as_it_is(tmp_path: Path) -> None:
    source = tmp_path / "backups" / "backup"
    source.parent.mkdir()
    backup(made(tmp_path / "hub.db", "a"), source)
    content = source.read_bytes()
    source.chmod(0o400)
    source.parent.chmod(0o500)
    try:
        assert restore(source, tmp_path / "made" / "new" / "engine.db").kept is None
    finally:
        source.parent.chmod(0o700)
    assert (names(source.parent), source.read_bytes()) == ({"backup"}, content)
    restored = tmp_path / "made" / "new" / "engine.db"
    assert stat.S_IMODE(restored.stat().st_mode) == 0o600
    assert stat.S_IMODE(restored.parent.stat().st_mode) == 0o700
    assert held(restored) == {"a"}


def test_a_running_engine_is_not_restored_under_its_feet(restartable: Restartable, tmp_path: Path) -> None:
    start(restartable.now, "work", "a")
    backup(restartable.path, tmp_path / "backup")
    start(restartable.now, "work", "b")
    with pytest.raises(EngineUnavailable, match="has this engine file open; stop it"):
        restore(tmp_path / "backup", restartable.path)
    assert state(restartable.now, "b").name == "work"
    restartable.now.stop()
    with sqlite3.connect(restartable.path) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM instances").fetchall()
        with pytest.raises(EngineUnavailable, match="maybe another program reads it"):
            restore(tmp_path / "backup", restartable.path)
    reader.close()
    assert restore(tmp_path / "backup", restartable.path).kept is not None
    assert held(restartable.path) == {"a"}


def test_a_ruined_file_is_kept_with_its_log(tmp_path: Path) -> None:
    backup(made(tmp_path / "good.db", "new"), tmp_path / "backup")
    path = made(tmp_path / "engine" / "engine.db", "old")
    log = Path(f"{path}-wal").read_bytes()
    log = log[:32] + b"\0" * 64 + log[96:]
    Path(f"{path}-wal").write_bytes(log)
    path.write_bytes(b"ruined" * 5000)
    kept = restore(tmp_path / "backup", path).kept
    assert kept is not None
    assert kept.read_bytes() == b"ruined" * 5000
    assert not Path(f"{path}-wal").exists()
    assert held(path) == {"new"}
    assert check(path) == []


def test_a_log_without_its_file_is_not_applied_to_what_is_restored(tmp_path: Path) -> None:
    backup(made(tmp_path / "good.db", "new"), tmp_path / "backup")
    path = made(tmp_path / "engine" / "engine.db", *(f"old-{number}" for number in range(50)))
    path.unlink()
    restore(tmp_path / "backup", path)
    assert held(path) == {"new"}
    assert check(path) == []


def test_what_ran_as_the_engine_died_is_not_held_against_what_is_restored(tmp_path: Path) -> None:
    backup(made(tmp_path / "good.db", "new"), tmp_path / "backup")
    path = made(tmp_path / "engine" / "engine.db", "old")
    record_of(path).write_bytes(b"R")
    restore(tmp_path / "backup", path)
    assert not record_of(path).exists()


def died(number: int, *arguments: str | Path) -> bool:
    """Run the child. Returns whether it was killed before its end."""
    with ModuleProcess("tests.sqlite_engine.backup_child", number, *arguments) as child:
        code = child.process.wait(TIMEOUT)
    assert code in (0, -signal.SIGKILL)
    return code != 0


@pytest.mark.timeout(180)
def test_a_backup_that_is_killed_at_any_step_leaves_no_half_one(tmp_path: Path) -> None:
    path = made(tmp_path / "hub.db", *(f"i-{number}" for number in range(20)))
    number, wholes = 0, 0
    while True:
        number += 1
        target = tmp_path / f"backups-{number}" / "backup"
        target.parent.mkdir()
        if not died(number, "backup", path, target):
            break
        if target.exists():
            wholes += 1
            assert check(target) == []
        else:
            backup(path, target)
        assert len(held(target)) == 20
        backup(path, target, force=True)
        assert names(target.parent) <= {"backup", "backup.lock"}
    assert number > 8
    assert wholes < number / 2


@pytest.mark.timeout(180)
def test_a_restore_that_is_killed_at_any_step_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    old, new = {f"old-{number}" for number in range(20)}, {f"new-{number}" for number in range(30)}
    backup(made(tmp_path / "hub.db", *new), tmp_path / "backup")
    number, olds, news = 0, 0, 0
    while True:
        number += 1
        path = made(tmp_path / f"engine-{number}" / "engine.db", *old)
        if not died(number, "restore", tmp_path / "backup", path):
            break
        found = held(path)
        assert found in (old, new)
        olds, news = olds + (found == old), news + (found == new)
        kept = restore(tmp_path / "backup", path).kept
        assert held(path) == new
        assert kept is not None
        aside = [each for each in path.parent.glob("engine.db.replaced-*") if not each.name.endswith((".lock",))]
        assert any(held(each) == old for each in aside)
        assert not [name for name in names(path.parent) if name.startswith(".")]
    assert olds > 8
    assert news > 0
