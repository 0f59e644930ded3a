"""Early messages in virtual time, on the SDK's in-memory backend, which does not notify of starts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.core.system_names import EARLY_MESSAGES, target_key
from bridge.testing import LocalBridge

FLOWS = """
from durabletask import task


def order(ctx: task.OrchestrationContext, count):
    got = []
    for _ in range(count):
        got.append((yield ctx.wait_for_external_event("paid")))
    return got


def watch(ctx: task.OrchestrationContext, first):
    second = yield ctx.wait_for_external_event("paid")
    return [first, second]
"""

CONFIG = """
engine: {type: scheduler, early_messages: {poll: 30s}}
workflows: [early_flows]
brokers: {local: {type: local}}
sources:
  orders: {broker: local, topics: [orders], no_match: dead_letter}
routes:
  - name: start
    from: orders
    match: {type: start}
    schedule: {orchestration: order, instance_id: "order-{{ payload.id }}", input: payload.count}
  - name: paid
    from: orders
    match: {type: paid}
    raise_event:
      {instance_id: "order-{{ payload.id }}", name: paid, data: payload.number, on_missing: {wait: 10m}}
  - name: stop
    from: orders
    match: {type: stop}
    terminate: {instance_id: "order-{{ payload.id }}", output: "'stopped'", on_missing: {wait: 10m}}
  - name: heard
    from: orders
    match: {type: heard}
    raise_event:
      instance_id: "watch-{{ payload.id }}"
      name: paid
      data: payload.number
      on_missing: {start: watch, input: "'begun by ' + payload.id"}
"""


@pytest.fixture
def bridge(tmp_path: Path) -> Iterator[LocalBridge]:
    (tmp_path / "early_flows.py").write_text(FLOWS)
    (tmp_path / "bridge.yaml").write_text(CONFIG)
    with LocalBridge(tmp_path / "bridge.yaml") as local:
        yield local


def paid(bridge: LocalBridge, *numbers: int, id_: str = "1") -> None:
    for number in numbers:
        bridge.publish("orders", {"id": id_, "number": number}, type="paid", key=id_, id=f"p-{number}")


def test_they_wait_and_are_delivered_in_order_when_the_bridge_starts_the_instance(bridge: LocalBridge) -> None:
    paid(bridge, 1, 2)
    assert bridge.outcomes("orders")["early"] == 2
    bridge.publish("orders", {"id": "1", "count": 3}, type="start", key="1")
    paid(bridge, 3)
    assert bridge.result("order-1") == [1, 2, 3]


def test_a_repeat_is_dropped_while_it_waits_and_after_it_was_delivered(bridge: LocalBridge) -> None:
    paid(bridge, 1, 1)
    bridge.publish("orders", {"id": "1", "count": 2}, type="start", key="1")
    paid(bridge, 1)
    assert bridge.outcomes("orders")["duplicate"] == 1
    paid(bridge, 2)
    assert bridge.result("order-1") == [1, 2]


def test_a_start_that_nobody_told_of_is_noticed_within_the_poll(bridge: LocalBridge) -> None:
    paid(bridge, 1)
    bridge.start("order", 1, "order-1")
    bridge.advance(seconds=29)
    assert bridge.status("order-1") == "RUNNING"
    bridge.advance(seconds=2)
    assert bridge.result("order-1") == [1]


def test_in_the_end_they_are_dead_lettered(bridge: LocalBridge) -> None:
    paid(bridge, 1)
    bridge.advance(minutes=9, seconds=59)
    assert bridge.entity(EARLY_MESSAGES, target_key("order-1"))
    bridge.advance(seconds=2)
    bridge.publish("orders", {"id": "1", "count": 1}, type="start", key="1")
    assert bridge.status("order-1") == "RUNNING"
    assert "items" not in bridge.entity(EARLY_MESSAGES, target_key("order-1"))
    # Only the refused message is remembered: its sender may not have seen the answer yet
    bridge.advance(minutes=6)
    assert bridge.entity(EARLY_MESSAGES, target_key("order-1")) is None


def test_other_verbs_wait_too(bridge: LocalBridge) -> None:
    bridge.publish("orders", {"id": "1"}, type="stop", key="1")
    bridge.publish("orders", {"id": "1", "count": 1}, type="start", key="1")
    assert bridge.status("order-1") == "TERMINATED"


def test_a_missing_instance_can_be_started(bridge: LocalBridge) -> None:
    bridge.publish("orders", {"id": "1", "number": 7}, type="heard", key="1")
    assert bridge.result("watch-1") == ["begun by 1", 7]
    assert bridge.outcomes("orders")["executed"] == 1


def test_nothing_ticks_for_ever(bridge: LocalBridge) -> None:
    paid(bridge, 1)
    bridge.publish("orders", {"id": "1", "count": 1}, type="start", key="1")
    bridge.advance(hours=1)
    (engine,) = bridge._engines.values()
    assert engine.backend.next_due() is None
