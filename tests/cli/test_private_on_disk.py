"""Files on disk are private to their user, whatever the umask and the earlier permissions."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.app.project import CONFIG, write_project
from tests.kit.waiting import TIMEOUT


@pytest.fixture
def project(tmp_path: Path) -> Path:
    config = write_project(tmp_path / "served")
    config.write_text(CONFIG + "ops: {http: {port: 0}}\n")
    return config.parent


@contextmanager
def serving(project: Path, ready: Path) -> Iterator[None]:
    with (project / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "bridge", "serve", "--ready-file", str(ready)],
            cwd=project, stderr=log, stdout=log, umask=0,
        )  # fmt: skip
        try:
            ends = time.monotonic() + TIMEOUT
            while ready.is_symlink() or not ready.exists():
                assert process.poll() is None, (project / "log").read_text()
                assert time.monotonic() < ends
                time.sleep(0.05)
            yield
            process.send_signal(signal.SIGTERM)
            assert process.wait(TIMEOUT) == 0
        finally:
            process.kill()
            process.wait()


def bridge(project: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "bridge", *arguments]
    received = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=60, umask=0, check=False)
    assert received.returncode == 0, received.stderr


def wide(*roots: Path) -> list[str]:
    paths = [(root, path) for root in roots for path in (root, *root.rglob("*"))]
    return [
        f"{path.relative_to(root.parent)} {path.lstat().st_mode:o}"
        for root, path in paths
        if stat.S_IMODE(path.lstat().st_mode) & 0o077
    ]


def use(project: Path) -> list[Path]:
    """Run a daemon and every command that writes a file. Returns the files outside of the bridge's own directory."""
    out = project / "out"
    out.mkdir(exist_ok=True)
    ready = out / "ready.json"
    written = [out / "history.json", out / "backup.db", out / "all.jsonl"]
    with serving(project, ready):
        assert wide(project / ".bridge") == []
        assert wide(ready) == []
        bridge(project, "publish", "orders", "--type", "greeting.asked", "--data", '{"name": "ada"}')
        bridge(project, "instances", "start", "greet", "--id", "one", "--message-id", "m")
        bridge(project, "instances", "wait", "one")
        bridge(project, "instances", "export", "one", "-o", str(written[0]))
        bridge(project, "engine", "backup", "--force", str(written[1]))
        bridge(project, "engine", "export", "--output", str(written[2]))
        assert wide(project / ".bridge") == []
    return written


def test_with_a_umask_of_0_and_with_what_an_earlier_release_left(project: Path) -> None:
    written = use(project)
    assert wide(project / ".bridge", *written) == []
    bridge(project, "engine", "restore", str(written[1]))
    for path in (project / ".bridge", *(project / ".bridge").rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)
    for path in written:
        path.chmod(0o666)
    use(project)
    assert wide(project / ".bridge", *written) == []


def test_links_in_the_way_are_refused(project: Path) -> None:
    victim = project / "victim"
    victim.write_text("theirs")
    victim.chmod(0o644)
    ready = project / "ready.json"
    ready.symlink_to(victim)
    (project / f".{ready.name}.{os.getpid()}").symlink_to(victim)
    with serving(project, ready):
        assert not ready.is_symlink()
    for name in ("engine/engine.db", "broker/log.db"):
        file = project / ".bridge" / name
        assert file.exists()
        file.rename(project / "aside")
        file.symlink_to(victim)
        received = subprocess.run(
            [sys.executable, "-m", "bridge", "serve"], cwd=project, capture_output=True, text=True, timeout=60
        )
        assert (received.returncode, "is a link" in received.stderr) == (3, True), received.stderr
        assert "Traceback" not in received.stderr
        file.unlink()
        (project / "aside").rename(file)
    assert (victim.read_text(), stat.S_IMODE(victim.stat().st_mode)) == ("theirs", 0o644)
