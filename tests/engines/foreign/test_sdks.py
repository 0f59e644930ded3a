"""Published clients and workers of other languages' SDKs against `bridge engine` over its port."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from durabletask.azuremanaged.client import DurableTaskSchedulerClient
from durabletask.client import OrchestrationQuery

from tests.engines.foreign import toolchain
from tests.kit.waiting import TIMEOUT

pytestmark = [pytest.mark.prove, pytest.mark.timeout(600)]

STATUS = "ORCHESTRATION_STATUS_"


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Address of a fresh engine."""
    ready = tmp_path / "ready.json"
    command = [sys.executable, "-m", "bridge", "engine", "--listen", "127.0.0.1:0", "--path", str(tmp_path / "hubs")]
    with subprocess.Popen([*command, "--ready-file", str(ready)], stderr=subprocess.PIPE, text=True) as engine:
        try:
            until = time.monotonic() + TIMEOUT
            while not ready.exists():
                assert engine.poll() is None, engine.communicate()[1]
                assert time.monotonic() < until
                time.sleep(0.05)
            yield json.loads(ready.read_text())["address"]
        finally:
            engine.terminate()
            log = engine.communicate(timeout=TIMEOUT)[1]
    assert "Traceback" not in log


def received(command: list[str], address: str, hub: str) -> dict[str, Any]:
    """Run the program of an SDK. Returns its results."""
    ran = subprocess.run([*command, address, hub], capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr[-4000:]
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


def expected(prefix: str, names: Callable[[str], str] = str, statuses: str = "") -> dict[str, Any]:
    """Expected results for every language.

    names: spelling of a gRPC status in the SDK. statuses: text before a status.
    """
    return {
        "activity": "Hello, Ada!",
        "retries": 3,
        "fan_out": 9900,
        "timer": True,
        "child": 42,
        "start_at": "Hello, later!",
        "event": {"seven": 7},
        "event_to_nobody": names("NOT_FOUND"),
        "event_too_late": names("FAILED_PRECONDITION"),
        "start_twice": names("ALREADY_EXISTS"),
        "start_over": "Hello, again!",
        "continue_as_new": 3,
        "terminate": [f"{statuses}TERMINATED", "enough"],
        "suspend": f"{statuses}SUSPENDED",
        "resume": "kept",
        "failure": [f"{statuses}FAILED", "on purpose"],
        "restart": "taken",
        "query": sorted(
            f"{prefix}-{name}" for name in ("again", "broken", "event", "later", "suspended", "terminated")
        ),
        "query_status": [f"{prefix}-broken"],
        "purge": 1,
        "purged": True,
    }


def test_javascript(address: str) -> None:
    found = received(toolchain.javascript(), address, "foreign")
    assert found == expected("js") | {
        "entity": {"value": 2},
        "entity_calls": [7, 7],
        "entities": [["js", 7], ["js-two", 7]],
        "history": [
            "OrchestratorStarted",
            "ExecutionStarted",
            "OrchestratorStarted",
            "EventRaised",
            "ExecutionCompleted",
        ],
        "list": [3, True],
        "listed": [True, 6],
    }
    assert seen_from_here(address)["js-event"] == ("waits", "COMPLETED", '{"seven":7}')


def test_java(address: str) -> None:
    # The program creates its task hub first and deletes it at the end.
    wanted = expected("java") | {"start_over": "Hello, later!", "deleted": True}
    assert received(toolchain.java(), address, "foreign") == wanted
    assert seen_from_here(address) == {}


def test_go(address: str) -> None:
    found = received(toolchain.go(), address, "foreign")
    wanted = expected("go", lambda name: name.title().replace("_", ""), STATUS)
    # The client has no queries, no restart, and does not report why an orchestration failed.
    for missing in ("query", "query_status", "restart", "purge"):
        del wanted[missing]
    assert found == wanted | {"failure": f"{STATUS}FAILED", "start_ignored": True}
    assert seen_from_here(address)["go-again"] == ("again", "COMPLETED", "3")


def seen_from_here(address: str) -> dict[str, tuple[str, str, str | None]]:
    """Return name, status and output of every instance, as the Python SDK reports them."""
    client = DurableTaskSchedulerClient(
        host_address=f"http://{address}", secure_channel=False, token_credential=None, taskhub="foreign"
    )
    try:
        states = client.get_all_orchestration_states(OrchestrationQuery(fetch_inputs_and_outputs=True))
        return {each.instance_id: (each.name, each.runtime_status.name, each.serialized_output) for each in states}
    finally:
        client.close()
