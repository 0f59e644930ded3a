"""Readiness of a daemon: the log, the ready file, `/readyz` and `/startupz` agree; and the end by a hang-up."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.app.project import CONFIG, write_project
from tests.kit.forkserver import fork_server
from tests.kit.ports import free_port
from tests.kit.processes import DaemonProcess, run_bridge
from tests.kit.waiting import TIMEOUT, eventually_blocking

pytestmark = pytest.mark.long


def lines(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]


def actions(log: Path) -> list[str]:
    return [line["action"] for line in lines(log) if "action" in line]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    config = write_project(tmp_path / "served")
    config.write_text(CONFIG + "ops: {http: {port: 0}}\n")
    return config.parent


def test_a_ready_file_means_a_ready_daemon(project: Path) -> None:
    with DaemonProcess(project) as daemon:
        assert daemon.get("/readyz")[0] == 200
        assert daemon.get("/startupz") == (200, '{"started":true}\n')
        assert daemon.metrics("bridge_uncommitted_records"), "a source without a partition"
        daemon.wait(lambda: "ready" in actions(daemon.log), "the line `ready`")
        daemon.stop()


def test_a_daemon_without_its_engine_is_started_and_becomes_ready_with_it(project: Path) -> None:
    engine, ops = free_port(), free_port()
    scheduler = f'{{type: scheduler, endpoint: "http://127.0.0.1:{engine}"}}'
    config = CONFIG.replace("{type: embedded, path: .bridge/engine}", scheduler)
    assert scheduler in config
    (project / "bridge.yaml").write_text(config + f"ops: {{http: {{port: {ops}}}}}\n")
    ready, log = project / "ready.json", project / "away.log"
    daemon = DaemonProcess(project)
    daemon.url = f"http://127.0.0.1:{ops}"
    with log.open("wb") as out:
        process = fork_server().start(["serve", "--ready-file", str(ready)], project, stdout=out, stderr=out)
    daemon.process = process
    try:
        eventually_blocking(lambda: "start" in actions(log) and "held" in log.read_text())
        assert daemon.get("/startupz")[0] == 200
        assert daemon.get("/readyz")[0] == 503
        assert not ready.exists()
        assert "ready" not in actions(log)
        with DaemonProcess(
            project, "--path", "hubs", "--listen", f"127.0.0.1:{engine}", command="engine", log="engine.log"
        ) as host:
            eventually_blocking(ready.exists)
            assert daemon.get("/readyz")[0] == 200
            eventually_blocking(lambda: "ready" in actions(log))
            process.terminate()
            assert process.wait(TIMEOUT) == 0
            host.stop()
    finally:
        process.kill()
    assert not ready.exists()


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_a_hang_up_reloads_and_ends_nothing(project: Path, command: str) -> None:
    beside = DaemonProcess(project) if command == "worker" else contextlib.nullcontext()
    with beside, DaemonProcess(project, command=command, log="hung.log", fresh=True) as daemon:
        for count in (1, 2):
            daemon.signal(signal.SIGHUP)
            daemon.wait(lambda count=count: actions(daemon.log).count("reload") >= count, "reloaded")  # type: ignore[misc]  # bound now
        assert daemon.get("/readyz")[0] == 200
        daemon.stop()


def test_a_hang_up_before_the_daemon_runs_is_not_forgotten(project: Path) -> None:
    log = project / "early.log"
    with log.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-m", "bridge", "serve"], cwd=project, stdout=out, stderr=out)
    try:
        eventually_blocking(lambda: is_prepared(process.pid))
        process.send_signal(signal.SIGHUP)
        eventually_blocking(lambda: "reload" in actions(log))
        process.terminate()
        assert process.wait(TIMEOUT) == 0
    finally:
        process.kill()


def is_prepared(pid: int) -> bool:
    """True when SIGHUP does not end the process."""
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return bool((int(status["SigCgt"], 16) | int(status["SigIgn"], 16)) >> (signal.SIGHUP - 1) & 1)


def test_a_hang_up_drains_an_engine_and_a_second_one_forces_nothing(project: Path) -> None:
    with DaemonProcess(
        project, "--path", "hubs", "--listen", "127.0.0.1:0", command="engine", log="hung.log"
    ) as engine:
        engine.signal(signal.SIGHUP)
        engine.signal(signal.SIGHUP)
        assert engine.ended() == 0
        assert lines(engine.log)[-1]["event"] == "stopped"


def test_a_daemon_under_nohup_reloads_too(project: Path) -> None:
    with DaemonProcess(project, wrapper=("nohup",)) as daemon:
        daemon.signal(signal.SIGHUP)
        daemon.wait(lambda: "reload" in actions(daemon.log), "reloaded")
        daemon.stop()


def test_the_level_of_the_log_comes_from_the_command_line(project: Path) -> None:
    with DaemonProcess(project, "--log-level", "error", "--log-level", "bridge.daemon=info") as daemon:
        daemon.stop()
    assert {(line["logger"], line["level"]) for line in lines(daemon.log)} == {("bridge.daemon", "info")}


@pytest.mark.parametrize(
    ("level", "problem"),
    [
        ("aiokafka=debug", "aiokafka is a library, and the lowest level of libraries is info"),
        ("bridge.sdk.worker=debug", "bridge.sdk.worker is a library"),
        ("loud", "'loud' must be LEVEL or LOGGER=LEVEL; levels: debug, info, warning, error"),
        ("=debug", "'=debug' must be LEVEL or LOGGER=LEVEL"),
    ],
)
def test_a_level_that_is_not_possible_starts_nothing(project: Path, level: str, problem: str) -> None:
    done = run_bridge("serve", "--log-level", level, cwd=project)
    assert done.returncode == 2
    assert problem in done.stderr
    assert not (project / ".bridge").exists()
