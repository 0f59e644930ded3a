"""Upcasts in a running daemon."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.kit.processes import DaemonProcess, bridge
from tests.routing.test_upcast import CONFIG, NEW, event, rules

__all__ = ["rules"]


@pytest.mark.usefixtures("rules")
def test_a_rule_gets_the_newest_form(tmp_path: Path) -> None:
    (tmp_path / "bridge.yaml").write_text(CONFIG + "ops: {http: {port: 0}}\n")
    body = event({"orderId": "o-1", "amount": 500}, "/order/v1").body or b""
    headers = {"content-type": "application/cloudevents+json"}
    line: dict[str, Any] = {"topic": "orders", "body": body.decode(), "headers": headers}
    with DaemonProcess(tmp_path) as daemon:
        bridge("publish", "orders", "--jsonl", "-", cwd=tmp_path, text=json.dumps(line) + "\n")
        daemon.wait(lambda: daemon.settled() == 1, "the message")
        shown = json.loads(bridge("instances", "show", "order-o-1", "--json", cwd=tmp_path))
    assert shown["input"] == NEW
