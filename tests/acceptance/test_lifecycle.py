"""Lifecycle for an init system: start, readiness, drain, forced stop."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from tests.kit.processes import DaemonProcess, bridge

CONFIG = """
engine: {type: embedded}
workflows: [slow]
brokers: {local: {type: local}}
sources: {orders: {broker: local, topics: [orders], codec: json, no_match: dead_letter}}
routes:
  - {name: start, from: orders, schedule: {orchestration: work, instance_id: "work-{{ payload.id }}"}}
ops: {http: {port: 0}, drain: 3s}
"""

SLOW = """
import time

from durabletask import task


def work(ctx: task.OrchestrationContext, order: dict):
    return (yield ctx.call_activity(nap, input=order.get("seconds", 0)))


def nap(ctx: task.ActivityContext, seconds: float) -> str:
    time.sleep(seconds)
    return "rested"
"""


def project(directory: Path) -> Path:
    (directory / "bridge.yaml").write_text(CONFIG)
    (directory / "slow.py").write_text(SLOW)
    return directory


def publish(directory: Path, **payload: object) -> None:
    bridge("publish", "orders", "--data", json.dumps(payload), cwd=directory)


def test_it_runs_a_workflow_says_ready_and_drains(tmp_path: Path) -> None:
    with DaemonProcess(project(tmp_path)) as daemon:
        status, body = daemon.get("/readyz")
        assert status == 200, body
        assert daemon.get("/healthz")[0] == 200
        publish(tmp_path, id="a")
        shown = json.loads(bridge("instances", "wait", "work-a", "--json", cwd=tmp_path))
        assert shown["output"] == "rested"
        daemon.signal(signal.SIGTERM)
        assert daemon.ended() == 0
    log = daemon.log.read_text()
    assert f"engine default: durable, in {tmp_path / '.bridge/engine/engine.db'}" in log
    assert "consuming orders" in log
    assert daemon.url in log


def test_a_workflow_that_never_returns_cannot_keep_it_from_stopping(tmp_path: Path) -> None:
    with DaemonProcess(project(tmp_path)) as daemon:
        publish(tmp_path, id="b", seconds=3600)
        daemon.wait(lambda: daemon.settled() == 1, "started")
        daemon.signal(signal.SIGINT)
        assert daemon.ended() == 0


def test_a_second_signal_forces(tmp_path: Path) -> None:
    (project(tmp_path) / "bridge.yaml").write_text(CONFIG.replace("drain: 3s", "drain: 10m"))
    with DaemonProcess(tmp_path) as daemon:
        publish(tmp_path, id="c", seconds=3600)
        daemon.wait(lambda: daemon.settled() == 1, "started")
        daemon.signal(signal.SIGTERM)
        daemon.wait(lambda: "draining" in daemon.log.read_text(), "draining")
        daemon.signal(signal.SIGTERM)
        assert daemon.ended() == 1


def test_intake_and_workers_in_two_processes(tmp_path: Path) -> None:
    with DaemonProcess(project(tmp_path), "--no-worker") as intake, DaemonProcess(tmp_path, command="worker") as worker:
        publish(tmp_path, id="d")
        shown = json.loads(bridge("instances", "wait", "work-d", "--json", cwd=tmp_path))
        assert shown["output"] == "rested"
        for each in (worker, intake):
            each.signal(signal.SIGTERM)
            assert each.ended() == 0


def test_an_engine_that_is_away_from_the_start_is_told_and_waited_for(tmp_path: Path) -> None:
    away = CONFIG.replace("{type: embedded}", '{type: scheduler, endpoint: "http://127.0.0.1:1", timeout: 500ms}')
    (project(tmp_path) / "bridge.yaml").write_text(away)
    with DaemonProcess(tmp_path, "--no-worker", ready=False) as daemon:
        daemon.wait(lambda: "engine default is away" in daemon.log.read_text(), "logged")
        status, body = daemon.get("/readyz")
        assert status == 503
        states = {component["kind"]: component["state"] for component in json.loads(body)["components"]}
        assert states == {"source": "held", "engine": "away", "workflows": "up"}
        assert daemon.get("/healthz")[0] == 200
        daemon.signal(signal.SIGTERM)
        assert daemon.ended() == 0
