"""Files on disk are private to their user, whatever the umask and the earlier permissions."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tests.app.project import CONFIG, write_project
from tests.kit.processes import DaemonProcess, run_bridge


@pytest.fixture
def project(tmp_path: Path) -> Path:
    config = write_project(tmp_path / "served")
    config.write_text(CONFIG + "ops: {http: {port: 0}}\n")
    return config.parent


def unmasked(project: Path, *arguments: str) -> None:
    done = run_bridge(*arguments, cwd=project, umask=0)
    assert done.returncode == 0, done.stderr


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
    ready.unlink(missing_ok=True)
    with DaemonProcess(project, ready_file=ready, umask=0) as daemon:
        assert wide(project / ".bridge") == []
        assert wide(ready) == []
        unmasked(project, "publish", "orders", "--type", "greeting.asked", "--data", '{"name": "ada"}')
        unmasked(project, "instances", "start", "greet", "--id", "one", "--message-id", "m")
        unmasked(project, "instances", "wait", "one")
        unmasked(project, "instances", "export", "one", "-o", str(written[0]))
        unmasked(project, "engine", "backup", "--force", str(written[1]))
        unmasked(project, "engine", "export", "--output", str(written[2]))
        assert wide(project / ".bridge") == []
        daemon.stop()
    return written


def test_with_a_umask_of_0_and_with_what_an_earlier_release_left(project: Path) -> None:
    written = use(project)
    assert wide(project / ".bridge", *written) == []
    unmasked(project, "engine", "restore", str(written[1]))
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
    with DaemonProcess(project, ready=False, ready_file=ready, umask=0) as daemon:
        daemon.wait(lambda: not ready.is_symlink() and ready.exists(), "the ready file")
        daemon.stop()
    for name in ("engine/engine.db", "broker/log.db"):
        file = project / ".bridge" / name
        assert file.exists()
        file.rename(project / "aside")
        file.symlink_to(victim)
        received = run_bridge("serve", cwd=project)
        assert (received.returncode, "is a link" in received.stderr) == (3, True), received.stderr
        assert "Traceback" not in received.stderr
        file.unlink()
        (project / "aside").rename(file)
    assert (victim.read_text(), stat.S_IMODE(victim.stat().st_mode)) == ("theirs", 0o644)
