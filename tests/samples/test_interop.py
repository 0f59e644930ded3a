"""Samples of docs/samples: workers in other languages, a service that publishes, an adopted application."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.engines.foreign import toolchain
from tests.kafka.server import ThreadedServer
from tests.kit.ports import free_port
from tests.kit.processes import DaemonProcess, bridge
from tests.kit.waiting import TIMEOUT, eventually_blocking

pytestmark = pytest.mark.long

SAMPLES = Path(__file__).parents[2] / "docs" / "samples"

prove = [pytest.mark.prove, pytest.mark.timeout(600)]


@contextmanager
def program(command: list[str], cwd: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program of a sample until the block ends."""
    with (cwd / "program.log").open("ab") as log:
        process = subprocess.Popen(
            command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **environment}
        )
        try:
            yield process
            assert process.poll() is None, (cwd / "program.log").read_text()[-4000:]
        finally:
            process.kill()
            process.wait()


def project(sample: str, directory: Path) -> Path:
    return Path(shutil.copytree(SAMPLES / sample, directory / sample, ignore=shutil.ignore_patterns("__pycache__")))


def publish(directory: Path, config: str, source: str, id_: str, type_: str, data: Any) -> None:
    bridge(
        "publish", source, "-c", config, "--id", id_, "--type", type_, "--key", "k", "--data", json.dumps(data),
        cwd=directory,
    )  # fmt: skip


def instance(directory: Path, id_: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(bridge("instances", "show", id_, "--json", cwd=directory, expect=None) or "{}")
    return found


def completed(directory: Path, id_: str) -> Any:
    """Output of an instance, once it is completed."""
    eventually_blocking(lambda: instance(directory, id_).get("status") == "COMPLETED", f"{id_} is completed", poll=0.5)
    return instance(directory, id_)["output"]


WORKERS: dict[str, Callable[[], list[str]]] = {
    "java": lambda: toolchain.java(SAMPLES / "workers" / "java", "OrderWorker.java"),
    "go": lambda: toolchain.go(SAMPLES / "workers" / "go"),
    "javascript": lambda: toolchain.javascript(SAMPLES / "workers" / "javascript", "worker.js"),
}


@pytest.mark.parametrize("language", [pytest.param(name, marks=prove) for name in WORKERS])
def test_a_worker_in_another_language(language: str, tmp_path: Path) -> None:
    command = WORKERS[language]()
    directory = project("workers", tmp_path)
    port = free_port()
    environment = {**os.environ, "ENGINE_PORT": str(port), "OPS_PORT": "0"}
    with (
        DaemonProcess(directory, env=environment),
        program([*command, f"127.0.0.1:{port}"], tmp_path),
    ):
        # The event comes first, and waits for its start
        publish(directory, "bridge.yaml", "orders", "m-2", "order.paid", {"id": "7", "amount": 25.5})
        publish(directory, "bridge.yaml", "orders", "m-1", "order.placed", {"id": "7", "total": 25.5})
        publish(directory, "bridge.yaml", "orders", "m-1", "order.placed", {"id": "7", "total": 25.5})
        assert completed(directory, "order-7") == {"id": "7", "reserved": "stock for 7", "paid": 25.5}


def posted(url: str, body: Any) -> int:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        return int(answer.status)


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("killed", [pytest.param(False, marks=prove), pytest.param(True, marks=prove)])
def test_a_fastapi_service_publishes(killed: bool, tmp_path: Path) -> None:
    """An order that was accepted starts its workflow once, also when the service is killed before it publishes."""
    command = toolchain.fastapi(SAMPLES / "fastapi")
    directory = project("fastapi", tmp_path)
    port = free_port()
    url = f"http://127.0.0.1:{port}/orders"
    service = {"PORT": str(port), "DATABASE": str(tmp_path / "orders.db")}
    server = ThreadedServer()
    try:
        with ExitStack() as stack:
            if killed:
                with program(command, tmp_path, KAFKA_BOOTSTRAP="127.0.0.1:1", **service):
                    eventually_blocking(lambda: listens(port), "the service")
                    assert posted(url, {"id": "7", "total": 25}) == 201
            stack.enter_context(program(command, tmp_path, KAFKA_BOOTSTRAP=server.bootstrap, **service))
            eventually_blocking(lambda: listens(port), "the service")
            assert posted(url, {"id": "7", "total": 25}) == 201
            assert posted(url, {"id": "8", "total": 30}) == 201
            environment = {**os.environ, "KAFKA_BOOTSTRAP": server.bootstrap, "OPS_PORT": "0"}
            stack.enter_context(DaemonProcess(directory, env=environment))
            assert completed(directory, "order-7") == "stock for 7"
            assert completed(directory, "order-8") == "stock for 8"
    finally:
        server.stop()


def test_an_existing_application_is_adopted(tmp_path: Path) -> None:
    """Step 1: its engine is the bridge's. Step 2: messages start and decide, too. Its files stay as they are."""
    directory = project("durabletask-app", tmp_path)
    port = free_port()
    address = {"DURABLETASK_ADDRESS": f"127.0.0.1:{port}"}
    environment = {**os.environ, "ENGINE_PORT": str(port), "OPS_PORT": "0"}

    def app(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "app.py", *words], cwd=directory, env={**os.environ, **address}, capture_output=True,
            text=True, timeout=TIMEOUT, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def shown(id_: str, status: str) -> str:
        return eventually_blocking(lambda: (found := app("show", id_)).startswith(status) and found, status, poll=0.5)

    def kinds() -> list[str]:
        lines = bridge("topic", "read", "local/ops", "-c", "engine.yaml", "--json", cwd=directory, expect=None)
        return [json.loads(line)["body"]["type"] for line in lines.splitlines()]

    with (
        DaemonProcess(directory, "-c", "engine.yaml", env=environment),
        program([sys.executable, "app.py", "work"], directory, **address),
    ):
        app("start", "1", "100")
        app("decide", "1", "yes")
        assert '"approved": true' in shown("1", "COMPLETED")
        app("start", "2", "-1")
        shown("2", "FAILED")
        app("start", "3", "100")
        eventually_blocking(lambda: kinds() == ["io.durable-bridge.instance.failed.v1"], "the event", poll=0.5)
    with DaemonProcess(directory, "-c", "rules.yaml", env=environment):
        # The instance of step 1 goes on, with the decision of a message
        publish(directory, "rules.yaml", "requests", "m-1", "expense.decided", {"id": "3", "approved": False})
        assert '"approved": false' in shown("3", "COMPLETED")
        # A message starts, and a client of the application decides
        publish(directory, "rules.yaml", "requests", "m-2", "expense.requested", {"id": "4", "amount": 5})
        shown("4", "RUNNING")
        app("decide", "4", "yes")
        assert json.loads(shown("4", "COMPLETED").partition(" ")[2]) == {
            "id": "4", "mail": "mail about 4", "approved": True,
        }  # fmt: skip
        # Its clients start as before
        app("start", "5", "7")
        publish(directory, "rules.yaml", "requests", "m-3", "expense.decided", {"id": "5", "approved": True})
        assert '"approved": true' in shown("5", "COMPLETED")
