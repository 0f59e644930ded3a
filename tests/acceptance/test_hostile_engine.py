"""Daemon with two engines, one of them hostile: its memory stays bounded, and the other engine's source goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.core.message import Message
from tests.acceptance.broker import Log
from tests.engines.hostile import (
    HostileEngine,
    endless_entities,
    endless_history,
    endless_instances,
    large_acknowledgement,
    own_state,
    state,
)
from tests.kit.processes import DaemonProcess

CONFIG = """
engines:
  good: {{type: embedded}}
  bad: {{type: scheduler, endpoint: "{endpoint}", credential: none, max_answer: 4MiB}}
workflows: {{modules: [flows], external: [far]}}
brokers: {{local: {{type: local}}}}
sources:
  good: {{broker: local, topics: [good], codec: json, no_match: dead_letter}}
  bad: {{broker: local, topics: [bad], codec: json, no_match: dead_letter}}
routes:
  - name: good
    from: good
    engine: good
    schedule: {{orchestration: near, instance_id: "near-{{{{ payload.id }}}}"}}
  - name: bad
    from: bad
    engine: bad
    schedule: {{orchestration: far, instance_id: "far-{{{{ payload.id }}}}"}}
    limits: {{running: 1000}}
ops: {{http: {{port: 0}}}}
"""
FLOWS = """
from durabletask import task


def near(ctx: task.OrchestrationContext, _):
    return 1
"""
BATCH = 50
BOUND = 600
"""MiB of the daemon's memory: 32 each for listings and for the work items of two workers, beside its own."""
QUICK_ITEMS = 60


def endless_items(_: bytes, __: int) -> Iterator[bytes]:
    """Work items as fast as they are taken, and in the end more slowly, which costs less."""
    item = pb.WorkItem()
    item.activityRequest.name = "nobody's"
    item.activityRequest.input.value = "x" * 2_000_000
    serialized = item.SerializeToString()
    for number in count():
        yield serialized
        if number > QUICK_ITEMS:
            time.sleep(0.1)


def memory(daemon: DaemonProcess) -> int:
    """Resident memory of the daemon at its highest, in MiB."""
    lines = Path(f"/proc/{daemon.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) // 1024


def executed(daemon: DaemonProcess, source: str) -> float:
    return daemon.metrics("bridge_outcomes_total")[f'{{outcome="executed",source="{source}"}}']


def publish(log: Log, topic: str) -> None:
    log.publish(topic, *(Message(json.dumps({"id": str(number)}).encode(), b"%d" % number) for number in range(BATCH)))


@pytest.mark.timeout(180)
def test_answers_without_end(tmp_path: Path) -> None:
    with HostileEngine(64) as hostile:
        hostile.answers = {
            "GetInstance": own_state, "QueryInstances": endless_instances, "QueryEntities": endless_entities,
            "StreamInstanceHistory": endless_history, "GetWorkItems": endless_items,
        }  # fmt: skip
        (tmp_path / "bridge.yaml").write_text(CONFIG.format(endpoint=hostile.endpoint))
        (tmp_path / "flows.py").write_text(FLOWS)
        with DaemonProcess(tmp_path, fresh=True, ready=False) as daemon, Log(tmp_path / ".bridge" / "broker") as log:
            for _ in range(2):
                publish(log, "bad")
            # Each refused listing takes some 150 pages; what the first one leaves behind shows at the second
            daemon.wait(lambda: hostile.calls["QueryEntities"] > 350, "listings were refused")
            daemon.wait(lambda: hostile.calls["CompleteActivityTask"] > 40, "work items were refused")
            publish(log, "good")
            daemon.wait(lambda: executed(daemon, "good") == BATCH, "the source of the other engine goes on")
            assert "responses in parts exceed 33554432 bytes" in daemon.log.read_text()
            assert memory(daemon) < BOUND


@pytest.mark.timeout(180)
@pytest.mark.parametrize("attack", ["large acknowledgements", "another instance"])
def test_answers_that_are_none_are_an_outage(tmp_path: Path, attack: str) -> None:
    with HostileEngine(64) as hostile:
        if attack == "another instance":
            other = pb.CreateInstanceResponse(instanceId="other").SerializeToString()
            hostile.answers = {"GetInstance": state("other"), "StartInstance": other}
        else:
            hostile.answers = {"GetInstance": state("i", 17_000_000), "StartInstance": large_acknowledgement}
        (tmp_path / "bridge.yaml").write_text(CONFIG.format(endpoint=hostile.endpoint))
        (tmp_path / "flows.py").write_text(FLOWS)
        with DaemonProcess(tmp_path, fresh=True, ready=False) as daemon, Log(tmp_path / ".bridge" / "broker") as log:
            publish(log, "bad")
            daemon.wait(lambda: hostile.calls["GetInstance"] > 5, "the engine is asked again and again")
            publish(log, "good")
            daemon.wait(lambda: executed(daemon, "good") == BATCH, "the source of the other engine goes on")
            status, body = daemon.get("/readyz")
            assert status == 503
            assert "engine 'bad' does not speak the protocol" in body
            assert daemon.settled() == BATCH
            # The engine is well again: nothing was lost, and nothing dead-lettered
            hostile.answers = {"GetInstance": own_state}
            daemon.wait(lambda: executed(daemon, "bad") == BATCH, "held messages are executed")
            assert memory(daemon) < BOUND
