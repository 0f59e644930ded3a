"""SIGKILL of daemon and worker while messages wait: each is delivered once and in order, or dead-lettered."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest

from bridge.core.message import Message
from tests.acceptance.broker import Log
from tests.kit.processes import DaemonProcess, bridge
from tests.kit.waiting import eventually_blocking

FLOWS = """
from bridge.workflow import wait_for_message
from durabletask import task


def collect(ctx: task.OrchestrationContext, order):
    got = []
    while len(got) < order["count"]:
        received = yield from wait_for_message(ctx, "paid")
        got.append(received.data["number"])
    return got
"""

CONFIG = """
engine: {type: embedded, path: engine}
workflows: [killed_flows]
brokers: {local: {type: local, path: broker}}
sources:
  orders:
    broker: local
    topics: [orders]
    codec: json
    no_match: dead_letter
    attributes: {type: "headers['type']"}
routes:
  - name: start
    from: orders
    match: {type: start}
    schedule: {orchestration: collect, instance_id: "order-{{ payload.id }}"}
  - name: paid
    from: orders
    match: {type: paid}
    raise_event: {instance_id: "order-{{ payload.id }}", name: paid, data: payload, on_missing: {wait: 10m}}
  - name: stray
    from: orders
    match: {type: stray}
    raise_event: {instance_id: "stray-{{ payload.id }}", name: paid, data: payload, on_missing: {wait: 2s}}
ops: {http: {port: 0}}
"""

ORDERS, EVENTS, KILLS = 40, 4, 6


def message(kind: str, order: int, **more: int) -> Message:
    body = json.dumps({"id": str(order), **more}).encode()
    return Message(body, str(order).encode(), (("type", kind.encode()),))


def outputs(directory: Path) -> dict[str, object]:
    """Return the output of every order; None while the order waits."""
    listed = json.loads(bridge("instances", "list", "--prefix", "order-", "--limit", "0", "--json", cwd=directory))
    return {each["instance_id"]: each["output"] for each in listed}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("apart", [False, True], ids=["one process", "intake and worker apart"])
def test_killed_while_messages_wait(tmp_path: Path, apart: bool) -> None:
    rng = random.Random(11)
    (tmp_path / "killed_flows.py").write_text(FLOWS)
    (tmp_path / "bridge.yaml").write_text(CONFIG)
    early = [message("paid", order, number=number) for number in range(EVENTS - 1) for order in range(ORDERS)]
    late = [
        each
        for order in range(ORDERS)
        for each in (message("start", order, count=EVENTS), message("paid", order, number=EVENTS - 1))
    ]
    strays = [message("stray", order, number=0) for order in range(ORDERS)]
    stream = [*early, *strays, *late]
    with Log(tmp_path / "broker") as log:
        for turn in range(KILLS):
            log.publish("orders", *stream[turn * len(stream) // KILLS : (turn + 1) * len(stream) // KILLS])
            with DaemonProcess(tmp_path, *(["--no-worker"] if apart else [])) as daemon:
                if apart:
                    with DaemonProcess(tmp_path, command="worker") as worker:
                        time.sleep(rng.random() * 0.4)
                        (worker if turn % 2 else daemon).kill()
                        time.sleep(rng.random() * 0.2)
                else:
                    time.sleep(rng.random() * 0.5)
                daemon.kill()
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait(lambda: daemon.lag() == 0, "all settled")
            wanted = {f"order-{order}": list(range(EVENTS)) for order in range(ORDERS)}
            eventually_blocking(lambda: outputs(tmp_path) == wanted, lambda: str(outputs(tmp_path)), poll=0.2)
            dead_letters: dict[Any, Any] = {}
            while len(dead_letters) < ORDERS:
                for dead_letter in log.read("orders.dlq", ORDERS - len(dead_letters)):
                    headers = dict(dead_letter.headers)
                    dead_letters[headers["bridge.partition"], headers["bridge.offset"]] = (
                        headers["bridge.reason"],
                        dead_letter,
                    )
            assert {reason for reason, _ in dead_letters.values()} == {b"early_expired"}
            assert {dead_letter.body for _, dead_letter in dead_letters.values()} == {stray.body for stray in strays}
            assert json.loads(bridge("early", "list", "--json", cwd=tmp_path)) == []
