"""Exported histories replayed: unchanged code decides the same, and the first difference of changed code is
reported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bridge.engines.recording import Recording
from bridge.testing import ReplayMismatch, replay
from tests.kit.processes import DaemonProcess, bridge

CONFIG = """
engine: {type: embedded}
workflows: [tours]
brokers: {local: {type: local}}
targets: {results: {broker: local, topic: results}}
sources: {tours: {broker: local, topics: [tours], no_match: dead_letter}}
routes:
  - name: asked
    from: tours
    match: {type: tour.asked}
    schedule: {orchestration: tour, instance_id: "tour-{{ payload.id }}", input: payload}
  - name: noted
    from: tours
    raise_event: {instance_id: "tour-{{ payload.id }}", name: "{{ event.type }}", data: payload}
ops: {http: {port: 0}}
"""

FLOWS = """
from datetime import timedelta

from bridge.workflow import Child, Entity, Saga, Step, StepInput, continue_as_new, publish, wait_for_message
from durabletask import task
from durabletask.entities import EntityInstanceId

AGAIN = task.RetryPolicy(first_retry_interval=timedelta(milliseconds=10), max_number_of_attempts=2)


class Seats(Entity):
    def take(self, number: int) -> int:
        self.set_state(self.get_state(int, 0) + number)
        return self.get_state(int)


def book(ctx: task.ActivityContext, call: StepInput) -> str:
    return f"booked {call.input}"


def pay(ctx: task.ActivityContext, call: StepInput) -> str:
    raise OSError("the bank is closed")


def undo(ctx: task.ActivityContext, call: dict) -> None:
    pass


def hotel(ctx: task.OrchestrationContext, call: StepInput):
    return (yield ctx.call_activity("book", input=StepInput(call.key, "room")))


def tour(ctx: task.OrchestrationContext, asked: dict):
    if "confirmed" not in asked:
        noted = yield from wait_for_message(ctx, "tour.confirmed", timeout=timedelta(hours=1))
        return continue_as_new(ctx, {**asked, "confirmed": noted.data["by"]})
    taken = yield ctx.call_entity(EntityInstanceId("seats", asked["id"]), "take", asked["seats"])
    saga = Saga(ctx, "tour", publish_outcome="results")

    def body():
        yield from saga.step(Step("flight", "book", f"{taken} seats", compensation="undo"))
        yield from saga.step(Step("hotel", Child(hotel), asked["id"], compensation="undo"))
        yield from saga.wait_for_event("tour.paid", timeout=timedelta(hours=2))
        yield from saga.step(Step("payment", "pay", asked["seats"], compensation="undo", retry=AGAIN))

    outcome = yield from saga.run(body())
    return outcome.status
"""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files with a waiting tour, an undone tour, and the child of the undone tour."""
    directory = tmp_path_factory.mktemp("tours")
    (directory / "bridge.yaml").write_text(CONFIG)
    (directory / "tours.py").write_text(FLOWS)

    def publish(kind: str, **data: Any) -> None:
        bridge("publish", "tours", "--type", kind, "--key", data["id"], "--data", json.dumps(data), cwd=directory)

    def export(instance_id: str, name: str) -> None:
        bridge("instances", "export", instance_id, "-o", name, cwd=directory)

    def reached(daemon: DaemonProcess, step: str) -> None:
        def there() -> bool:
            received = json.loads(bridge("instances", "show", "tour-1", "--json", cwd=directory, expect=None) or "{}")
            return step in json.dumps(received)

        daemon.wait(there, step)

    with DaemonProcess(directory) as daemon:
        publish("tour.asked", id="1", seats=2)
        publish("tour.asked", id="2", seats=3)
        publish("tour.confirmed", id="1", by="ada")
        reached(daemon, "hotel")
        daemon.kill()
    with DaemonProcess(directory):
        publish("tour.paid", id="1")
        bridge("instances", "wait", "tour-1", "--timeout", "60s", cwd=directory)
        export("tour-1", "undone.json")
        export("tour-2", "waiting.json")
        (child,) = {
            event.subOrchestrationInstanceCreated.instanceId
            for event in Recording.from_json((directory / "undone.json").read_bytes()).events
            if event.HasField("subOrchestrationInstanceCreated")
        }
        export(child, "child.json")
    return directory


