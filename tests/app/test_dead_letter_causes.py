"""Dead letters name their route and a class of error that users know, also when a rule fails before its command."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kit.daemon import headers, running

FLOWS = """
from durabletask import task


def nothing(ctx: task.ActivityContext, _):
    return None
"""
CONFIG = """
sources: {orders: {broker: local, topics: [orders], codec: json, no_match: dead_letter}}
routes:
  - name: condition
    from: orders
    match: {key: condition}
    when: payload.amount > 5
    raise_event: {instance_id: x, name: go}
  - name: template
    from: orders
    match: {key: template}
    raise_event: {instance_id: "order-{{ payload.id }}", name: go}
  - name: each
    from: orders
    match: {key: each}
    for_each: payload.items
    raise_event: {instance_id: "order-{{ item.id }}", name: go}
  - name: command
    from: orders
    match: {key: command}
    raise_event: {instance_id: nobody, name: go, on_missing: dead_letter}
"""


@pytest.mark.parametrize(
    ("key", "data", "error"),
    [
        ("condition", {"id": 1}, "ExpressionError"),
        ("template", {"card": "4111"}, "ExpressionError"),
        ("each", {"items": [{"card": "4111"}]}, "ExpressionError"),
        ("command", {"id": 1}, "InstanceNotFound"),
    ],
)
async def test_a_failed_rule_is_named(tmp_path: Path, key: str, data: object, error: str) -> None:
    async with running(tmp_path, CONFIG, FLOWS) as it:
        await it.publish("orders", data, key)
        [dead] = await it.read("orders.dlq", 1)
    found = headers(dead)
    assert (found["bridge.route"], found["bridge.error"]) == (key, error)
    assert "4111" not in found["bridge.detail"]


async def test_a_message_without_a_route_names_none(tmp_path: Path) -> None:
    async with running(tmp_path, CONFIG, FLOWS) as it:
        await it.publish("orders", {}, "nothing")
        [dead] = await it.read("orders.dlq", 1)
    assert "bridge.route" not in headers(dead)
    assert headers(dead)["bridge.error"] == "NoRoute"
