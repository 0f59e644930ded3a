"""Code that changes under a running instance: visible in log, metrics and readiness; fixed by a rewind."""

from __future__ import annotations

import json
from pathlib import Path

from tests.kit.processes import DaemonProcess, bridge

CONFIG = """
engine: {type: embedded}
workflows: [flows]
brokers: {local: {type: local}}
sources: {orders: {broker: local, topics: [orders], codec: json, no_match: dead_letter}}
routes:
  - {name: start, from: orders, schedule: {orchestration: order, instance_id: "order-{{ payload.id }}"}}
ops: {http: {port: 0}}
"""

FLOW = """
from datetime import timedelta
from bridge.workflow import CompensationInput, Saga, Step, StepInput
from durabletask import task


BRIEF = task.RetryPolicy(first_retry_interval=timedelta(milliseconds=10), max_number_of_attempts=3)
TRIES = []


def reserve(ctx: task.ActivityContext, call: StepInput) -> str:
    TRIES.append(call.key)
    if len(TRIES) == 1:
        raise ConnectionError("the warehouse is away for a moment")
    return "reserved"


def check_customer(ctx: task.ActivityContext, call: StepInput) -> str:
    return "known"


def order(ctx: task.OrchestrationContext, order: dict):
    saga = Saga(ctx, "order")

    def body():
        yield from saga.step(Step("stock", reserve, order, retry=BRIEF))
        return (yield from saga.wait_for_event("paid"))

    return (yield from saga.run(body()))
"""

CHANGED = FLOW.replace(
    'yield from saga.step(Step("stock"',
    'yield from saga.step(Step("customer", check_customer, order))\n        yield from saga.step(Step("stock"',
)


def test_it_is_loud_and_can_be_mended(tmp_path: Path) -> None:
    (tmp_path / "bridge.yaml").write_text(CONFIG)
    (tmp_path / "flows.py").write_text(FLOW)
    with DaemonProcess(tmp_path) as daemon:
        bridge("publish", "orders", "--data", '{"id": "1"}', cwd=tmp_path)

        def reserved() -> bool:
            listed = json.loads(bridge("instances", "list", "--json", cwd=tmp_path))
            return [(one["custom_status"] or {}).get("steps") for one in listed] == [{"stock": "completed"}]

        daemon.wait(reserved, "stock reserved")
        assert daemon.get("/readyz")[0] == 200
        daemon.kill()

    (tmp_path / "flows.py").write_text(CHANGED)
    with DaemonProcess(tmp_path) as daemon:
        assert daemon.get("/readyz")[0] == 200
        bridge("instances", "raise", "order-1", "paid", "--data", "true", cwd=tmp_path)
        daemon.wait(lambda: daemon.get("/readyz")[0] == 503, "unready")
        (workflows,) = [
            part for part in json.loads(daemon.get("/readyz")[1])["components"] if part["kind"] == "workflows"
        ]
        assert (workflows["state"], workflows["ready"]) == ("incompatible", False)
        assert "order order-1" in workflows["detail"]
        assert "bridge instances rewind" in workflows["detail"]
        assert daemon.metrics("bridge_incompatible_total") == {'{engine="default",orchestration="order"}': 1.0}
        daemon.wait(lambda: "`bridge instances rewind order-1`" in daemon.log.read_text(), "logged")
        shown = bridge("instances", "show", "order-1", cwd=tmp_path)
        assert "FAILED" in shown
        assert "order running" in shown, "its custom status is that of the moment"
        daemon.kill()

    (tmp_path / "flows.py").write_text(FLOW)
    with DaemonProcess(tmp_path) as daemon:
        assert daemon.get("/readyz")[0] == 200, "a restart forgets what the old code would do"
        bridge("instances", "rewind", "order-1", cwd=tmp_path)
        shown = bridge("instances", "wait", "order-1", cwd=tmp_path)
        assert "COMPLETED" in shown
        assert "[x] stock  completed" in shown
        assert daemon.metrics("bridge_incompatible_total") == {}