def flows(code: str = FLOWS) -> dict[str, Any]:
    """Return the orchestrators of the given code."""
    space: dict[str, Any] = {"__name__": "tours"}
    exec(code, space)
    return {name: space[name] for name in ("tour", "hotel")}


@pytest.mark.parametrize("name", ["undone", "waiting", "child"])
def test_unchanged_code_decides_the_same(recorded: Path, name: str) -> None:
    replay(recorded / f"{name}.json", flows())


def test_everything_is_in_it(recorded: Path) -> None:
    events = Recording.from_json((recorded / "undone.json").read_bytes()).events
    assert {
        "entityOperationCalled", "subOrchestrationInstanceCreated", "timerCreated", "timerFired", "eventRaised",
        "taskScheduled", "taskFailed", "executionCompleted",
    } <= {event.WhichOneof("eventType") for event in events}  # fmt: skip


PAYMENT = """        yield from saga.step(Step("payment", "pay", asked["seats"], compensation="undo", retry=AGAIN))\n"""
FLIGHT = """        yield from saga.step(Step("flight", "book", f"{taken} seats", compensation="undo"))\n"""
HOTEL = """        yield from saga.step(Step("hotel", Child(hotel), asked["id"], compensation="undo"))\n"""
INSURANCE = """        yield from saga.step(Step("insurance", "insure", asked["id"]))\n"""


@pytest.mark.parametrize(
    ("name", "before", "after", "recorded_as", "now"),
    [
        ("undone", FLIGHT, FLIGHT + INSURANCE, "sub-orchestration hotel", "activity insure"),
        ("undone", HOTEL, "", "sub-orchestration hotel", "timer"),
        ("undone", FLIGHT + HOTEL, HOTEL + FLIGHT, "activity book", "sub-orchestration hotel"),
        ("undone", '{taken} seats"', '{taken} places"', '"2 seats"', '"2 places"'),
        ("undone", '"take", asked["seats"]', '"take", 1', "entityOperationCalled @seats@1 take 2", "@seats@1 take 1"),
        ("undone", 'Step("payment"', 'Step("paying"', "/payment", "/paying"),
        ("undone", "number_of_attempts=2", "number_of_attempts=1", "timer", "activity undo"),
        ("undone", "milliseconds=10", "seconds=10", "timer", "timer"),
        ("undone", "hours=2", "hours=3", "timer", "timer"),
        ("undone", PAYMENT, "", "activity pay", "activity bridge.publish"),
        ("undone", "return outcome.status", "return outcome.reason", 'COMPLETED "compensated"', 'COMPLETED "failed"'),
        ("undone", 'asked["id"]), "take"', 'asked["ID"]), "take"', "entityOperationCalled", "KeyError: 'ID'"),
        ("waiting", "hours=1", "hours=4", "timer", "timer"),
        ("child", '"room"', '"suite"', '"room"', '"suite"'),
        ("child", '"book", input', '"keep", input', "activity book", "activity keep"),
    ],
)
def test_a_change_is_told_at_its_first_decision(
    recorded: Path, name: str, before: str, after: str, recorded_as: str, now: str
) -> None:
    assert before in FLOWS
    with pytest.raises(ReplayMismatch) as caught:
        replay(recorded / f"{name}.json", flows(FLOWS.replace(before, after, 1)))
    head, was, is_, *_ = str(caught.value).splitlines()
    assert "decides differently" in head
    assert was.startswith("  recorded: ")
    assert recorded_as in was
    assert is_.startswith("  now:      ")
    assert now in is_


def test_a_change_behind_what_was_recorded_is_none(recorded: Path) -> None:
    """A waiting instance continues with the new code."""
    replay(recorded / "waiting.json", flows(FLOWS.replace(FLIGHT, FLIGHT + INSURANCE)))
