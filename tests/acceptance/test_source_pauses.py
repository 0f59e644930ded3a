"""`bridge sources pause` and `resume`: one daemon over restarts, and three daemons of which one is frozen."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.test_status import PARTITIONS, Topic, daemons, topic
from tests.kit.processes import DaemonProcess, bridge, run_bridge

__all__ = ["daemons", "topic"]

CONFIG = """
engine: {type: embedded}
workflows: [flows]
brokers: {local: {type: local}}
sources:
  orders: {broker: local, topics: [orders], codec: json, no_match: dead_letter}
  bills: {broker: local, topics: [bills], codec: json, no_match: ignore}
routes:
  - {name: start, from: orders, schedule: {orchestration: order, instance_id: "order-{{ payload.id }}"}}
ops: {http: {port: 0}}
"""

FLOWS = """
from durabletask import task


def order(ctx: task.OrchestrationContext, _):
    return "done"
"""

APPLIES = 5.0
"""Seconds within which every daemon applies a pause."""


def publish(directory: Path, topic: str, *ids: int) -> None:
    lines = "\n".join(json.dumps({"body": {"id": each}}) for each in ids)
    bridge("publish", topic, "--jsonl", "-", cwd=directory, text=lines)


def orders(daemon: DaemonProcess) -> float:
    """Settled messages of the source `orders`."""
    outcomes = daemon.metrics("bridge_outcomes_total")
    return sum(count for labels, count in outcomes.items() if 'source="orders"' in labels)


def source(daemon: DaemonProcess, name: str = "orders") -> dict[str, Any]:
    components = json.loads(daemon.get("/readyz")[1])["components"]
    return next(each for each in components if (each["kind"], each["name"]) == ("source", name))


def test_a_pause_outlives_the_daemon_and_ends_on_request(tmp_path: Path) -> None:
    (tmp_path / "bridge.yaml").write_text(CONFIG)
    (tmp_path / "flows.py").write_text(FLOWS)
    with DaemonProcess(tmp_path) as daemon:
        publish(tmp_path, "orders", 1)
        daemon.wait(lambda: daemon.settled() == 1, "the first order")
        assert "bridge sources resume orders" in bridge(
            "sources", "pause", "orders", "--reason", "the shop is down", cwd=tmp_path
        )
        daemon.wait(lambda: source(daemon)["state"] == "paused", "the pause")
        assert "(the shop is down); `bridge sources resume orders` continues" in source(daemon)["detail"]
        # A decision of a person is no fault: the daemon stays ready
        assert daemon.get("/readyz")[0] == 200
        publish(tmp_path, "orders", 2, 3)
        publish(tmp_path, "bills", 1)
        daemon.wait(lambda: daemon.settled() == 2, "another source continues")
        assert sum(daemon.metrics("bridge_lag").values()) >= 0
        daemon.kill()
    with DaemonProcess(tmp_path, log="second") as daemon:
        daemon.wait(lambda: source(daemon)["state"] == "paused", "the pause after a restart")
        [line] = [each for each in json.loads(bridge("sources", "list", "--json", cwd=tmp_path)) if each["state"]]
        assert (line["source"], line["state"], line["reason"]) == ("orders", "paused", "the shop is down")
        assert orders(daemon) == 0
        assert bridge("sources", "resume", "orders", cwd=tmp_path) == "orders continues\n"
        daemon.wait(lambda: orders(daemon) == 2, "the orders that waited")
        assert run_bridge("sources", "resume", "orders", cwd=tmp_path).returncode == 1
        trail = [json.loads(each) for each in bridge("audit", "--json", cwd=tmp_path).splitlines()]
        assert [(each["action"], each["result"]) for each in trail if each["action"].startswith("sources.")] == [
            ("sources.pause", "done"), ("sources.resume", "done"), ("sources.resume", "failed"),
        ]  # fmt: skip


@pytest.mark.timeout(240)
def test_a_pause_holds_for_three_daemons_of_which_one_was_frozen(
    tmp_path: Path, topic: tuple[str, Topic], daemons: tuple[DaemonProcess, ...]
) -> None:
    frozen, *others = daemons
    rebalances = [sum(each.metrics("bridge_rebalances_total").values()) for each in daemons]
    frozen.signal(signal.SIGSTOP)
    bridge("sources", "pause", "orders", cwd=tmp_path)
    for each in others:
        each.wait(lambda each=each: source(each)["state"] == "paused", "the pause")  # type: ignore[misc]  # mypy cannot infer it
    frozen.signal(signal.SIGCONT)
    frozen.wait(lambda: source(frozen)["state"] == "paused", "the pause of the frozen daemon")
    topic[1].publish(4 * PARTITIONS)
    # Nothing can be awaited: the messages must lie there for longer than a daemon takes to look for a pause
    time.sleep(APPLIES)
    assert [each.settled() for each in daemons] == [0, 0, 0]
    assert [sum(each.metrics("bridge_rebalances_total").values()) for each in daemons] == rebalances
    bridge("sources", "resume", "orders", cwd=tmp_path)
    frozen.wait(lambda: sum(each.settled() for each in daemons) == 4 * PARTITIONS, "all messages")
