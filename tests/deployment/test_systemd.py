"""Unit for systemd: a daemon tells its service manager what systemd waits for, and the unit is valid."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.system.service_manager import ServiceManager
from tests.deployment.test_compose import ROOT
from tests.kit.processes import DaemonProcess
from tests.kit.waiting import TIMEOUT

UNIT = ROOT / "deploy" / "systemd" / "durable-bridge.service"
CONFIG = """
engine: {type: embedded}
brokers: {local: {type: local}}
sources: {orders: {broker: local, topics: [orders], codec: json, no_match: NO_MATCH}}
routes: [{name: stop, from: orders, terminate: {instance_id: "order-{{ payload.id }}"}}]
ops: {http: {port: 0}}
"""


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """Socket of a service manager."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(TIMEOUT)
        yield listener


def said(manager: socket.socket, begin: str) -> dict[str, str]:
    """Next notification that is not of the watchdog. It begins with a variable."""
    while True:
        found = dict(line.split("=", 1) for line in manager.recv(4096).decode().splitlines())
        if list(found) != ["WATCHDOG"]:
            assert next(iter(found)) == begin, found
            return found


def goes_on(manager: socket.socket) -> bool:
    """True unless nothing is received for a second, ten times the time of the watchdog."""
    manager.settimeout(1.0)
    for _ in range(100):  # what was sent before
        try:
            manager.recv(4096)
        except TimeoutError:
            return False
    return True


def test_systemd_hears_of_the_start_each_reload_and_the_stop(tmp_path: Path, manager: socket.socket) -> None:
    file = tmp_path / "bridge.yaml"
    file.write_text(CONFIG.replace("NO_MATCH", "ignore"))
    environ = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")}
    with DaemonProcess(tmp_path, env=environ) as daemon:
        assert said(manager, "READY")["STATUS"] == f"ready, health at {daemon.url}/readyz"
        file.write_text(CONFIG.replace("NO_MATCH", "dead_letter"))
        daemon.signal(signal.SIGHUP)
        assert int(said(manager, "RELOADING")["MONOTONIC_USEC"]) > 0
        assert said(manager, "READY")["STATUS"].endswith("the last reload: reloaded")
        file.write_text("routes: wrong")
        daemon.signal(signal.SIGHUP)
        said(manager, "RELOADING")
        assert said(manager, "READY")["STATUS"].endswith("the last reload: refused")
        daemon.signal(signal.SIGTERM)
        said(manager, "STOPPING")


def test_a_watchdog_hears_that_the_loop_turns(tmp_path: Path, manager: socket.socket) -> None:
    (tmp_path / "bridge.yaml").write_text(CONFIG.replace("NO_MATCH", "ignore"))
    environ = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "100000"}
    with DaemonProcess(tmp_path, env=environ) as daemon:
        said(manager, "READY")
        for _ in range(3):
            assert manager.recv(4096) == b"WATCHDOG=1"
        daemon.signal(signal.SIGSTOP)
        assert not goes_on(manager), "a process that stands still sends nothing"


async def test_a_watchdog_of_another_process_gets_nothing() -> None:
    environ = {"NOTIFY_SOCKET": "@nowhere", "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}
    await ServiceManager(environ).keep_alive()


def test_without_a_service_manager_nothing_is_sent(tmp_path: Path) -> None:
    for environ in ({}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": str(tmp_path / "gone")}, {"WATCHDOG_USEC": "x"}):
        ServiceManager(environ).ready("ready")


def test_the_unit_is_valid(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("there is no systemd-analyze on this machine")
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/durable-bridge/bin/bridge", "/bin/true"))
    done = subprocess.run([analyze, "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False)
    newer = ("notify-reload", "RestartSteps", "RestartMaxDelaySec")  # of systemd 253 and 254
    assert [line for line in done.stderr.splitlines() if not any(word in line for word in newer)] == []


def test_the_unit_gives_a_drain_its_time() -> None:
    lines = dict(line.split("=", 1) for line in UNIT.read_text().splitlines() if "=" in line and line[0] != "#")
    assert lines["Type"] == "notify-reload"
    assert int(lines["TimeoutStopSec"].removesuffix("s")) > 20
