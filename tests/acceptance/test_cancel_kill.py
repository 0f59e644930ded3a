"""SIGKILL between a cancel and the end of its grace: the grace is kept, and an unacknowledged instance is
terminated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.kit.processes import DaemonProcess, bridge

CONFIG = """
engine: {type: embedded}
workflows: [flows]
brokers: {local: {type: local}}
sources: {orders: {broker: local, topics: [orders], codec: json, no_match: dead_letter}}
routes:
  - name: start
    from: orders
    when: has(payload.start)
    schedule: {orchestration: order, instance_id: "order-{{ payload.id }}"}
  - {name: cancel, from: orders, cancel: {instance_id: "order-{{ payload.id }}", grace: 2s}}
ops: {http: {port: 0}}
"""

FLOWS = """
from datetime import timedelta

from bridge.workflow import acknowledge_cancel
from durabletask import task


def order(ctx: task.OrchestrationContext, given):
    yield ctx.wait_for_external_event("cancel")
    if given["polite"]:
        acknowledge_cancel(ctx)
        yield ctx.create_timer(timedelta(seconds=4))
        return "undone"
    yield ctx.wait_for_external_event("never")
"""


def publish(directory: Path, **data: object) -> None:
    bridge("publish", "orders", "--data", json.dumps(data), "--key", "a", cwd=directory)


@pytest.mark.timeout(120)
def test_the_grace_outlives_the_daemon(tmp_path: Path) -> None:
    (tmp_path / "bridge.yaml").write_text(CONFIG)
    (tmp_path / "flows.py").write_text(FLOWS)
    with DaemonProcess(tmp_path) as daemon:
        for number, polite in ((1, False), (2, True)):
            publish(tmp_path, id=number, start=True, polite=polite)
            publish(tmp_path, id=number)
        daemon.wait(lambda: daemon.settled() == 4, "started and cancelled")
        daemon.kill()
    with DaemonProcess(tmp_path):
        deaf, polite_one = (
            json.loads(bridge("instances", "wait", f"order-{number}", "--json", cwd=tmp_path, expect=None))
            for number in (1, 2)
        )
        assert deaf["status"] == "TERMINATED"
        assert deaf["output"] == {"cancelled": True, "reason": None}
        assert (polite_one["status"], polite_one["output"]) == ("COMPLETED", "undone")
