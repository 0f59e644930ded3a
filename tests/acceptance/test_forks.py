"""Workflow code that forks, in the daemon's process: no child takes the place or the work of its daemon."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from durabletask.internal.orchestrator_service_pb2_grpc import TaskHubSidecarServiceStub
from google.protobuf import empty_pb2

from tests.kit.ports import free_port
from tests.kit.processes import DaemonProcess, bridge
from tests.kit.waiting import TIMEOUT, eventually_blocking

TOKEN = "a-token-of-the-engine-with-forty-characters"

CONFIG = """
engine: {{type: embedded, worker: {{processes: 0}}, listen: "127.0.0.1:{engine}", token: {token}}}
workflows: [flows]
brokers: {{local: {{type: local}}}}
sources: {{orders: {{broker: local, topics: [orders], codec: json, no_match: dead_letter}}}}
routes: [{{name: start, from: orders, schedule: {{orchestration: fine, instance_id: "{{{{ payload.id }}}}"}}}}]
ops: {{http: {{port: {ops}}}}}
"""

FLOW = """
import asyncio, multiprocessing, os, sys, time
from pathlib import Path
from durabletask import task
from durabletask.entities import EntityContext, EntityInstanceId


def lives():
    time.sleep(600)


def child_of(how):
    if how == "multiprocessing":
        process = multiprocessing.get_context("fork").Process(target=lives)
        process.start()
        return process.pid
    child = os.fork()
    if not child:
        if how == "os.fork":
            lives()
        if how == "raises":
            raise ValueError("in the child")
        if how == "exits":
            sys.exit(7)
    return child


def status_of(how):
    '''Exit code of the child.'''
    return os.waitstatus_to_exitcode(os.waitpid(child_of(how), 0)[1])


def forks(ctx: task.ActivityContext, how: str):
    return [os.getpid(), child_of(how)]


def waits_for_child(ctx: task.ActivityContext, how: str):
    return status_of(how)


async def async_child(ctx: task.ActivityContext, how: str):
    child = child_of(how)
    if not child and how == "suspends":
        await asyncio.sleep(0)
        lives()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def entity_child(ctx: EntityContext, how: str):
    return status_of(how)


def notes(ctx: task.ActivityContext, number: int):
    with open("notes", "a") as file:
        file.write(f"{number}\\n")
    time.sleep(0.05)


def activity(ctx: task.OrchestrationContext, given):
    return (yield ctx.call_activity(given[0], input=given[1]))


def entity(ctx: task.OrchestrationContext, how: str):
    return (yield ctx.call_entity(EntityInstanceId("entity_child", "one"), "fork", how))


def orchestrator(ctx: task.OrchestrationContext, how: str):
    status = None if ctx.is_replaying else status_of(how)
    yield ctx.call_activity(notes, input=-1)
    return status


def many(ctx: task.OrchestrationContext, number: int):
    yield task.when_all([ctx.call_activity(notes, input=each) for each in range(number)])


def fine(ctx: task.OrchestrationContext, _):
    return "done"
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    config = CONFIG.format(engine=free_port(), ops=free_port(), token=TOKEN)
    (tmp_path / "bridge.yaml").write_text(config)
    (tmp_path / "flows.py").write_text(FLOW)
    return tmp_path


def start(directory: Path, name: str, id_: str, given: object) -> None:
    bridge("instances", "start", name, "--id", id_, "--input", json.dumps(given), cwd=directory)


def output(directory: Path, id_: str) -> Any:
    """Wait for the end of an instance, which must be good. Returns its output."""

    def ended() -> dict[str, Any] | None:
        found = {one["instance_id"]: one for one in json.loads(bridge("instances", "list", "--json", cwd=directory))}
        state = found.get(id_)
        return state if state and state["status"] in ("COMPLETED", "FAILED") else None

    state = eventually_blocking(ended, f"the end of {id_}", poll=0.5)
    assert state is not None
    assert state["status"] == "COMPLETED", state
    return state["output"]


@contextlib.contextmanager
def killed_at_the_end() -> Iterator[list[int]]:
    pids: list[int] = []
    try:
        yield pids
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("how", ["os.fork", "multiprocessing"])
def test_a_daemon_takes_the_place_of_a_killed_one_whose_child_lives(project: Path, how: str) -> None:
    with killed_at_the_end() as children:
        with DaemonProcess(project) as daemon:
            start(project, "activity", "first", ["forks", how])
            ran, child = output(project, "first")
            children.append(child)
            assert ran == daemon.pid
            daemon.kill()
        assert Path(f"/proc/{child}").exists()
        with DaemonProcess(project) as daemon:
            assert daemon.get("/readyz")[0] == 200
            bridge("publish", "orders", "--data", '{"id": "second"}', cwd=project)
            assert output(project, "second") == "done", "the source has its partitions, and the engine its file"
            with grpc.insecure_channel(f"127.0.0.1:{engine_port(project)}") as channel:
                hello = TaskHubSidecarServiceStub(channel).Hello
                hello(empty_pb2.Empty(), timeout=TIMEOUT, metadata=(("authorization", f"Bearer {TOKEN}"),))
            start(project, "activity", "third", ["notes", 3])
            output(project, "third")


def engine_port(directory: Path) -> int:
    return int((directory / "bridge.yaml").read_text().partition('listen: "127.0.0.1:')[2].partition('"')[0])


def test_a_worker_notices_the_end_of_a_killed_daemon_whose_child_lives(project: Path) -> None:
    with killed_at_the_end() as children, DaemonProcess(project) as daemon:
        # Another port of its own; the rest is the same
        file = project / "worker.yaml"
        file.write_text(re.sub(r"http: {port: \d+}", "http: {port: 0}", (project / "bridge.yaml").read_text()))
        with DaemonProcess(project, "-c", file.name, command="worker", log="worker.log"):
            for number in range(100):
                start(project, "activity", f"f-{number}", ["forks", "os.fork"])
                ran, child = output(project, f"f-{number}")
                children.append(child)
                if ran == daemon.pid:
                    break
            daemon.kill()
            with DaemonProcess(project, "--no-worker", log="second.log"):
                start(project, "activity", "next", ["notes", 1])
                output(project, "next")


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("activity", ["waits_for_child", "{}"]),
        ("activity", ["async_child", "{}"]),
        ("orchestrator", "{}"),
        ("entity", "{}"),
    ],
)
def test_a_child_that_returns_ends_and_does_no_work_of_its_daemon(project: Path, name: str, given: Any) -> None:
    with DaemonProcess(project) as daemon:
        start(project, "many", "many", 200)
        ways = {"returns": 1, "raises": 1, "exits": 7} | ({"suspends": 1} if "async_child" in given else {})
        for how in ways:
            start(project, name, how, json.loads(json.dumps(given).replace("{}", how)))
        assert {how: output(project, how) for how in ways} == ways
        output(project, "many")
        lines = [line for line in (project / "notes").read_text().split() if line != "-1"]
        assert sorted(map(int, lines)) == list(range(200)), "each activity ran once"
        assert "which workflow code forked, returned from that code" in daemon.log.read_text()
