"""`bridge engine` as a process: serves the scheduler's own clients, survives SIGKILL, and stops on a signal."""

from __future__ import annotations

import json
import logging
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from durabletask import task
from durabletask.azuremanaged.client import DurableTaskSchedulerClient
from durabletask.azuremanaged.worker import DurableTaskSchedulerWorker
from durabletask.client import TaskHubGrpcClient

from tests.app.project import write_project
from tests.kit.processes import DaemonProcess, run_bridge
from tests.kit.waiting import TIMEOUT


def bridge(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_bridge(*arguments, cwd=directory)


class Served(DaemonProcess):
    """Engine process."""

    @property
    def address(self) -> str:
        return str(self.ready["address"])

    def end(self, number: signal.Signals) -> int:
        self.signal(number)
        return self.ended()


@contextmanager
def serving(directory: Path, *options: str) -> Iterator[Served]:
    given = ["--listen", "127.0.0.1:0", "--path", "hubs", *options]
    with Served(directory, *given, command="engine", log=f"log-{time.monotonic_ns()}") as served:
        assert served.ready["pid"] == served.pid
        yield served


def quiet() -> logging.Logger:
    logger = logging.getLogger("tests.cli.engine")
    logger.setLevel(logging.CRITICAL)
    return logger


def options(served: Served, hub: str) -> dict[str, Any]:
    return {
        "host_address": f"http://{served.address}",
        "secure_channel": False,
        "taskhub": hub,
        "token_credential": None,
        "logger": quiet(),
    }


@contextmanager
def client(served: Served, hub: str) -> Iterator[DurableTaskSchedulerClient]:
    found = DurableTaskSchedulerClient(**options(served, hub))
    try:
        yield found
    finally:
        found.close()


def double(ctx: task.ActivityContext, value: int) -> int:
    return value * 2


def work(ctx: task.OrchestrationContext, value: int) -> Any:
    doubled = yield ctx.call_activity(double, input=value)
    added = yield ctx.wait_for_external_event("add")
    return doubled + added


@contextmanager
def worker(served: Served, hub: str) -> Iterator[None]:
    with DurableTaskSchedulerWorker(**options(served, hub)) as found:
        found.add_orchestrator(work)
        found.add_activity(double)
        found.start()
        yield


def test_the_schedulers_client_and_worker_over_a_kill(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        with client(served, "blue") as blue, client(served, "green") as green:
            blue.schedule_new_orchestration(work, input=21, instance_id="w")
            green.schedule_new_orchestration(work, input=1, instance_id="w")
            blue.raise_orchestration_event("w", "add", data=5)
            blue.schedule_new_orchestration(work, input=1, instance_id="blue-only")
        assert served.end(signal.SIGKILL) == -signal.SIGKILL
    with serving(tmp_path) as served:
        with worker(served, "blue"), client(served, "blue") as blue, client(served, "green") as green:
            done = blue.wait_for_orchestration_completion("w", timeout=TIMEOUT)
            assert done is not None
            assert done.serialized_output == "47"
            waits = green.get_orchestration_state("w")
            assert waits is not None
            assert waits.runtime_status.name == "PENDING"
            assert green.get_orchestration_state("blue-only") is None
        assert f"listening on {served.address}" in served.log.read_text()
        assert served.end(signal.SIGTERM) == 0
    assert {path.name for path in (tmp_path / "hubs").glob("*.db")} == {"default.db", "blue.db", "green.db"}


def test_ctrl_c_stops_it_though_a_client_waits(tmp_path: Path) -> None:
    with serving(tmp_path) as served, client(served, "default") as waiting:
        waiting.schedule_new_orchestration(work, input=1, instance_id="w")
        with worker(served, "default"):
            waiting.wait_for_orchestration_start("w", timeout=TIMEOUT)
            assert served.end(signal.SIGINT) == 0
    assert "Traceback" not in served.log.read_text()


def test_a_token_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("sesame\n")
    with serving(tmp_path, "--token-file", "token") as served:
        known = TaskHubGrpcClient(
            host_address=served.address, metadata=[("authorization", "Bearer sesame")], logger=quiet()
        )
        known.schedule_new_orchestration("work", instance_id="w")
        known.close()
        stranger = TaskHubGrpcClient(host_address=served.address, logger=quiet())
        with pytest.raises(grpc.RpcError) as refused:
            stranger.get_orchestration_state("w")
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        stranger.close()


@pytest.mark.parametrize("strict", [True, False])
def test_the_schedulers_limits_hold_when_asked_for(tmp_path: Path, strict: bool) -> None:
    with serving(tmp_path, *(["--strict"] if strict else [])) as served, client(served, "default") as default:
        default.schedule_new_orchestration(work, input=1, instance_id="x" * 100)
        try:
            default.schedule_new_orchestration(work, input=1, instance_id="x" * 101)
            refused = ""
        except grpc.RpcError as error:
            refused = error.details()
        wanted = (
            "The call has an instance id of 101 characters; at most 100 are allowed, the scheduler's limit, by `strict`"
        )
        assert refused == (wanted if strict else "")


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        second = bridge(tmp_path, "engine", "--listen", "127.0.0.1:0", "--path", "hubs")
        assert second.returncode == 3
        assert second.stderr.startswith(f"error: hubs/default.db: process {served.pid} has this engine file")
        taken = bridge(tmp_path, "engine", "--listen", served.address, "--path", "others")
        assert taken.returncode == 3
        assert f"error: {served.address}: cannot be listened on" in taken.stderr
        compacting = bridge(tmp_path, "engine", "compact", "--path", "hubs/default.db")
        assert compacting.returncode == 3
        assert f"process {served.pid} has this engine file open; stop it" in compacting.stderr
        assert bridge(tmp_path, "engine", "check", "--path", "hubs/default.db").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--listen", "127.0.0.1:0"), 2, "--path"),
        (("--path", "hubs", "--listen", "8080"), 2, "HOST:PORT"),
        (("--path", "hubs", "--listen", "localhost:http"), 2, "HOST:PORT"),
        (("--path", "hubs", "check"), 2, "options before 'check' are for serving"),
        (("--strict", "check"), 2, "options before 'check' are for serving"),
        (("chek",), 2, "did you mean 'check'?"),
        (("--path", "hubs", "--listen", "0.0.0.0:0"), 3, "needs a token"),
        (("--path", "hubs", "--token-file", "nowhere"), 3, "nowhere: No such file"),
        (("--path", "hubs", "--token-file", "empty"), 3, "empty: must contain the token, one line"),
        (("--path", "empty"), 3, "empty"),
        (("check", "--path", "nowhere.db"), 3, "nowhere.db: there is no such file"),
        (("check", "--path", "."), 3, "is a directory"),
        (("compact", "--path", "x.db", "--engine", "default"), 2, "use either --path"),
        (("check", "--engine", "eu"), 2, "there is no engine 'eu'"),
        (("export", "--path", "foreign.db"), 3, "not one of this engine"),
        (("export",), 3, "there is no such file"),
        (("compact",), 3, "there is no such file"),
    ],
)
def test_mistakes(tmp_path: Path, arguments: tuple[str, ...], code: int, said: str) -> None:
    write_project(tmp_path)
    (tmp_path / "empty").touch()
    with sqlite3.connect(tmp_path / "foreign.db") as connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    result = bridge(tmp_path, "engine", *arguments)
    assert (result.returncode, result.stdout) == (code, "")
    assert result.stderr.startswith("error: ")
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def test_a_file_is_checked_compacted_and_exported(tmp_path: Path) -> None:
    with serving(tmp_path) as served, client(served, "default") as default:
        for number in range(200):
            default.schedule_new_orchestration(work, input="x" * 2000, instance_id=f"w-{number}")  # type: ignore[arg-type]  # wider than its annotation, on purpose
            default.terminate_orchestration(f"w-{number}")
        for number in range(1, 200):
            assert default.purge_orchestration(f"w-{number}").deleted_instance_count == 1
        assert served.end(signal.SIGTERM) == 0
    file = "hubs/default.db"
    assert bridge(tmp_path, "engine", "check", "--path", file).stdout == f"{file}: ok\n"
    sizes = json.loads(bridge(tmp_path, "engine", "compact", "--path", file, "--json").stdout)
    assert sizes["bytes_after"] == (tmp_path / file).stat().st_size < sizes["bytes_before"]
    [record] = map(json.loads, bridge(tmp_path, "engine", "export", "--path", file).stdout.splitlines())
    assert (record["state"]["instanceId"], record["finished"]) == ("w-0", True)
    written = bridge(tmp_path, "engine", "export", "--path", file, "--output", "out.jsonl")
    assert (written.returncode, written.stdout) == (0, "1 instance exported to out.jsonl\n")
    assert json.loads((tmp_path / "out.jsonl").read_text()) == record
    assert bridge(tmp_path, "engine", "export", "--path", file, "--output", file).returncode == 2
    nowhere = bridge(tmp_path, "engine", "export", "--path", file, "--output", "nowhere/out.jsonl")
    assert (nowhere.returncode, nowhere.stderr[:6]) == (1, "error:")

    with sqlite3.connect(tmp_path / file) as connection:
        connection.execute("INSERT INTO history VALUES (999999, 0, x'00')")
    connection.close()
    damaged = bridge(tmp_path, "engine", "check", "--path", file, "--json")
    assert damaged.returncode == 1
    assert json.loads(damaged.stdout) == {"file": file, "problems": ["history: 1 rows belong to nothing"]}
    with (tmp_path / file).open("r+b") as raw:
        raw.write(b"not a database at all")
    ruined = bridge(tmp_path, "engine", "check", "--path", file)
    assert (ruined.returncode, ruined.stderr) == (1, "")
    assert "damaged" in ruined.stdout
