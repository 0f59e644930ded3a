"""Workflows whose inputs are dataclasses, named tuples and pydantic models, started by messages."""

from __future__ import annotations

import json
from pathlib import Path

from tests.kit.processes import DaemonProcess, bridge

KINDS = """
from dataclasses import dataclass
from typing import NamedTuple

from durabletask import entities, task
from pydantic import BaseModel


@dataclass
class Parcel:
    id: str
    weight: float


class Point(NamedTuple):
    x: int
    y: int


class Order(BaseModel):
    id: str
    quantity: int


def with_dataclass(ctx: task.OrchestrationContext, parcel: Parcel):
    return (yield ctx.call_activity(weigh, input=parcel))


def weigh(ctx: task.ActivityContext, parcel: Parcel) -> str:
    return f"{type(parcel).__name__} {parcel.weight}"


def with_named_tuple(ctx: task.OrchestrationContext, point: Point):
    return (yield ctx.call_activity(plot, input=point))


def plot(ctx: task.ActivityContext, point: Point) -> str:
    return f"{type(point).__name__} {point.x + point.y}"


def with_model(ctx: task.OrchestrationContext, order: Order):
    doubled = yield ctx.call_activity(double, input=order, return_type=Order)
    return f"{type(order).__name__} {type(doubled).__name__} {doubled.quantity}"


def double(ctx: task.ActivityContext, order: Order) -> Order:
    return order.model_copy(update={"quantity": order.quantity * 2})


class Counter(entities.DurableEntity):
    def add(self, number: int) -> int:
        total = self.get_state(int, 0) + number
        self.set_state(total)
        return total
"""

CONFIG = """
engine: {type: embedded}
workflows: [kinds]
brokers: {local: {type: local}}
sources: {things: {broker: local, topics: [things], codec: json, no_match: dead_letter}}
routes:
  - {name: d, from: things, match: {payload.kind: d}, continue: true, schedule: {orchestration: with_dataclass,
     instance_id: "d-{{ payload.id }}", input: "{'id': payload.id, 'weight': payload.weight}"}}
  - {name: n, from: things, match: {payload.kind: d}, continue: true, schedule: {orchestration: with_named_tuple,
     instance_id: "n-{{ payload.id }}", input: payload.at}}
  - {name: c, from: things, match: {payload.kind: d}, signal_entity: {entity: counter, key: c, operation: add,
     input: payload.at.x}}
  - {name: p, from: things, match: {payload.kind: p}, schedule: {orchestration: with_model,
     instance_id: "p-{{ payload.id }}", input: payload.order}}
ops: {http: {port: 0}}
"""


def output(directory: Path, instance: str) -> object:
    waited = json.loads(bridge("instances", "wait", instance, "--json", cwd=directory, expect=None))
    return waited["output"] if waited["status"] == "COMPLETED" else waited["failure"]


def test_inputs_arrive_as_what_they_are_annotated_with(tmp_path: Path) -> None:
    (tmp_path / "kinds.py").write_text(KINDS)
    (tmp_path / "bridge.yaml").write_text(CONFIG)
    messages = [
        {"kind": "d", "id": "1", "weight": 2.5, "at": {"x": 3, "y": 4}},
        {"kind": "p", "id": "1", "order": {"id": "o", "quantity": 21}},
        {"kind": "p", "id": "2", "order": {"id": "o", "quantity": "many"}},
    ]
    with DaemonProcess(tmp_path):
        lines = "".join(json.dumps({"body": message}) + "\n" for message in messages)
        bridge("publish", "things", "--jsonl", "-", cwd=tmp_path, text=lines)
        assert output(tmp_path, "d-1") == "Parcel 2.5"
        assert output(tmp_path, "n-1") == "Point 7"
        assert output(tmp_path, "p-1") == "Order Order 42"
        assert "does not fit Order: quantity" in str(output(tmp_path, "p-2"))
        entity = json.loads(bridge("entities", "show", "counter@c", "--json", cwd=tmp_path))
        assert entity["state"] == 3
