"""Erasure of a person's payloads: removed data, and the report of remaining data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bridge.core.message import Message
from tests.acceptance.broker import Log
from tests.kit.processes import DaemonProcess, bridge, run_bridge

CONFIG = """
engine: {type: embedded, path: engine}
workflows: [flows]
brokers: {local: {type: local, partitions: 1}}
targets: {results: {broker: local, topic: results}}
sources:
  orders:
    {broker: local, topics: [orders], codec: json, no_match: dead_letter, attributes: {type: "headers['type']"}}
routes:
  - name: start
    from: orders
    match: {type: start}
    schedule: {orchestration: quick, instance_id: "order-{{ payload.id }}", input: payload}
  - name: ask
    from: orders
    match: {type: ask}
    schedule: {orchestration: asks, instance_id: "order-{{ payload.id }}", input: payload}
  - name: early
    from: orders
    match: {type: early}
    raise_event: {instance_id: "none-{{ payload.id }}", name: noted, data: payload, on_missing: {wait: 1h}}
  - name: note
    from: orders
    match: {type: note}
    signal_entity: {entity: notes, key: "{{ payload.id }}", operation: keep, input: payload}
ops: {http: {port: 0}}
"""

FLOWS = """
from bridge.workflow import Entity, wait_for_message
from durabletask import task


def quick(ctx: task.OrchestrationContext, order):
    yield ctx.call_activity(pack, input={"parcel": {"customer": order["customer"]}})


def pack(ctx: task.ActivityContext, parcel):
    return "packed"


def asks(ctx: task.OrchestrationContext, order):
    yield from wait_for_message(ctx, "noted")


class Notes(Entity):
    def keep(self, note):
        self.set_state(note)
"""


def message(kind: str, number: int, customer: str) -> Message:
    body = json.dumps({"id": number, "customer": customer}).encode()
    return Message(body, f"{kind}{number}".encode(), (("type", kind.encode()),))


@pytest.mark.timeout(120)
def test_what_is_found_is_erased_and_the_rest_is_named(tmp_path: Path) -> None:
    (tmp_path / "bridge.yaml").write_text(CONFIG)
    (tmp_path / "flows.py").write_text(FLOWS)
    with Log(tmp_path / ".bridge" / "broker") as broker, DaemonProcess(tmp_path) as daemon:
        broker.publish(
            "orders",
            message("start", 1, "c-17"),
            message("start", 2, "c-18"),
            message("ask", 3, "c-17"),
            message("early", 5, "c-17"),
            message("early", 6, "c-18"),
            message("note", 7, "c-17"),
        )
        daemon.wait(lambda: daemon.settled() >= 6, "all settled")
        daemon.wait(lambda: "notes" in bridge("entities", "list", cwd=tmp_path), "the note is kept")
        bridge("instances", "wait", "order-1", cwd=tmp_path)

        def erase(*more: str, expect: int) -> tuple[set[tuple[str, str, str]], list[str]]:
            received = json.loads(
                bridge("erase", "--where", "payload.customer == 'c-17'", "--json", *more, cwd=tmp_path, expect=expect)
            )
            return {(one["kind"], one["id"], one["state"]) for one in received["findings"]}, received["topics"]

        found, topics = erase("--dry-run", expect=1)
        held = {("instance", "order-1"), ("instance", "order-3"), ("early", "none-5"), ("entity", "@notes@7")}
        assert {each[:2] for each in found} >= held
        assert topics == ["local: orders", "local: orders.dlq", "local: results"]
        found, _ = erase("--yes", expect=1)
        assert {each for each in found if each[2] == "erased"} >= {
            ("instance", "order-1", "erased"), ("early", "none-5", "erased"),
        }  # fmt: skip
        assert ("instance", "order-3", "runs") in found
        assert ("entity", "@notes@7", "left") in found
        left, _ = erase("--yes", expect=1)
        assert left == {("instance", "order-3", "runs"), ("entity", "@notes@7", "left")}
        waiting = json.loads(bridge("early", "list", "--json", cwd=tmp_path))
        assert [each["instance_id"] for each in waiting] == ["none-6"]
        bridge("instances", "terminate", "order-3", cwd=tmp_path)
        found, _ = erase("--yes", expect=1)
        assert ("instance", "order-3", "erased") in found
        assert "--where: " in bridge_error(tmp_path, "payload.customer ==")


def bridge_error(directory: Path, condition: str) -> str:
    done = run_bridge("erase", "--where", condition, "--dry-run", cwd=directory)
    assert done.returncode == 3
    return done.stderr
