"""Commands beside a daemon: the daemon executes them, with one audit line in one place."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bridge.ops.trail import AuditTrail
from tests.app.project import CONFIG, write_project
from tests.kit.processes import DaemonProcess, run_bridge

pytestmark = pytest.mark.long

PORT = "ops: {http: {port: 0}, log: {level: error}}\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    config = write_project(tmp_path / "served")
    config.write_text(CONFIG + PORT)
    return config.parent


@contextmanager
def daemon(project: Path, command: str, *arguments: str) -> Iterator[tuple[DaemonProcess, dict[str, Any]]]:
    """Yield the process and its ready file; the process must stop cleanly unless it was killed."""
    with DaemonProcess(project, *arguments, command=command, log=f"{command}.log") as process:
        yield process, process.ready
        if process.runs:
            process.stop()


def bridge(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_bridge(*arguments, cwd=project)


def logged(project: Path, name: str = "serve") -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (project / f"{name}.log").read_text().splitlines()]
    return [line for line in lines if line["logger"] == "bridge.audit"]


def kept(project: Path, place: str = "engine") -> list[dict[str, Any]]:
    return list(AuditTrail(project / ".bridge" / place).read())


def test_a_daemon_does_it_and_leaves_the_one_line(project: Path) -> None:
    with daemon(project, "serve") as (process, ready):
        place = Path(ready["control"])
        assert (ready["pid"], place.parent) == (process.pid, project / ".bridge" / "control")
        assert bridge(project, "instances", "start", "waits", "--id", "one").stdout == "one\n"
        assert bridge(project, "instances", "raise", "one", "go", "--data", '{"a": 1}').returncode == 0
        assert bridge(project, "instances", "wait", "one").returncode == 0
        received = bridge(project, "instances", "terminate", "none", "--reason", "typo")
        assert (received.returncode, received.stderr) == (1, "error: terminate 'none': no such instance\n")
        received = bridge(project, "instances", "start", "greet", "--id", "one")
        assert (received.returncode, received.stderr.count("\n")) == (1, 1)
        received = bridge(project, "instances", "purge", "one", "--engine", "nowhere")
        assert received.returncode == 2
    assert not place.exists()
    fields = [[line[name] for name in ("action", "target", "result", "via")] for line in logged(project)]
    assert fields == [
        ["instances.start", "one", "done", "socket"],
        ["instances.raise", "one", "done", "socket"],
        ["instances.terminate", "none", "failed", "socket"],
        ["instances.start", "one", "failed", "socket"],
    ]
    assert [[line[name] for name in ("action", "target", "result", "via")] for line in kept(project)] == fields
    assert kept(project)[2]["reason"] == "typo"
    assert {line["uid"] for line in kept(project)} == {os.getuid()}


def test_the_worker_takes_over_and_a_killed_daemon_is_no_obstacle(project: Path) -> None:
    with daemon(project, "serve") as (process, ready):
        with daemon(project, "worker"):
            assert bridge(project, "entities", "clean").returncode == 0
            assert len(logged(project) + logged(project, "worker")) == len(kept(project)) == 1
        process.kill()
    left = Path(ready["control"])
    assert left.exists()
    assert bridge(project, "entities", "clean").returncode == 3
    assert kept(project)[-1]["error"] == "engine_unavailable"
    with daemon(project, "serve"):
        assert not left.exists()
        assert bridge(project, "entities", "clean").returncode == 0
    assert kept(project)[-1]["via"] == "socket"


def test_a_place_that_cannot_be_used(project: Path) -> None:
    (project / "file").touch()
    (project / "bridge.yaml").write_text(CONFIG + "ops: {http: {port: 0}, state_dir: file}\n")
    received = bridge(project, "serve")
    assert (received.returncode, "ops.state_dir" in received.stderr, "Traceback" in received.stderr) == (3, True, False)
    (project / "bridge.yaml").write_text(CONFIG.replace(".bridge/", "data/") + "ops: {http: {port: 0}}\n")
    shutil.rmtree(project / ".bridge")
    (project / ".bridge").touch()
    with daemon(project, "serve") as (_, ready):
        # As for a configuration directory that is not writable
        assert ready["control"] is None
        assert bridge(project, "instances", "start", "waits", "--id", "one").stdout == "one\n"
    assert "cannot open the control channel" in (project / "serve.log").read_text()
    assert [line["via"] for line in AuditTrail(project / "data" / "engine").read()] == ["cli"]


def test_on_a_scheduler_the_lines_are_kept_in_the_state_directory(project: Path) -> None:
    with socket_of_nobody() as port:
        engine = f'engine: {{type: scheduler, endpoint: "http://127.0.0.1:{port}", timeout: 1s}}'
        text = CONFIG.replace("engine: {type: embedded, path: .bridge/engine}", engine)
        assert text != CONFIG
        (project / "bridge.yaml").write_text(text + PORT)
        received = bridge(project, "instances", "terminate", "one", "--reason", "try")
    assert received.returncode == 3, received.stderr
    [line] = kept(project, "audit")
    assert (line["action"], line["target"], line["result"], line["error"], line["reason"]) == (
        "instances.terminate", "one", "failed", "engine_unavailable", "try",
    )  # fmt: skip
    shown = bridge(project, "audit", "--json")
    assert json.loads(shown.stdout) == line
    assert shown.stderr.startswith("read 1 file on this machine: ")


def test_a_frozen_daemon_ends_a_command_with_an_error_in_time(project: Path) -> None:
    text = CONFIG.replace("path: .bridge/engine", "path: .bridge/engine, timeout: 1s")
    (project / "bridge.yaml").write_text(text + PORT)
    with daemon(project, "serve") as (process, _):
        process.signal(signal.SIGSTOP)
        received = bridge(project, "instances", "terminate", "one")
        assert received.returncode == 3
        assert (
            f"daemon {process.pid} does not answer and is skipped. If it is frozen: kill -CONT {process.pid}"
            in received.stderr
        )
        assert f"its process {process.pid} is frozen by a signal; `kill -CONT {process.pid}`" in received.stderr
        assert "Traceback" not in received.stderr
        process.signal(signal.SIGCONT)
    assert [line["result"] for line in kept(project)] == ["failed"]


def test_a_directory_with_a_long_path(tmp_path: Path) -> None:
    config = write_project(tmp_path / ("deep-" * 30) / ("er-" * 40))
    config.write_text(CONFIG + PORT)
    project = config.parent
    with daemon(project, "serve") as (_, ready):
        assert len(ready["control"]) > 300
        assert bridge(project, "instances", "start", "waits", "--id", "one").stdout == "one\n"
    assert [line["via"] for line in kept(project)] == ["socket"]


@contextmanager
def socket_of_nobody() -> Iterator[int]:
    """Port that refuses every connection and that no other process can bind."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield int(taken.getsockname()[1])
