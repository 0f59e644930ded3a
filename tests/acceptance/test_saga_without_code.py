"""Saga of the configuration in the real daemon: a service that answers over topics, kills, and changed YAML."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.kit.processes import DaemonProcess, bridge

CONFIG = """
engine: {type: embedded}
brokers: {local: {type: local}}
targets:
  stock: {broker: local, topic: stock}
  results: {broker: local, topic: results}
sources:
  orders: {broker: local, topics: [orders], codec: json, no_match: dead_letter}
  answers: {broker: local, topics: [answers], no_match: dead_letter}
sagas:
  order:
    replies: answers
    publish_outcome: results
    steps:
      - name: goods
        command: {target: stock, type: stock.reserve, data: "{'sku': input.sku}"}
        timeout: 5m
        compensation: {target: stock, type: stock.release, data: "{'id': reply.id, 'version': 1}"}
      - name: payment
        command: {target: stock, type: payment.take, data: "{'amount': input.amount}"}
        refused: reply.status == 'declined'
        detail: "{{ reply.why }}"
        timeout: 5m
routes:
  - {name: start, from: orders, schedule: {saga: order, instance_id: "order-{{ payload.id }}"}}
  - {name: answers, from: answers, reply: {}}
ops: {http: {port: 0}}
"""

SERVICE = """
engine: {type: embedded, path: .service/engine}
workflows: [service]
brokers: {local: {type: local}}
targets:
  answers: {broker: local, topic: answers}
sources:
  requests: {broker: local, topics: [stock], group: service, no_match: dead_letter}
routes:
  - name: served
    from: requests
    match: {type: [stock.reserve, payment.take]}
    schedule:
      orchestration: serve
      instance_id: "serve-{{ event.id }}"
      input: "{'type': event.type, 'to': event.headers['correlation-id'], 'data': payload}"
  - name: noted
    from: requests
    schedule: {orchestration: note, instance_id: "note-{{ event.id }}", input: "{'type': event.type, 'data': payload}"}
ops: {http: {port: 0}}
"""

CODE = """
from bridge.workflow import publish
from durabletask import task


def serve(ctx: task.OrchestrationContext, asked: dict):
    answer = {"id": "r-" + asked["data"]["sku"]} if asked["type"] == "stock.reserve" else {"status": "taken"}
    if asked["data"].get("amount", 0) > 100:
        answer = {"status": "declined", "why": "too much"}
    yield publish(ctx, "answers", answer, type="answer", headers={"correlation-id": asked["to"]})


def note(ctx: task.OrchestrationContext, noted: dict):
    return noted
    yield
"""


def order(number: str, amount: int, cwd: Path) -> None:
    bridge("publish", "orders", "--data", json.dumps({"id": number, "sku": "tea", "amount": amount}), cwd=cwd)


def shown(number: str, cwd: Path, verb: str = "wait") -> dict[str, Any]:
    output: dict[str, Any] = json.loads(bridge("instances", verb, f"order-{number}", "--json", cwd=cwd))
    return output


def test_a_saga_is_run_by_what_it_was_started_with(tmp_path: Path) -> None:
    (tmp_path / "bridge.yaml").write_text(CONFIG)
    (tmp_path / "service.yaml").write_text(SERVICE)
    (tmp_path / "service.py").write_text(CODE)
    with DaemonProcess(tmp_path, "-c", "service.yaml") as service, DaemonProcess(tmp_path, "-c", "bridge.yaml"):
        order("1", 10, tmp_path)
        order("2", 1000, tmp_path)
        first, second = (shown(number, tmp_path)["output"] for number in ("1", "2"))
        assert (first["status"], first["completed"]) == ("completed", ["goods", "payment"])
        assert (second["status"], second["reason"], second["detail"]) == ("compensated", "refused", "too much")
        service.kill()

    # Without an answer the saga waits in its first step while daemon and configuration change.
    with DaemonProcess(tmp_path, "-c", "bridge.yaml") as daemon:
        order("3", 1000, tmp_path)
        daemon.wait(lambda: daemon.lag() == 0 and daemon.metrics("bridge_published_total").get('{target="stock"}') == 1,
                    "asked")  # fmt: skip
        assert "[>] goods    running" in bridge("instances", "show", "order-3", cwd=tmp_path)
        daemon.kill()
    changed = CONFIG.replace("'version': 1", "'version': 2").replace(
        "    refused: reply.status == 'declined'\n    ", ""
    )
    changed = changed.replace('        detail: "{{ reply.why }}"\n', "")
    assert changed.count("declined") == 0
    (tmp_path / "bridge.yaml").write_text(changed)
    with DaemonProcess(tmp_path, "-c", "service.yaml"), DaemonProcess(tmp_path, "-c", "bridge.yaml"):
        third = shown("3", tmp_path)["output"]
        assert (third["status"], third["reason"]) == ("compensated", "refused")
        order("4", 1000, tmp_path)
        assert shown("4", tmp_path)["output"]["status"] == "completed"

        def released() -> list[Any]:
            notes = json.loads(
                bridge("instances", "list", "-c", "service.yaml", "--prefix", "note-", "--json", cwd=tmp_path)
            )
            ids = [one["instance_id"] for one in notes]
            found = [
                json.loads(bridge("instances", "show", one, "-c", "service.yaml", "--json", cwd=tmp_path))["output"]
                for one in ids
            ]
            return [one["data"] for one in found if one]

        with_both = [{"id": "r-tea", "version": 1}, {"id": "r-tea", "version": 1}]
        end = 50
        while released() != with_both and end:
            end -= 1
        assert released() == with_both
