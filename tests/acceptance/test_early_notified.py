"""Healthy messages behind early messages wait, and the start of the instance releases all of them."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from bridge.core.message import Message
from tests.acceptance.broker import Log
from tests.acceptance.sidecar import running
from tests.kit.processes import DaemonProcess, bridge
from tests.kit.waiting import eventually_blocking

FLOWS = """
from bridge.workflow import wait_for_message
from durabletask import task


def order(ctx: task.OrchestrationContext, count):
    got = []
    while len(got) < count:
        received = yield from wait_for_message(ctx, "said")
        got.append(received.data)
    return got
"""

CONFIG = """
engine: {engine}
workflows: [told_flows]
brokers: {{local: {{type: local, path: broker}}}}
sources:
  orders:
    broker: local
    topics: [orders]
    codec: json
    no_match: dead_letter
    attributes: {{type: "headers['type']"}}
    retry: {{in_memory: 300ms, max_delay: 200ms}}
routes:
  - name: paid
    from: orders
    match: {{type: paid}}
    raise_event: {{instance_id: "order-1", name: said, data: event.type, on_missing: {{wait: 1h}}}}
  - name: noted
    from: orders
    match: {{type: noted}}
    raise_event: {{instance_id: "order-1", name: said, data: event.type}}
  - name: asked
    from: orders
    match: {{type: asked}}
    start_or_raise: {{orchestration: order, instance_id: "order-1", event: said, data: event.type, input: "3"}}
ops: {{http: {{port: 0}}}}
"""


def say(log: Log, *kinds: str) -> None:
    log.publish("orders", *(Message(b"{}", b"1", (("type", kind.encode()),)) for kind in kinds))


def result(directory: Path) -> object:
    return json.loads(bridge("instances", "show", "order-1", "--json", cwd=directory))["output"]


def project(directory: Path, engine: str) -> None:
    (directory / "told_flows.py").write_text(FLOWS)
    (directory / "bridge.yaml").write_text(CONFIG.format(engine=engine))


def in_order(directory: Path, daemon: DaemonProcess) -> None:
    daemon.wait(lambda: daemon.lag() == 0, "all settled")
    eventually_blocking(
        lambda: result(directory) == ["paid", "noted", "asked"], lambda: str(result(directory)), poll=0.1
    )
    assert counted(daemon, "dead_lettered") == 0


def counted(daemon: DaemonProcess, outcome: str) -> float:
    found = daemon.metrics("bridge_outcomes_total")
    return sum(value for labels, value in found.items() if f'"{outcome}"' in labels)


@pytest.mark.timeout(120)
def test_on_an_engine_that_does_not_tell_of_starts(tmp_path: Path) -> None:
    """Another client starts the instance; without a notification the early message would look for it once a minute."""
    with running() as sidecar, Log(tmp_path / "broker") as log:
        project(tmp_path, f'{{type: scheduler, endpoint: "http://127.0.0.1:{sidecar.port}"}}')
        with DaemonProcess(tmp_path) as daemon:
            say(log, "paid")
            daemon.wait(lambda: counted(daemon, "early") == 1, "stored")
            bridge("instances", "start", "order", "--id", "order-1", "--input", "3", cwd=tmp_path)
            began = time.monotonic()
            say(log, "noted", "asked")
            in_order(tmp_path, daemon)
            assert time.monotonic() - began < 30


@pytest.mark.timeout(120)
def test_while_no_worker_runs(tmp_path: Path) -> None:
    project(tmp_path, "{type: embedded, path: engine}")
    with Log(tmp_path / "broker") as log, DaemonProcess(tmp_path, "--no-worker") as daemon:
        say(log, "paid")
        daemon.wait(lambda: counted(daemon, "early") == 1, "stored")
        bridge("instances", "start", "order", "--id", "order-1", "--input", "3", cwd=tmp_path)
        say(log, "noted", "asked")
        time.sleep(1.5)  # five times the retry time of a failing message
        assert daemon.lag() == 2
        with DaemonProcess(tmp_path, command="worker"):
            in_order(tmp_path, daemon)
