"""User code that exits, in real processes: the daemon's own worker, and `bridge worker`."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest

from tests.kit.processes import DaemonProcess, bridge

CONFIG = """
engine: {type: embedded, worker: {threads: 2, stuck_after: 100ms}}
workflows: [flows]
brokers: {local: {type: local}}
ops: {http: {port: 0}}
"""

FLOW = """
import sys, time
from pathlib import Path
from durabletask import task


def exits(ctx: task.ActivityContext, _):
    sys.exit(1)


def works(ctx: task.ActivityContext, _):
    return "fine"


def hangs(ctx: task.ActivityContext, _):
    while not Path("release").exists():
        time.sleep(0.01)


def activity(ctx: task.OrchestrationContext, name: str):
    return (yield ctx.call_activity(name))


def orchestration(ctx: task.OrchestrationContext, _):
    sys.exit(1)
    yield


def fan(ctx: task.OrchestrationContext, _):
    return (yield task.when_all([ctx.call_activity(hangs) for _ in range(4)]))
"""


@pytest.mark.parametrize("apart", [False, True])
def test_exits_fail_their_instances_and_a_stuck_pool_is_unready(tmp_path: Path, apart: bool) -> None:
    (tmp_path / "bridge.yaml").write_text(CONFIG)
    (tmp_path / "flows.py").write_text(FLOW)

    def statuses() -> dict[str, str]:
        listed = json.loads(bridge("instances", "list", "--json", cwd=tmp_path))
        return {one["instance_id"]: one["status"] for one in listed}

    def start(name: str, *given: str, id: str) -> None:  # noqa: A002 -- the option's name
        bridge("instances", "start", name, "--id", id, *given, cwd=tmp_path)

    with contextlib.ExitStack() as running:
        daemon = running.enter_context(DaemonProcess(tmp_path, *(["--no-worker"] if apart else [])))
        worker = running.enter_context(DaemonProcess(tmp_path, command="worker")) if apart else daemon
        for n in range(3):
            start("activity", "--input", '"exits"', id=f"a-{n}")
            start("orchestration", id=f"o-{n}")
        start("activity", "--input", '"works"', id="after")
        expected = {f"{kind}-{n}": "FAILED" for kind in "ao" for n in range(3)} | {"after": "COMPLETED"}
        worker.wait(lambda: statuses() == expected, "all finished")
        assert "SystemExit" in bridge("instances", "show", "a-0", cwd=tmp_path)
        assert worker.get("/readyz")[0] == 200
        assert worker.metrics("bridge_worker_stuck_pools") == {'{engine="default"}': 0}

        start("fan", id="fan")
        worker.wait(lambda: worker.get("/readyz")[0] == 503, "unready")
        (part,) = [part for part in json.loads(worker.get("/readyz")[1])["components"] if part["kind"] == "worker"]
        assert part["state"] == "stuck"
        assert "all 2 threads" in part["detail"]
        assert worker.metrics("bridge_worker_stuck_pools") == {'{engine="default"}': 1}
        worker.wait(lambda: '"worker default is stuck"' in worker.log.read_text(), "an error in the log")
        (tmp_path / "release").touch()
        worker.wait(lambda: worker.get("/readyz")[0] == 200, "ready again")
        worker.wait(lambda: statuses()["fan"] == "COMPLETED", "the fan finished")
