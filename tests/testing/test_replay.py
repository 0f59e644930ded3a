"""Replay tests: decisions that a change of the code must preserve."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from durabletask import task

from bridge.engines.recording import UnreadableRecording
from bridge.testing import LocalBridge, Recording, ReplayMismatch, replay
from workflows.patterns.booking import booking
from workflows.patterns.chaining import Invoice
from workflows.patterns.eternal import meter
from workflows.patterns.fan_out import pick_wave
from workflows.patterns.transfer import transfer

CONFIG = Path(__file__).resolve().parents[2] / "config" / "patterns.yaml"


@pytest.fixture(scope="module")
def bridge() -> Iterator[LocalBridge]:
    with LocalBridge(CONFIG, environ={}) as running:
        yield running


@pytest.fixture(scope="module")
def unpaid(bridge: LocalBridge) -> Recording:
    bridge.publish("patterns", {"number": "r1", "city": "Oslo"}, type="booking.requested")
    bridge.advance(minutes=20)
    assert bridge.result("booking-r1")["status"] == "compensated"
    return bridge.recording("booking-r1")


def test_unchanged_code_decides_the_same(unpaid: Recording) -> None:
    replay(unpaid, booking)


def test_a_recording_survives_its_file(unpaid: Recording, tmp_path: Path) -> None:
    path = tmp_path / "unpaid.json"
    path.write_text(json.dumps(unpaid.to_json()))
    assert Recording.from_json(path.read_bytes()) == unpaid
    replay(path, booking)


def test_entities_children_and_generations(bridge: LocalBridge) -> None:
    bridge.publish("patterns", {"account": "ra", "amount": 100}, type="purse.paid_in")
    wanted = {"number": "r1", "source": "ra", "destination": "rb", "amount": 40}
    bridge.publish("patterns", wanted, type="transfer.requested")
    bridge.publish("patterns", {"number": "r1", "orders": [{"order": "1", "lines": ["tea"]}]}, type="wave.released")
    bridge.publish("patterns", {"number": "r1"}, type="meter.installed")
    for value in range(60):
        bridge.publish("patterns", {"number": "r1", "value": value}, type="meter.read")
    replay(bridge.recording("transfer-r1"), transfer)
    replay(bridge.recording("wave-r1"), pick_wave)
    replay(bridge.recording("meter-r1"), meter)


Flow = Callable[..., Any]


def recorded(bridge: LocalBridge) -> Recording:
    """History of `invoice`, whose steps are easy to repeat."""
    lines = [{"text": "tea", "price": 250}]
    if "invoice-r1" not in seen:
        bridge.publish("patterns", {"number": "r1", "lines": lines}, type="invoice.requested")
        seen.add("invoice-r1")
    return bridge.recording("invoice-r1")


seen: set[str] = set()


def changed(*steps: Callable[[task.OrchestrationContext, Any], Any]) -> Flow:
    def invoice(ctx: task.OrchestrationContext, request: Invoice) -> Any:
        value: Any = request
        for step in steps:
            value = yield step(ctx, value)
        return value

    return invoice


def check(ctx: task.OrchestrationContext, value: Any) -> Any:
    return ctx.call_activity("check_invoice", input=value)


def add(ctx: task.OrchestrationContext, value: Any) -> Any:
    return ctx.call_activity("add_up", input=value)


def other_input(ctx: task.OrchestrationContext, value: Any) -> Any:
    return ctx.call_activity("add_up", input={"number": "another"})


def sleep(ctx: task.OrchestrationContext, value: Any) -> Any:
    return ctx.create_timer(timedelta(seconds=1))


@pytest.mark.parametrize(
    ("flow", "received"),
    [
        (changed(add, check), "turn 1 of"),
        (changed(sleep, check), "now:      1 timer"),
        (changed(check, other_input), "another"),
        (changed(check), "now:      end"),
    ],
    ids=["order", "timer", "input", "end"],
)
def test_a_change_that_would_break_running_instances_is_told(bridge: LocalBridge, flow: Flow, received: str) -> None:
    with pytest.raises(ReplayMismatch, match=received):
        replay(recorded(bridge), flow)


def test_a_running_instance_may_be_recorded(bridge: LocalBridge) -> None:
    bridge.publish("patterns", {"number": "r2", "city": "Oslo"}, type="booking.requested")
    recording = bridge.recording("booking-r2")
    assert bridge.status("booking-r2") == "RUNNING"
    replay(recording, booking)


def test_a_recording_of_something_else(unpaid: Recording) -> None:
    with pytest.raises(LookupError, match="booking"):
        replay(unpaid, transfer)
    replay(unpaid, {"transfer": transfer, "booking": booking})


@pytest.mark.parametrize(
    ("text", "received"),
    [
        ("{", "not a recorded history"),
        ("[]", "not a recorded history"),
        ('{"format": "x", "version": 1}', "its format is 'x'"),
        ('{"format": "durable-bridge.history", "version": 2}', "its version is 2"),
        ('{"format": "durable-bridge.history", "version": 1, "events": [{"x": 1}]}', "not a recorded history"),
    ],
)
def test_what_is_no_recording(text: str, received: str) -> None:
    with pytest.raises(UnreadableRecording, match=received):
        Recording.from_json(text)


def waits(ctx: task.OrchestrationContext, _: Any) -> Any:
    yield ctx.create_timer(timedelta(days=1))
    yield ctx.wait_for_external_event("go")


def ends(ctx: task.OrchestrationContext, _: Any) -> Any:
    yield ctx.create_timer(timedelta(days=1))
    return "early"


def breaks(ctx: task.OrchestrationContext, _: Any) -> Any:
    yield ctx.create_timer(timedelta(days=1))
    raise NameError("typo")


def goes_on(ctx: task.OrchestrationContext, _: Any) -> Any:
    yield ctx.create_timer(timedelta(days=1))
    yield ctx.create_timer(timedelta(days=1))


def test_a_running_instance_that_would_end_now_is_a_mismatch() -> None:
    """Later decisions may not be recorded yet, but the instance certainly continued to wait."""
    events = [
        {"eventId": -1, "timestamp": "2031-05-01T12:00:00Z", "orchestratorStarted": {}},
        {"eventId": -1, "executionStarted": {"name": "flow"}},
        {"eventId": 1, "timerCreated": {"fireAt": "2031-05-02T12:00:00Z"}},
        {"eventId": -1, "timestamp": "2031-05-02T12:00:00Z", "orchestratorStarted": {}},
        {"eventId": -1, "timerFired": {"timerId": 1, "fireAt": "2031-05-02T12:00:00Z"}},
    ]
    text = {"format": "durable-bridge.history", "version": 1, "instance_id": "a", "orchestration": "flow"}
    recording = Recording.from_json(json.dumps({**text, "events": events}))
    for unbroken in (waits, goes_on):
        replay(recording, {"flow": unbroken})
    for broken, received in ((ends, "early"), (breaks, "typo")):
        with pytest.raises(ReplayMismatch, match=received):
            replay(recording, {"flow": broken})
