"""Cancels with a grace and limits of routes, in virtual time."""

from __future__ import annotations

from pathlib import Path

from bridge.testing import LocalBridge

FLOWS = """
from datetime import timedelta

from bridge.workflow import acknowledge_cancel
from durabletask import task


def deaf(ctx: task.OrchestrationContext, _):
    yield ctx.wait_for_external_event("go")


def polite(ctx: task.OrchestrationContext, _):
    yield ctx.wait_for_external_event("cancel")
    acknowledge_cancel(ctx)
    yield ctx.create_timer(timedelta(hours=2))
    return "undone"
"""

CONFIG = """
engine: {type: embedded}
workflows: [flows_of_limits]
brokers: {local: {type: local}}
defaults: {route: {from: orders}}
sources: {orders: {broker: local, topics: [orders], codec: cloudevents, no_match: dead_letter}}
routes:
  - {name: deaf, match: {type: deaf}, schedule: {orchestration: deaf, instance_id: "o-{{ payload.id }}"}}
  - {name: polite, match: {type: polite}, schedule: {orchestration: polite, instance_id: "o-{{ payload.id }}"}}
  - {name: cancel, match: {type: cancel}, cancel: {instance_id: "o-{{ payload.id }}", grace: 30s}}
  - name: two
    match: {type: many}
    limits: {running: 2}
    schedule: {orchestration: deaf, instance_id: "many-{{ payload.id }}"}
  - name: tenants
    match: {type: tenants}
    limits: {per: {value: "{{ payload.tenant }}", running: 1}}
    schedule: {orchestration: deaf, instance_id: "tenants-{{ payload.id }}"}
  - {name: free, match: {type: free}, raise_event: {instance_id: "tenants-{{ payload.id }}", name: go}}
  - {name: go, match: {type: go}, raise_event: {instance_id: "many-{{ payload.id }}", name: go}}
"""


def write(directory: Path) -> Path:
    (directory / "flows_of_limits.py").write_text(FLOWS)
    (directory / "bridge.yaml").write_text(CONFIG)
    return directory / "bridge.yaml"


def test_a_grace_passes_in_virtual_time(tmp_path: Path) -> None:
    with LocalBridge(write(tmp_path)) as bridge:
        for number, kind in (("1", "deaf"), ("2", "polite")):
            bridge.publish("orders", {"id": number}, type=kind)
            bridge.publish("orders", {"id": number}, type="cancel")
        bridge.advance(seconds=29)
        assert bridge.status("o-1") == "RUNNING"
        bridge.advance(seconds=2)
        assert bridge.status("o-1") == "TERMINATED"
        assert bridge.status("o-2") == "RUNNING", "it has acknowledged"
        bridge.advance(hours=2)
        assert bridge.result("o-2") == "undone"


def test_a_start_at_the_cap_waits_and_the_test_does_not(tmp_path: Path) -> None:
    with LocalBridge(write(tmp_path)) as bridge:
        for number in range(3):
            bridge.publish("orders", {"id": str(number)}, type="many")
        assert bridge.outcomes("orders") == {"executed": 2}
        bridge.publish("orders", {"id": "0"}, type="go")
        assert bridge.status("many-0") == "COMPLETED"
        assert bridge.status("many-2") == "RUNNING"
        assert bridge.outcomes("orders") == {"executed": 4}


def test_what_waits_for_others_of_its_tenant_waits_for_the_test(tmp_path: Path) -> None:
    with LocalBridge(write(tmp_path)) as bridge:
        for number, tenant in enumerate(["a", "a", "a", "b", None]):
            bridge.publish("orders", {"id": number, "tenant": tenant}, type="tenants", key=str(number))
        bridge.settle()
        assert bridge.outcomes("orders") == {"executed": 3}
        bridge.publish("orders", {"id": 0}, type="free", key="free")
        bridge.settle()
        assert bridge.status("tenants-0") == "COMPLETED"
        assert bridge.status("tenants-1") == "RUNNING"
        assert bridge.outcomes("orders") == {"executed": 5}
