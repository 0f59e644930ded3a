"""`bridge worker` on the port of `bridge engine`, with either loop: kills and freezes of the worker and the engine."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kit.processes import DaemonProcess, bridge
from tests.kit.waiting import eventually_blocking

pytestmark = pytest.mark.long

CONFIG = """
engine: {{type: scheduler, endpoint: "http://{address}", dispatch: {dispatch}}}
workflows: [flows]
brokers: {{local: {{type: local}}}}
sources: {{orders: {{broker: local, topics: [orders], no_match: ignore}}}}
routes: [{{name: nothing, from: orders, ignore: {{reason: a test}}}}]
ops: {{http: {{port: 0}}}}
"""

FLOWS = """\
import os
import time
from pathlib import Path

from durabletask import task


def held(ctx: task.ActivityContext, _):
    with Path("began").open("a") as began:
        began.write(f"{os.getpid()}\\n")
    while not Path("go").exists():
        time.sleep(0.01)
    return os.getpid()


def one(ctx: task.OrchestrationContext, _):
    return (yield ctx.call_activity(held))
"""


class Project:
    """Directory with an engine of its own, and workers."""

    def __init__(self, directory: Path, dispatch: str) -> None:
        self.directory = directory
        self.engine = self._engine("127.0.0.1:0").__enter__()
        self.address = self.engine.ready["address"]
        (directory / "bridge.yaml").write_text(CONFIG.format(address=self.address, dispatch=dispatch))
        (directory / "flows.py").write_text(FLOWS)

    def _engine(self, address: str) -> DaemonProcess:
        return DaemonProcess(self.directory, "--listen", address, "--path", "hubs", command="engine", log="engine.log")

    def replace_engine(self) -> None:
        """Kill the engine, and start another one on its file and port."""
        self.engine.kill()
        self.engine = self._engine(self.address).__enter__()

    def worker(self, name: str) -> DaemonProcess:
        return DaemonProcess(self.directory, command="worker", log=f"{name}.log")

    def began(self) -> list[int]:
        """Processes in which the activity has begun, in order."""
        file = self.directory / "began"
        return [int(line) for line in file.read_text().splitlines()] if file.exists() else []

    def go(self) -> None:
        (self.directory / "go").touch()

    def output(self) -> Any:
        bridge("instances", "wait", "i", cwd=self.directory)
        return json.loads(bridge("instances", "show", "i", "--json", cwd=self.directory))["output"]

    def start(self) -> None:
        bridge("instances", "start", "one", "--id", "i", cwd=self.directory)
        eventually_blocking(lambda: len(self.began()) == 1, "the activity has begun")


@pytest.fixture(params=["direct", "protocol"])
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Project]:
    found = Project(tmp_path, request.param)
    yield found
    found.engine.__exit__(None, None, None)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_work_of_a_killed_or_frozen_worker_goes_to_another_one(project: Project, number: signal.Signals) -> None:
    with project.worker("first") as first:
        project.start()
        with project.worker("second") as second:
            os.kill(first.pid, number)
            eventually_blocking(lambda: len(project.began()) == 2, "the activity has begun again")
            project.go()
            assert project.output() == second.pid
            assert project.began() == [first.pid, second.pid]


def test_a_worker_goes_on_after_the_engine_was_killed(project: Project) -> None:
    """The activity runs again, because its result belongs to an engine that is gone."""
    with project.worker("only") as only:
        project.start()
        project.replace_engine()
        eventually_blocking(lambda: len(project.began()) == 2, "the activity has begun again")
        project.go()
        assert project.output() == only.pid
        assert project.began() == [only.pid, only.pid]
