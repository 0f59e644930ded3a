"""User code that ends its process, in real processes: only the responsible instance is given up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.kit.forkserver import fork_server
from tests.kit.processes import DaemonProcess, bridge
from tests.kit.waiting import eventually_blocking

CONFIG = """
engine: {type: embedded, max_lost_workers: 1}
workflows: [flows]
brokers: {local: {type: local}}
ops: {http: {port: 0}}
"""

FLOW = """
import os, time
from pathlib import Path
from bridge.workflow import CompensationInput, Saga, Step, StepInput
from durabletask import task


def note(name):
    with open("runs.txt", "a") as runs:
        runs.write(name + "\\n")


def book(ctx: task.ActivityContext, call: StepInput) -> str:
    return "booked"


def unbook(ctx: task.ActivityContext, undo: CompensationInput) -> None:
    note("unbooked")


def kills(ctx: task.ActivityContext, call: StepInput) -> str:
    note("kills")
    while "waits" not in Path("runs.txt").read_text():
        pass
    os._exit(9)


def waits(ctx: task.ActivityContext, _) -> str:
    note("waits")
    time.sleep(0.3)
    return "done"


def journey(ctx: task.OrchestrationContext, _):
    saga = Saga(ctx, "journey")

    def body():
        yield from saga.step(Step("seat", book, compensation=unbook))
        yield from saga.step(Step("pay", kills))

    return (yield from saga.run(body()))


def innocent(ctx: task.OrchestrationContext, _):
    return (yield ctx.call_activity(waits))


def turns_kill(ctx: task.OrchestrationContext, _):
    note("turn")
    os._exit(9)
    yield
"""


def found(directory: Path) -> dict[str, str]:
    """Return the statuses by instance id; empty while no daemon answers."""
    listed = bridge("instances", "list", "--json", cwd=directory, expect=None)
    return {one["instance_id"]: one["status"] for one in json.loads(listed or "[]")}


def deaths_until(directory: Path, expected: dict[str, str], command: str) -> int:
    """Restart a process after each death until the instances are as expected. Returns the number of deaths."""
    deaths = 0
    while True:
        with (directory / "mortal.log").open("ab") as log:
            process = fork_server().start([command], directory, stdout=log, stderr=log)
        try:
            # Each look is a process of its own
            eventually_blocking(
                lambda process=process: process.poll() is not None or found(directory) == expected,  # type: ignore[misc]  # mypy cannot infer it
                lambda: (directory / "mortal.log").read_text()[-4000:],
                poll=0.2,
            )
            if process.poll() is None:
                return deaths
            assert process.returncode == 9, (directory / "mortal.log").read_text()[-4000:]
            deaths += 1
        finally:
            process.kill()
            process.wait()


@pytest.mark.parametrize(
    ("culprit", "ends", "apart"),
    [("journey", "COMPLETED", False), ("journey", "COMPLETED", True), ("turns_kill", "SUSPENDED", False)],
)
def test_the_culprit_is_given_up_and_all_others_go_on(tmp_path: Path, culprit: str, ends: str, apart: bool) -> None:
    (tmp_path / "bridge.yaml").write_text(CONFIG)
    (tmp_path / "flows.py").write_text(FLOW)
    (tmp_path / "runs.txt").touch()
    expected = {"culprit": ends, "i-0": "COMPLETED", "i-1": "COMPLETED"}
    with DaemonProcess(tmp_path, "--no-worker") as host:
        for number in range(2):
            bridge("instances", "start", "innocent", "--id", f"i-{number}", cwd=tmp_path)
        bridge("instances", "start", culprit, "--id", "culprit", cwd=tmp_path)
        if apart:
            deaths = deaths_until(tmp_path, expected, "worker")
        else:
            host.kill()
            deaths = deaths_until(tmp_path, expected, "serve")
    assert deaths == 3, "two of everybody's, one alone"
    runs = (tmp_path / "runs.txt").read_text().split()
    assert runs.count("kills" if culprit == "journey" else "turn") == 3
    with DaemonProcess(tmp_path, "--no-worker"):
        shown = bridge("instances", "show", "culprit", cwd=tmp_path)
        assert "WorkerLost" in shown
        assert "ended 3 times" in shown
    if culprit == "journey":
        assert runs.count("unbooked") == 1, "the saga compensates"
