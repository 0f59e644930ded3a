"""Job of three daemons on one engine: each is frozen in turn, one is killed."""

from __future__ import annotations

import asyncio
import json
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from bridge.app.connection import attached
from bridge.app.operations.instances.instances import InstanceFilter, InstanceOperations, StartRequest
from bridge.config.source import load
from bridge.core.system_names import job_instance_id
from tests.kit.processes import DaemonProcess, bridge
from tests.kit.three_daemons import engine_process
from tests.kit.waiting import eventually_blocking

ITEMS = 200
FLOWS = """
def waits(ctx, _):
    return (yield ctx.wait_for_external_event("go"))
"""
CONFIG = """
engine: {{type: scheduler, endpoint: "{engine}"}}
workflows: [frozen_job_flows]
brokers: {{local: {{type: local}}}}
sources: {{}}
routes: []
ops: {{http: {{port: 0}}}}
"""


def on_engine(directory: Path, work: Any) -> Any:
    async def run() -> Any:
        async with attached(load([directory / "bridge.yaml"], environ={})) as engine:
            return await work(InstanceOperations(engine))

    return asyncio.run(run())


def finished(directory: Path, job: str) -> int:
    document = json.loads(bridge("jobs", "show", job, "-o", "json", cwd=directory))
    assert sum(document["counts"].values()) == document["selected"]
    return int(document["selected"] - document["counts"]["left"] - document["counts"]["in_progress"])


@pytest.mark.timeout(300)
def test_a_job_goes_on_without_a_frozen_or_killed_daemon(tmp_path: Path) -> None:
    async def start(instances: InstanceOperations) -> None:
        await asyncio.gather(*(instances.start(StartRequest("waits", None, f"i-{number}")) for number in range(ITEMS)))

    async def terminated(instances: InstanceOperations) -> int:
        return len(await instances.list(InstanceFilter(("TERMINATED",), "i-"), payloads=False))

    async def events(instances: InstanceOperations) -> list[str]:
        return [type(event).__name__ for event in await instances.history(job_instance_id(job))]

    (tmp_path / "frozen_job_flows.py").write_text(FLOWS)
    with ExitStack() as stack:
        engine = engine_process(tmp_path)
        stack.enter_context(engine)
        (tmp_path / "bridge.yaml").write_text(CONFIG.format(engine=engine.url))
        daemons = [stack.enter_context(DaemonProcess(tmp_path, log=f"daemon-{n}.log")) for n in range(3)]
        on_engine(tmp_path, start)
        job = bridge("instances", "terminate", "--all", "--rate", "10/s", "--yes", "-o", "ids", cwd=tmp_path).strip()
        for daemon in daemons:
            last = finished(tmp_path, job)
            daemon.signal(signal.SIGSTOP)
            eventually_blocking(lambda: finished(tmp_path, job) > last, "progress without it")  # noqa: B023 -- called at once
            daemon.signal(signal.SIGCONT)
        daemons[0].kill()
        assert "done  200 of 200 (100 %): succeeded 200" in bridge("jobs", "watch", job, cwd=tmp_path)
        eventually_blocking(lambda: on_engine(tmp_path, terminated) == ITEMS, "termination")
        assert "TaskFailedEvent" not in on_engine(tmp_path, events)
