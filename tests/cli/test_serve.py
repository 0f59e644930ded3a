"""`bridge serve` and `bridge worker` as processes: a message becomes a workflow, and SIGTERM stops them."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.app.project import CONFIG, write_project
from tests.kit.forkserver import fork_server
from tests.kit.processes import DaemonProcess, run_bridge
from tests.kit.waiting import TIMEOUT, TIMEOUT_OPTION, eventually_blocking

EVENT = json.dumps({"specversion": "1.0", "id": "1", "source": "/t", "type": "greeting.asked", "data": {"name": "ada"}})


@pytest.fixture
def project(tmp_path: Path) -> Path:
    config = write_project(tmp_path / "served")
    config.write_text(CONFIG + "ops: {http: {port: 0}}\n")
    return config.parent


def bridge(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_bridge(*arguments, cwd=project)


@contextmanager
def running(project: Path, command: str, *arguments: str) -> Iterator[DaemonProcess]:
    """Yield a ready daemon; SIGTERM stops it at the end, with exit code 0."""
    with DaemonProcess(project, *arguments, command=command, log=f"{command}.log") as daemon:
        yield daemon
        daemon.stop()


def test_from_a_message_to_a_workflow(project: Path) -> None:
    (project / "event.json").write_text(EVENT)
    with running(project, "serve"):
        assert bridge(project, "publish", "orders", "--file", "event.json").returncode == 0
        eventually_blocking(lambda: bridge(project, "instances", "list", "--ids").stdout)
        result = bridge(project, "instances", "wait", "greet-ada", "--timeout", TIMEOUT_OPTION, "--json")
        assert json.loads(result.stdout)["output"] == "hello ada"
        second = bridge(project, "serve")
        assert second.returncode == 3
        assert "error: " in second.stderr
        assert "Traceback" not in second.stderr


def test_a_second_daemon_is_told_about_the_engine_file_and_not_about_the_port(project: Path) -> None:
    with running(project, "serve") as daemon:
        address = str(daemon.ready["http"])
        overlay = project / "port.json"
        overlay.write_text(json.dumps({"ops": {"http": {"port": int(address.rpartition(":")[2])}}}))
        second = bridge(project, "serve", "--overlay", "port.json")
        assert second.returncode == 3
        assert f"process {daemon.pid} has this engine file open" in second.stderr
        assert "cannot listen" not in second.stderr
        config = project / "bridge.yaml"
        config.write_text(config.read_text().replace("path: .bridge/engine", "path: .bridge/other"))
        other = bridge(project, "serve", "--overlay", "port.json")
        assert other.returncode == 3
        assert "address already in use; choose another port" in other.stderr


def test_intake_and_workers_in_two_processes(project: Path) -> None:
    (project / "event.json").write_text(EVENT)
    with running(project, "serve", "--no-worker"):
        assert bridge(project, "publish", "orders", "--file", "event.json").returncode == 0
        eventually_blocking(lambda: bridge(project, "instances", "list", "--ids").stdout == "greet-ada\n")
        assert json.loads(bridge(project, "instances", "show", "greet-ada", "--json").stdout)["status"] == "PENDING"
        with running(project, "worker"):
            assert bridge(project, "instances", "wait", "greet-ada", "--timeout", TIMEOUT_OPTION).returncode == 0


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_a_broken_configuration_starts_nothing(project: Path, command: str) -> None:
    config = project / "bridge.yaml"
    config.write_text(CONFIG.replace("payload.name != ''", "payload.name =! ''").replace("type: local", "type: lokal"))
    result = bridge(project, command)
    assert (result.returncode, result.stdout) == (3, "")
    assert re.match(r"error: bridge\.yaml:\d+:\d+ ", result.stderr)
    assert "Traceback" not in result.stderr
    assert not (project / ".bridge").exists()


def test_rules_that_do_not_compile_start_nothing(project: Path) -> None:
    config = project / "bridge.yaml"
    config.write_text(CONFIG.replace("payload.name != ''", "payload.name =! ''"))
    result = bridge(project, "serve")
    assert result.returncode == 3
    assert "error: bridge.yaml:13:" in result.stderr
    assert not (project / ".bridge").exists()


def written(file: Path) -> str:
    """Return the content of a file; empty while the file does not exist."""
    try:
        return file.read_text()
    except FileNotFoundError:
        return ""


def test_the_ready_file_tells_of_this_process_only(project: Path) -> None:
    ready = project / "ready-serve"
    ready.write_text("of one that was killed")
    with (project / "log").open("wb") as log:
        process = fork_server().start(["serve", "--ready-file", str(ready)], project, stdout=log, stderr=log)
    try:
        eventually_blocking(lambda: str(process.pid) in written(ready))
        process.terminate()
        assert process.wait(TIMEOUT) == 0
    finally:
        process.kill()
    assert not ready.exists()


def test_a_ready_file_that_cannot_be_written_starts_nothing(project: Path) -> None:
    for place in ("nowhere/ready", "."):
        result = bridge(project, "serve", "--ready-file", place)
        assert result.returncode == 1
        assert result.stderr.startswith("error: cannot write the ready file ")
        assert len(result.stderr.splitlines()) == 1
    assert not (project / ".bridge").exists()


def test_without_a_configuration_it_says_what_to_do(tmp_path: Path) -> None:
    result = bridge(tmp_path, "serve")
    assert (result.returncode, result.stdout) == (3, "")
    assert "bridge.yaml" in result.stderr
    assert "bridge init" in result.stderr
