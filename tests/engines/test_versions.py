"""`worker.versions`: instances of a version run where the configuration says, with their activities and children."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kit.processes import DaemonProcess, bridge
from tests.kit.waiting import eventually_blocking

pytestmark = pytest.mark.long

CONFIG = """
engine: {type: embedded, worker: {versions: ["1", ""]}}
workflows: [flows]
brokers: {local: {type: local}}
sources: {orders: {broker: local, topics: [orders], no_match: ignore}}
routes: [{name: nothing, from: orders, ignore: {reason: a test}}]
ops: {http: {port: 0}}
"""
OVERLAY = "engine: {type: embedded, worker: {versions: ['2']}}\n"

FLOWS = """\
import os

from durabletask import task


def where(ctx: task.ActivityContext, _):
    return os.getpid()


def inner(ctx: task.OrchestrationContext, _):
    return [ctx.version, (yield ctx.call_activity(where))]


def outer(ctx: task.OrchestrationContext, _):
    own = yield ctx.call_activity(where)
    below = yield ctx.call_sub_orchestrator(inner)
    return [ctx.version, own, *below]


def waiting(ctx: task.OrchestrationContext, _):
    yield ctx.wait_for_external_event("end")
"""


@pytest.fixture(params=["direct", "protocol"])
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, DaemonProcess]]:
    """Project with a daemon that runs version 1."""
    (tmp_path / "bridge.yaml").write_text(CONFIG.replace("embedded,", f"embedded, dispatch: {request.param},"))
    (tmp_path / "two.yaml").write_text(OVERLAY)
    (tmp_path / "flows.py").write_text(FLOWS)
    with DaemonProcess(tmp_path) as daemon:
        yield tmp_path, daemon


def shown(project: Path, name: str) -> Any:
    return json.loads(bridge("instances", "show", name, "--json", cwd=project))


def test_each_version_runs_on_its_worker(project: tuple[Path, DaemonProcess]) -> None:
    directory, daemon = project
    for version in ("1", "2", ""):
        given = ["--version", version] if version else []
        bridge("instances", "start", "outer", "--id", f"outer-{version}", *given, cwd=directory)
    bridge("instances", "wait", "outer-1", "outer-", cwd=directory)
    assert shown(directory, "outer-1")["output"] == ["1", daemon.pid, "1", daemon.pid]
    assert shown(directory, "outer-")["output"] == [None, daemon.pid, None, daemon.pid]
    assert shown(directory, "outer-2")["status"] == "PENDING"
    arguments = ("-c", "bridge.yaml", "--overlay", "two.yaml")
    with DaemonProcess(directory, *arguments, command="worker", log="worker.log") as worker:
        bridge("instances", "wait", "outer-2", cwd=directory)
        assert shown(directory, "outer-2")["output"] == ["2", worker.pid, "2", worker.pid]
        worker.stop()


def test_status_counts_what_is_left_of_each_version(project: tuple[Path, DaemonProcess]) -> None:
    directory, _ = project
    for number in range(3):
        bridge("instances", "start", "waiting", "--id", f"one-{number}", "--version", "1", cwd=directory)
    bridge("instances", "start", "waiting", "--id", "two", "--version", "2", cwd=directory)
    bridge("instances", "start", "waiting", "--id", "none", cwd=directory)

    def left() -> list[Any]:
        [engine] = json.loads(bridge("status", "-o", "json", cwd=directory, expect=None))["engines"]
        versions: list[Any] = engine["counts"]["versions"]
        return versions

    assert left() == [
        {"orchestration": "waiting", "version": "1", "count": 3},
        {"orchestration": "waiting", "version": "2", "count": 1},
    ]
    assert "waiting        1: 3 left, 2: 1 left\n" in bridge("status", cwd=directory, expect=None)
    bridge("instances", "wait", *(f"one-{number}" for number in range(3)), "--for", "start", cwd=directory)
    report = json.loads(bridge("instances", "check", "--workflows", "flows", "--json", cwd=directory))
    assert {each["orchestration"]: each["compatible"] for each in report["orchestrations"]} == {"waiting": 4}
    overlay = ("--workflows", "flows", "--json", "-c", "bridge.yaml", "--overlay", "two.yaml", "--strict")
    report = json.loads(bridge("instances", "check", *overlay, cwd=directory))
    assert report["orchestrations"][0]["other_versions"] == 4
    for number in range(3):
        bridge("instances", "raise", f"one-{number}", "end", cwd=directory)
    eventually_blocking(lambda: len(left()) == 1, "version 1 is finished")
    bridge("instances", "terminate", "two", cwd=directory)
    eventually_blocking(lambda: left() == [], "version 2 is finished")
