"""Worker processes of the real daemon: messages in, kills of everything, figures out."""

from __future__ import annotations

import json
import os
import signal
import urllib.request
from pathlib import Path
from typing import Any

from tests.kit.processes import DaemonProcess, bridge
from tests.kit.waiting import eventually_blocking

CONFIG = """
engine: {type: embedded, worker: {processes: 2, threads: 4}}
workflows: [flows]
brokers: {local: {type: local}}
targets: {done: {broker: local, topic: done}}
sources: {orders: {broker: local, topics: [orders], codec: json, no_match: dead_letter}}
routes:
  - name: start
    from: orders
    schedule: {orchestration: order, instance_id: "order-{{ payload.id }}", input: payload}
ops: {http: {port: 0}}
"""

FLOW = """
import logging, os, time
from bridge.workflow import Inbox, publish
from durabletask import task


def step(ctx: task.ActivityContext, value):
    logging.getLogger("flows").warning("a step runs")
    return os.getpid()


def order(ctx: task.OrchestrationContext, payload):
    pids = []
    for _ in range(3):
        pids.append((yield ctx.call_activity(step, input=payload)))
        yield ctx.create_timer(__import__("datetime").timedelta(milliseconds=20))
    yield publish(ctx, "done", {"id": payload["id"]}, type="order.done")
    return pids
"""


def status(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(bridge("status", "-o", "json", cwd=directory, expect=None))
    return found


def workers(directory: Path) -> list[dict[str, Any]]:
    (engine,) = status(directory)["engines"]
    found: list[dict[str, Any]] = engine["worker_processes"]
    return found


def metrics(daemon: DaemonProcess) -> str:
    with urllib.request.urlopen(f"{daemon.url}/metrics") as answer:
        text: str = answer.read().decode()
    return text


def completed(directory: Path) -> int:
    (engine,) = status(directory)["engines"]
    counts = engine["counts"] or {"instances": []}
    return sum(
        each["count"]
        for each in counts["instances"]
        if (each["orchestration"], each["status"]) == ("order", "COMPLETED")
    )


def test_messages_are_worked_on_by_processes_that_are_killed(tmp_path: Path) -> None:
    (tmp_path / "bridge.yaml").write_text(CONFIG)
    (tmp_path / "flows.py").write_text(FLOW)
    number = 60
    with DaemonProcess(tmp_path) as daemon:
        first = workers(tmp_path)
        assert [each["state"] for each in first] == ["running", "running"]
        (tmp_path / "orders.jsonl").write_text("".join(json.dumps({"body": {"id": n}}) + "\n" for n in range(number)))
        bridge("publish", "orders", "--jsonl", "orders.jsonl", cwd=tmp_path)
        os.kill(first[0]["pid"], signal.SIGKILL)
        eventually_blocking(lambda: completed(tmp_path) == number, lambda: daemon.log.read_text()[-3000:], poll=0.2)
        eventually_blocking(
            lambda: [each["state"] for each in workers(tmp_path)] == ["running", "running"], "replaced", poll=0.2
        )
        assert first[0]["pid"] not in [each["pid"] for each in workers(tmp_path)]
        with urllib.request.urlopen(f"{daemon.url}/readyz") as answer:
            (worker,) = [each for each in json.load(answer)["components"] if each["kind"] == "worker"]
        assert worker["detail"].startswith("2 processes: ")
        text = metrics(daemon)
        assert 'bridge_worker_processes{engine="default",state="running"} 2.0' in text
        assert 'bridge_worker_process_ends_total{cause="SIGKILL",engine="default"} 1.0' in text
        shown = json.loads(bridge("instances", "show", "order-1", "--json", cwd=tmp_path))
        assert daemon.pid not in json.loads(shown["output"]) if isinstance(shown["output"], str) else shown["output"]
        lines = [json.loads(line) for line in daemon.log.read_text().splitlines()]
        assert any(line["logger"] == "flows" and line["event"] == "a step runs" for line in lines)
        pids = [each["pid"] for each in workers(tmp_path)]
        daemon.stop()
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_processes_end_with_a_daemon_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "bridge.yaml").write_text(CONFIG)
    (tmp_path / "flows.py").write_text(FLOW)
    with DaemonProcess(tmp_path) as daemon:
        pids = [each["pid"] for each in workers(tmp_path)]
        daemon.kill()
        eventually_blocking(lambda: not [pid for pid in pids if Path(f"/proc/{pid}").exists()], "the processes end")


def test_a_joined_worker_is_visible_until_it_is_gone(tmp_path: Path) -> None:
    """A flow of one long step: the process holds it."""
    config = CONFIG.replace("{type: embedded, worker: {processes: 2, threads: 4}}", "{type: embedded}")
    (tmp_path / "bridge.yaml").write_text(config)
    (tmp_path / "flows.py").write_text(
        FLOW.replace('    logging.getLogger("flows").warning("a step runs")\n', "    time.sleep(600)\n")
    )
    with DaemonProcess(tmp_path, "--no-worker") as daemon:
        assert workers(tmp_path) == []
        with DaemonProcess(tmp_path, command="worker", log="worker.log") as worker:
            eventually_blocking(lambda: [each["pid"] for each in workers(tmp_path)] == [worker.pid], "joined", poll=0.2)
            worker.stop()
        eventually_blocking(lambda: workers(tmp_path) == [], "it is gone", poll=0.2)
        with DaemonProcess(tmp_path, command="worker", log="worker.log") as worker:
            eventually_blocking(lambda: [each["pid"] for each in workers(tmp_path)] == [worker.pid], "joined", poll=0.2)
            bridge("publish", "orders", "--data", '{"id": 1}', cwd=tmp_path)
            eventually_blocking(lambda: workers(tmp_path)[0]["in_flight"] == 1, "it holds the step", poll=0.2)
            (found,) = workers(tmp_path)
            assert (found["state"], found["sessions"]) == ("joined", 1)
            with urllib.request.urlopen(f"{daemon.url}/readyz") as answer:
                (part,) = [each for each in json.load(answer)["components"] if each["kind"] == "worker"]
            assert part["detail"].startswith(f"1 joined: {worker.pid} (version ")
            text = metrics(daemon)
            assert 'bridge_joined_worker_processes{engine="default"} 1.0' in text
            assert 'bridge_joined_worker_process_items{engine="default"} 1.0' in text
            os.kill(worker.pid, signal.SIGKILL)
            eventually_blocking(lambda: workers(tmp_path) == [], "it is gone", poll=0.2)
        text = metrics(daemon)
        assert 'bridge_joined_worker_process_ends_total{cause="lost",engine="default"} 1.0' in text
