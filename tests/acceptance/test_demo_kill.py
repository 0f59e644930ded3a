"""kill -9 of the daemon in the middle of the shop's stream: each message has its effect, each dead letter is there.

The engine is a process of its own here, so that it survives the kills as a durable one would.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from bridge.message import Message
from demo.generate import Line, load
from demo.observation import observe
from demo.oracle import expect
from demo.shop import CONFIG, body, overlay

from .broker import Log
from .daemon import Serve, bridge
from .sidecar import running

KILLS = 6


@pytest.mark.timeout(240)
def test_the_shop_survives_kills(tmp_path: Path) -> None:
    rng = random.Random(3)
    lines = load()
    expected = expect(lines)
    with running(tmp_path / "raised.jsonl") as sidecar, Log(tmp_path / "broker") as log:
        changes = overlay(tmp_path) | {"engine": {"type": "scheduler", "endpoint": f"http://127.0.0.1:{sidecar.port}"}}
        changes["sources"]["payments"]["retry"]["in_memory"] = "4s"
        (tmp_path / "overlay.yaml").write_text(json.dumps(changes))
        config = ("-c", str(CONFIG), "--overlay", "overlay.yaml")
        for number in range(KILLS):
            part = lines[number * len(lines) // KILLS : (number + 1) * len(lines) // KILLS]
            half = len(part) // 2
            publish(log, part[:half])
            with Serve(tmp_path, *config, "--no-worker") as daemon:
                publish(log, part[half:])
                time.sleep(rng.random() * 0.2)
                daemon.kill()
        with Serve(tmp_path, *config, "--no-worker") as daemon:
            daemon.wait(lambda: daemon.lag() == 0, "all settled")
        listed = bridge("instances", "list", "--limit", "0", "--json", *config, cwd=tmp_path)
        started = observe("", json.loads(listed))
        for what in ("orders", "returns", "parcels"):
            assert getattr(started, what).total() == getattr(expected, what).total(), what
        raised = [json.loads(line) for line in (tmp_path / "raised.jsonl").read_text().splitlines()]
        assert [event for event in to_raise(lines) if event not in raised] == []
        letters = Counter[tuple[str, str]]()
        for topic in {topic for topic, _ in expected.dead_letters}:
            count = sum(number for (other, _), number in expected.dead_letters.items() if other == topic)
            for letter in log.read(f"{topic}.dlq", count):
                letters[topic, dict(letter.headers)["bridge.reason"].decode()] += 1
        assert letters == expected.dead_letters


def publish(log: Log, lines: list[Line]) -> None:
    for line in lines:
        told = body(line)
        content = told["body"] if isinstance(told["body"], str) else json.dumps(told["body"])
        headers = tuple((name, value.encode()) for name, value in told["headers"].items())
        log.publish(line["topic"], Message(content.encode(), line["key"].encode(), headers))


def to_raise(lines: list[Line]) -> list[list[object]]:
    """Events that orders must have heard of: payments and shipments of those that were ordered."""
    events = [line["event"] for line in lines if "event" in line]
    # Refused are the unnamed and those that cost a word; of the rest only the free ones have no workflow
    ordered = {
        event["data"]["id"]
        for event in events
        if event["type"] == "order.created" and "id" in event["data"] and event["data"]["total"] not in (0, 0.0, "")
    }
    names = {"payment.captured": "payment", "payment.failed": "payment", "shipment.dispatched": "shipment",
             "shipment.delivered": "shipment", "shipment.lost": "shipment"}  # fmt: skip
    return [
        [f"order-{event['data']['order_id']}", names[event["type"]], event["data"]]
        for event in events
        if event["type"] in names and event["data"].get("order_id") in ordered
    ]
