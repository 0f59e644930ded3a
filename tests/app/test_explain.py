"""Explanation of a message for every possible outcome."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bridge.app.explain import explain
from bridge.app.messages.reading import MessageOptions, build
from bridge.config.source import Loaded
from bridge.core.message import Message
from bridge.core.states import Outcome


def event(type_: str, data: Any) -> Message:
    return build(json.dumps(data).encode(), "cloudevents", MessageOptions(type_, id="7", key="k"), "x")


def test_a_message_with_a_route(loaded: Loaded) -> None:
    answer = explain(loaded, "orders", event("greeting.asked", {"name": "ada"}))
    assert (answer.outcome, answer.routes, answer.reason) == (Outcome.EXECUTED, ("greet",), None)
    received = answer.to_dict()
    assert received["steps"] == [
        {
            "route": "greet",
            "engine": "default",
            "command": {
                "type": "ScheduleOrchestration", "orchestration": "greet", "instance_id": "greet-ada", "input": "ada",
                "version": None, "tags": {}, "start_at": None, "delay": None, "on_existing": "ignore",
                "event": None, "on_finished": None,
            },
        }
    ]  # fmt: skip
    assert [(rule["route"], rule["verdict"], rule["condition"], rule["when"]) for rule in received["rules"]] == [
        ("greet", "matched", "payload.name != ''", True),
        ("nobody", "not considered", None, None),
        ("go", "not considered", None, None),
    ]
    assert (received["envelope"]["type"], received["envelope"]["key"], received["envelope"]["topic"]) == (
        "greeting.asked", "k", "orders",
    )  # fmt: skip
    json.dumps(received)


def test_a_message_that_a_rule_ignores(loaded: Loaded) -> None:
    answer = explain(loaded, "orders", event("greeting.asked", {"name": ""}))
    assert (answer.outcome, answer.routes) == (Outcome.IGNORED, ("nobody",))


def test_a_message_that_no_rule_wants(loaded: Loaded) -> None:
    answer = explain(loaded, "orders", event("else", {}))
    assert (answer.outcome, answer.routes, answer.reason) == (Outcome.DEAD_LETTERED, (), "no_route")
    ignored = explain(loaded, "plain", Message(b'{"kind": "else"}'))
    assert (ignored.outcome, ignored.routes, ignored.reason) == (Outcome.IGNORED, (), None)


def test_a_condition_that_fails(loaded: Loaded) -> None:
    answer = explain(loaded, "orders", event("greeting.asked", {}))
    assert (answer.outcome, answer.reason) == (Outcome.DEAD_LETTERED, "expression_error")
    assert answer.explanation is not None
    assert answer.explanation.rules[0].verdict == "when failed"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"{broken", "decode_error"),
        (b"", "decode_error"),
        (b"[" * 1000, "payload_too_deep"),
        (b"\xff", "decode_error"),
        (b'{"specversion": "1.0"}', "decode_error"),
    ],
)
def test_a_message_that_cannot_be_decoded(loaded: Loaded, body: bytes, reason: str) -> None:
    answer = explain(loaded, "orders", Message(body))
    assert (answer.outcome, answer.reason, answer.envelope) == (Outcome.DEAD_LETTERED, reason, None)
    assert answer.detail
    assert json.loads(json.dumps(answer.to_dict()))["rules"] == []


def test_attributes_of_the_source_are_read(loaded: Loaded) -> None:
    answer = explain(loaded, "plain", Message(b'{"kind": "go", "id": 5}'))
    assert answer.routes == ("go",)
    assert answer.to_dict()["steps"][0]["command"]["instance_id"] == "waits-5"


def test_bytes_have_a_json_form(loaded: Loaded) -> None:
    message = build(b"\xff\x00", "cloudevents", MessageOptions("greeting.asked"), "x")
    received = explain(loaded, "orders", message).to_dict()
    assert json.loads(json.dumps(received))["envelope"]["data"] == {"base64": "/wA="}


def test_an_unknown_source(loaded: Loaded) -> None:
    with pytest.raises(LookupError, match="there is no source 'order'; did you mean 'orders'"):
        explain(loaded, "order", Message(b""))
