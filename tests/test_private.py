"""Directories and files that must be private to this user."""

from __future__ import annotations

import os
import socket
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from bridge.system import private


@pytest.fixture(autouse=True, params=[0o000, 0o022, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_directory_and_its_parents_are_made_private(tmp_path: Path) -> None:
    private.directory(tmp_path / "a" / "b" / "c")
    assert [mode(tmp_path / name) for name in ("a", "a/b", "a/b/c")] == [0o700] * 3


def test_what_was_there_is_narrowed(tmp_path: Path) -> None:
    held = tmp_path / ".bridge" / "engine"
    held.mkdir(parents=True)
    file = held / "file"
    file.write_text("kept")
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(str(held / "socket"))
        for path in (held.parent, held):
            path.chmod(0o777)
        for path in (file, held / "socket"):
            path.chmod(0o666)
        private.directory(held)
        private.narrow([file, held / "socket", held / "missing"])
    assert [mode(path) for path in (held.parent, held, file, held / "socket")] == [0o700, 0o700, 0o600, 0o600]
    assert file.read_text() == "kept"


def test_a_parent_of_another_purpose_is_left_alone(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    private.directory(tmp_path / "broker")
    assert mode(tmp_path) == 0o755


def test_links_are_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("theirs")
    victim.chmod(0o644)
    (tmp_path / "directory").mkdir()
    (tmp_path / "directory").chmod(0o755)
    link, dangling, folder = tmp_path / "link", tmp_path / "dangling", tmp_path / "folder"
    link.symlink_to(victim)
    dangling.symlink_to(tmp_path / "nothing")
    folder.symlink_to(tmp_path / "directory")
    for refused in (
        lambda: private.file(link),
        lambda: private.file(dangling),
        lambda: private.database(link),
        lambda: private.narrow([link]),
        lambda: private.opened(link, os.O_RDWR | os.O_CREAT),
        lambda: private.opened(dangling, os.O_RDWR | os.O_CREAT),
        lambda: private.replacing(link).__enter__(),
        lambda: private.directory(folder),
    ):
        with pytest.raises(private.NotPrivate, match="link"):
            refused()
    assert (mode(victim), victim.read_text(), mode(tmp_path / "directory")) == (0o644, "theirs", 0o755)
    assert not (tmp_path / "nothing").exists()


def test_another_users_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_text("theirs")
    file.chmod(0o644)
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.chmod(0o755)
    uid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    for refused in (lambda: private.file(file), lambda: private.opened(file, os.O_RDWR)):
        with pytest.raises(private.NotPrivate, match=f"belongs to the user {uid}, not to {uid + 1}"):
            refused()  # type: ignore[no-untyped-call]  # it comes without types
    with pytest.raises(private.NotPrivate, match="belongs to the user"):
        private.directory(folder)
    assert (mode(file), mode(folder)) == (0o644, 0o755)


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    with pytest.raises(private.NotPrivate, match="not a regular file"):
        private.opened(tmp_path / "pipe", os.O_RDWR)
    with pytest.raises(private.NotPrivate, match="not a directory"):
        private.directory(tmp_path / "file")


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "export"
    with pytest.raises(TypeError), private.replacing(target) as out:
        out.writelines([b"half", "text"])  # type: ignore[list-item]  # the failure of a writer
    assert list(tmp_path.iterdir()) == []
    target.write_text("before")
    target.chmod(0o666)
    with private.replacing(target) as out:
        out.write(b"whole")
    assert (mode(target), target.read_text(), list(tmp_path.iterdir())) == (0o600, "whole", [target])


def test_narrowing_ends_no_lock_of_sqlite(tmp_path: Path) -> None:
    path = tmp_path / "file.db"
    private.database(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE t (x)")
        connection.execute("BEGIN IMMEDIATE")
        path.chmod(0o644)
        private.database(path)
        assert mode(path) == 0o600
        other = (
            "import sqlite3, sys\n"
            "try: sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None).execute('BEGIN IMMEDIATE')\n"
            "except sqlite3.OperationalError as error: print(error)"
        )
        received = subprocess.run([sys.executable, "-c", other, str(path)], capture_output=True, text=True, check=True)
        assert "locked" in received.stdout
