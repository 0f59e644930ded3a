"""`bridge jobs` and bulk actions beside a daemon that is killed and stopped in the middle."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bridge.app.connection import attached
from bridge.app.operations.instances.instances import InstanceFilter, InstanceInfo, InstanceOperations, StartRequest
from bridge.config.source import load
from bridge.core.errors import EngineUnavailable
from bridge.core.system_names import job_instance_id
from bridge.ops.trail import AuditTrail
from tests.app.project import CONFIG, write_project
from tests.kit.forkserver import ForkedProcess, fork_server
from tests.kit.processes import DaemonProcess, bridge, run_bridge
from tests.kit.waiting import eventually_blocking

pytestmark = pytest.mark.long

PORT = "ops: {http: {port: 0}, log: {level: info}}\n"
KILLS = 5


@pytest.fixture
def project(tmp_path: Path) -> Path:
    config = write_project(tmp_path / "served")
    config.write_text(CONFIG + PORT)
    return config.parent


@pytest.fixture
def daemon(project: Path) -> Iterator[DaemonProcess]:
    with DaemonProcess(project) as process:
        yield process
        if process.runs:
            process.stop()


def started(project: Path, out: Path, *arguments: str) -> ForkedProcess:
    """Start a command beside the test. out: file with its output and errors."""
    with out.open("wb") as stream:
        return fork_server().start(list(arguments), project, stdout=stream, stderr=stream)


def on_engine(project: Path, work: Any) -> Any:
    """Run `work(instances)` on the engine of the running daemon, as soon as it answers on a busy machine."""

    async def run() -> Any:
        async with attached(load([project / "bridge.yaml"], environ={})) as engine:
            return await work(InstanceOperations(engine))

    def attempt() -> list[Any]:
        try:
            return [asyncio.run(run())]
        except EngineUnavailable:
            return []

    [result] = eventually_blocking(attempt, "an answer of the engine")
    return result


def start(project: Path, count: int, orchestration: str = "waits", given: Any = None, **tags: str) -> list[str]:
    names = [f"i-{number:04}" for number in range(count)]

    async def work(instances: InstanceOperations) -> None:
        await asyncio.gather(*(instances.start(StartRequest(orchestration, given, name, tags=tags)) for name in names))

    on_engine(project, work)
    return names


def statuses(project: Path) -> dict[str, str]:
    async def work(instances: InstanceOperations) -> list[InstanceInfo]:
        return await instances.list(InstanceFilter(prefix="i-"), payloads=False)

    return {one.instance_id: one.status for one in on_engine(project, work)}


def shown(project: Path, job: str) -> Any:
    return json.loads(bridge("jobs", "show", job, "-o", "json", cwd=project))


def test_a_job_survives_the_kill_of_its_daemon(project: Path) -> None:
    out = project / "watch.out"
    with ExitStack() as processes:
        process = processes.enter_context(DaemonProcess(project))
        names = start(project, 100)
        arguments = ("--orchestration", "waits", "--rate", "10/s", "--reason", "a mistake", "--yes", "-o", "ids")
        job = bridge("instances", "terminate", *arguments, cwd=project).strip()
        watch = started(project, out, "jobs", "watch", job, "--interval", "1s")
        process = killed_in_the_middle(project, job, KILLS, process, processes)
        assert watch.wait(60) == 0, out.read_text()
        document = shown(project, job)
        assert document["counts"] | {"succeeded": 0} == dict.fromkeys(document["counts"], 0)
        assert (document["state"], document["counts"]["succeeded"], document["selected"]) == ("done", 100, 100)
        eventually_blocking(lambda: set(statuses(project).values()) == {"TERMINATED"}, "termination")
        assert sorted(statuses(project)) == names
        _without_failed_activity(project, job)
        process.stop()
    lines = out.read_text().splitlines()
    assert lines[-1].split("  ")[:2] == [f"{job} instances.terminate done", "100 of 100 (100 %): succeeded 100"]
    logged = [json.loads(line) for line in process.log.read_text().splitlines()]
    assert [line for line in logged if line["level"] == "error"] == []
    [line] = [
        line for line in AuditTrail(project / ".bridge" / "engine").read() if line["action"] == "instances.terminate_by"
    ]
    assert (line["target"], line["result"], line["reason"]) == (f"job {job}", "done", "a mistake")
    assert (line["filter"]["orchestration"], line["filter"]["rate"]) == ("waits", 10.0)


def killed_in_the_middle(
    project: Path, job: str, kills: int, process: DaemonProcess, processes: ExitStack
) -> DaemonProcess:
    """Kill the daemon, each time after it has finished items of the job, and start the next one. Returns the last one.

    Its own metrics say so at once: while a command looks at the job, a loaded machine may finish the job.
    """
    for _ in range(kills):
        process.wait(partial(process.metrics, "bridge_job_items_total"), "its results")
        process.kill()
        process = processes.enter_context(DaemonProcess(project))
    document = shown(project, job)
    assert sum(document["counts"].values()) == document["selected"]
    return process


def _without_failed_activity(project: Path, job: str) -> None:
    async def work(instances: InstanceOperations) -> list[str]:
        return [type(event).__name__ for event in await instances.history(job_instance_id(job))]

    assert "TaskFailedEvent" not in on_engine(project, work)


def test_each_instance_gets_its_event_once_although_the_daemon_is_killed(project: Path) -> None:
    with ExitStack() as processes:
        process = processes.enter_context(DaemonProcess(project))
        start(project, 60, "collects", 2)
        arguments = ("--orchestration", "collects", "--data", '"first"', "--rate", "5/s", "--yes", "-o", "json")
        job = json.loads(bridge("instances", "raise", "item", *arguments, cwd=project))[0]["job"]
        process = killed_in_the_middle(project, job, 3, process, processes)
        assert run_bridge("jobs", "watch", job, cwd=project).returncode == 0
        assert shown(project, job)["counts"]["succeeded"] == 60
        bridge("instances", "raise", "item", "--all", "--data", '"second"', "--yes", "--watch", cwd=project)

        async def work(instances: InstanceOperations) -> list[InstanceInfo]:
            found = await instances.list(InstanceFilter(prefix="i-"), payloads=False)
            return [await instances.wait(one.instance_id, "completion", 60) or one for one in found]

        assert [one.output for one in on_engine(project, work)] == [["first", "second"]] * 60
        process.stop()


def test_a_daemon_stops_in_the_middle_of_a_job_and_the_next_one_continues(project: Path) -> None:
    with ExitStack() as processes:
        process = processes.enter_context(DaemonProcess(project))
        start(project, 100)
        arguments = ("--all", "--rate", "20/s", "--yes", "-o", "ids")
        job = bridge("instances", "suspend", *arguments, cwd=project).strip()
        process.wait(partial(process.metrics, "bridge_job_items_total"), "its results")
        process.stop()
        process = processes.enter_context(DaemonProcess(project))
        assert run_bridge("jobs", "watch", job, cwd=project).returncode == 0
        _without_failed_activity(project, job)
        process.stop()


def test_pause_resume_abort_and_the_lists(project: Path, daemon: DaemonProcess) -> None:
    start(project, 200, tenant="a")
    made = bridge("instances", "terminate", "--tag", "tenant=a", "--rate", "20/s", "--yes", cwd=project)
    job = made.split(":")[0].removeprefix("job ")
    assert made == f"job {job}: 200 instances. Next: bridge jobs watch {job}\n"
    received = bridge("jobs", "pause", job, "--reason", "lunch", cwd=project)
    assert received.startswith(f"job {job} is paused: ")
    refused = run_bridge("jobs", "pause", job, cwd=project)
    assert (refused.returncode, refused.stderr) == (
        1, f"error: pause job {job}: it is paused; only a job that is running can be paused\n",
    )  # fmt: skip
    text = bridge("jobs", "show", job, cwd=project)
    for part in ("tag tenant=a", "pause by ", "(lunch)", f"next         bridge jobs resume {job}", "rate         20/s"):
        assert part in text, text
    [listed] = json.loads(bridge("jobs", "list", "-o", "json", cwd=project))
    assert (listed["job"], listed["state"], listed["engine"]) == (job, "paused", "default")
    assert job in bridge("jobs", "list", cwd=project)
    assert bridge("jobs", "list", "--state", "done", "-o", "ids", cwd=project) == ""
    assert f"{job}  instances.terminate  paused" in bridge("status", cwd=project)
    assert daemon.metrics("bridge_jobs")['{kind="instances.terminate",state="paused"}'] == 1
    bridge("jobs", "resume", job, cwd=project)
    bridge("jobs", "abort", job, "--reason", "enough", cwd=project)
    watched = run_bridge("jobs", "watch", job, cwd=project)
    assert (watched.returncode, "aborted" in watched.stdout) == (1, True)
    left = bridge("jobs", "show", job, "--status", "left", "-o", "ids", "--limit", "1000", cwd=project).splitlines()
    assert len(left) == shown(project, job)["counts"]["left"] > 0
    eventually_blocking(
        lambda: sorted(name for name, status in statuses(project).items() if status == "RUNNING") == sorted(left),
        "termination of the others",
    )
    items = daemon.metrics("bridge_job_items_total")
    assert items['{kind="instances.terminate",result="succeeded"}'] == 200 - len(left)
    actions = [line["action"] for line in AuditTrail(project / ".bridge" / "engine").read()]
    assert actions.count("jobs.pause") == 2
    assert {"jobs.resume", "jobs.abort"} <= set(actions)


def test_a_job_that_stops_needs_a_person(project: Path, daemon: DaemonProcess) -> None:
    names = start(project, 3, "regrets")
    for name in names:
        run_bridge("instances", "wait", name, cwd=project)
    # The instance failed in its own code, after the failure of its activity: it cannot be rewound
    received = run_bridge(
        "instances", "rewind", "--orchestration", "regrets", "--ramp", "1,10", "--yes", "--watch", cwd=project
    )
    document = json.loads(bridge("jobs", "list", "-o", "json", cwd=project))[0]
    if document["state"] != "stopped":
        pytest.fail(f"{received.stdout}{received.stderr}{document}")
    job = document["job"]
    assert (received.returncode, document["counts"]["failed"], document["counts"]["left"]) == (1, 1, 2)
    assert f"Next: bridge jobs show {job} --failed" in received.stderr
    failed = bridge("jobs", "show", job, "--failed", cwd=project)
    assert names[0] in failed
    status = run_bridge("status", cwd=project)
    assert status.returncode == 1
    assert f"job {job} (instances.rewind, engine default) is stopped: 1 failed (limit 1). Next: bridge jobs show" in (
        status.stdout.replace("\n", " ")
    )


def test_dry_run_counts_and_changes_nothing(project: Path, daemon: DaemonProcess) -> None:
    start(project, 20, tenant="a")
    assert (
        bridge("instances", "terminate", "--all", "--dry-run", cwd=project) == "terminate would work on 20 instances\n"
    )
    text = bridge("instances", "terminate", "--where", "tags.tenant == 'a'", "--limit", "5", "--dry-run", cwd=project)
    assert text == (
        "terminate would work on 5 instances; 5 instances were read, because the engine cannot answer the filter\n"
    )
    found = json.loads(bridge("instances", "rewind", "--status", "failed", "--dry-run", "-o", "json", cwd=project))
    assert (found["count"], found["reads"]) == (0, 0)
    assert set(statuses(project).values()) == {"RUNNING"}
    assert bridge("jobs", "list", "-o", "ids", cwd=project) == ""


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("terminate", "--yes"), 2, "--all selects all instances"),
        (("terminate", "--limit", "5", "--yes"), 2, "--all selects all instances"),
        (("terminate", "i-1", "--all", "--yes"), 2, "not both"),
        (("terminate", "i-1", "--rate", "5/s"), 2, "not both"),
        (("terminate", "--all"), 2, "no terminal to confirm on"),
        (("terminate", "--orchestration", "none", "--yes"), 1, "no instance matches the filter"),
        (("rewind", "--status", "running", "--yes"), 1, "rewind works on instances that are failed, not running"),
        (("terminate", "--where", "tags.", "--yes"), 1, "`where`: "),
        (("restart", "--all", "--new-id", "--yes"), 2, "--new-id needs ids"),
        (("raise", "go", "--all", "--bare", "--yes"), 2, "with a filter, use neither"),
        (("raise", "go"), 2, "name instances, or use a filter"),
        (("terminate", "--all", "--ramp", "1,x", "--yes"), 2, "sizes of steps"),
        (("terminate", "--all", "--rate", "fast", "--yes"), 2, "is not a rate"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_filters_that_are_refused(project: Path, arguments: tuple[str, ...], code: int, message: str) -> None:
    if code == 2:
        received = run_bridge("instances", *arguments, cwd=project)
    else:
        with DaemonProcess(project) as process:
            received = run_bridge("instances", *arguments, cwd=project)
            process.stop()
    assert (received.returncode, message in received.stderr) == (code, True), received.stderr


def test_a_command_that_is_killed_leaves_its_job(project: Path, daemon: DaemonProcess) -> None:
    start(project, 50)
    out = project / "command.out"
    process = started(project, out, "instances", "terminate", "--all", "--rate", "25/s", "--yes", "--watch")
    eventually_blocking(lambda: bridge("jobs", "list", "-o", "ids", cwd=project), "a job")
    process.kill()
    [job] = bridge("jobs", "list", "-o", "ids", cwd=project).split()
    assert run_bridge("jobs", "watch", job, cwd=project).returncode == 0
